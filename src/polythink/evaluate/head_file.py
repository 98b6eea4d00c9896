"""The similarity of attention heads as a record and as a file, heads.npz. Measured by `evaluate.heads`; without torch.

Axis legend: H heads.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from polythink.errors import UserError
from polythink.run.folder import os_errors, write_bytes

FILE = "heads.npz"
PLACES = {"encoder": "encoder", "decoder": "decoder", "cross": "decoder to encoder"}  # place -> heading


@dataclass(frozen=True)
class Heads:
    """One attention of one layer."""

    place: str  # a key of PLACES; "decoder" also in a model that has nothing else
    layer: int  # from 0
    similarity: np.ndarray  # (H, H)
    outputs: np.ndarray  # (H, H)
    entropy: np.ndarray  # (H,)


@dataclass(frozen=True)
class HeadAnalysis:
    """All attentions of a model, encoder first, in the order of layers."""

    attentions: tuple[Heads, ...]
    texts: int  # that were measured

    def at(self, place: str) -> list[Heads]:
        return [heads for heads in self.attentions if heads.place == place]

    @property
    def places(self) -> list[str]:
        return [place for place in PLACES if self.at(place)]


_ARRAYS = [f.name for f in fields(Heads)][2:]


def save(analysis: HeadAnalysis, path: str | Path) -> None:
    """Write all arrays as one .npz file."""
    arrays = {f"{h.place}/{h.layer}/{name}": getattr(h, name) for h in analysis.attentions for name in _ARRAYS}
    content = io.BytesIO()
    np.savez_compressed(content, texts=analysis.texts, **arrays)
    write_bytes(path, content.getvalue())


def load(path: str | Path) -> HeadAnalysis:
    """Read what `save` wrote; `UserError` for any other file."""
    try:
        with os_errors(path), np.load(path) as content:
            names = dict.fromkeys(tuple(key.split("/")[:2]) for key in content if "/" in key)
            arrays = {(p, layer): [content[f"{p}/{layer}/{name}"] for name in _ARRAYS] for p, layer in names}
            attentions = tuple(Heads(place, int(layer), *own) for (place, layer), own in arrays.items())
            return HeadAnalysis(attentions, int(content["texts"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no analysis of heads ({error}); delete it and run the evaluation again") from error
