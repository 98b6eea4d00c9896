"""A small tree that a self-check decodes: a prompt, some paths, and a join that reads all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from polythink.engine.backends.base import LocalBackend
from polythink.engine.step import StepBatch
from polythink.trace.layout import Layout, Piece, lay_out


def tree(prompt: list[int], paths: Sequence[list[int]], join: list[int], labels: Sequence[int] = (0, 0)) -> Layout:
    """A prompt, a block of these paths, and what follows their join.

    Labelled paths come with a join of too many paths, as if the model had been trained with single ones."""

    def piece(kind: str, tokens: list[int], block: int = -1, path: int = 0) -> Piece:
        return Piece(kind, tuple(tokens), (False,) * len(tokens), block, path, labels[path - 1] if path else 0)

    within = [piece("path", path, 0, number) for number, path in enumerate(paths, start=1)]
    pieces = [piece("prompt", prompt), *within, piece("summary", join, 0)]
    return lay_out(pieces, "structured", trained_paths=int(any(labels)))


def decoded_tree(backend: LocalBackend, layout: Layout) -> torch.Tensor:
    """Logits (T, V) of all tokens of the layout, run as the engine does it: prompt, then position by position."""
    prompt = int((layout.segment == 0).sum())
    position = layout.position[prompt:]
    waves = [np.arange(prompt), *(prompt + np.flatnonzero(position == p) for p in np.unique(position))]
    logits = torch.empty(0)
    with backend.hold():
        try:
            for segment, follows in enumerate(layout.follows):
                backend.open(0, segment, follows)
            for wave, slot in zip(waves, np.cumsum([0, *map(len, waves)]), strict=False):
                rows = backend.logits(_step(layout, wave, int(slot))).float()
                logits = rows.new_empty(len(layout), rows.shape[1]) if not slot else logits
                logits[torch.from_numpy(wave).to(rows.device)] = rows
        finally:
            backend.clear()
    return logits


def _step(layout: Layout, wave: np.ndarray, slot: int) -> StepBatch:
    """A step of some tokens of the layout, in row 0, from this slot on; the logits after every one are wanted."""
    segment = layout.segment[wave]
    labels, scales = np.array(layout.labels)[segment], np.array(layout.scales)[segment]
    return StepBatch.every(layout.tokens[wave], segment, layout.position[wave], 0, slot, labels, scales)
