"""How alike the heads of a model are: attention maps, their similarity and entropy, and what each head contributes.

EIT and PartialFormer both start from heads that degenerate into copies of each other. Measured here, for each attention
of each layer, averaged over the queries of a batch:

    similarity   1 - JS(A_i(t), A_j(t))   of the weights that heads i and j give to the keys of query t, in bits: 1 for
                 the same weights, 0 for no key in common (Clark et al. 2019, arXiv 1906.04341, section 6)
    entropy      H(A_i(t)) / log n(t)     n(t) keys to choose from: 1 for even weights, 0 for one key
    outputs      cos(c_i(t), c_j(t))      c_i = Z_i W_o,i, what head i adds to the output. Li et al. 2018 (arXiv
                 1810.10183) compare the Z_i themselves, but each has coordinates of its own; all c_i share one space

Z_i is whatever enters the output projection: in PartialFormer, behind the head's feed-forward layer and gate. Padding
and queries with a single key, where heads cannot differ, are left out.

Axis legend: B texts, H heads, T queries, S keys, D head size, d model width, N queries of all texts.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.run import make_requests
from polythink.models.batch import collate
from polythink.models.thoughts import KEYWORDS, forward_kwargs
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import Prompt
from polythink.run.folder import os_errors, write_bytes

FILE = "heads.npz"
INPUTS = ("input_ids", "attention_mask", "position_ids", "decoder_input_ids", "decoder_attention_mask", "labels")
INPUTS += KEYWORDS  # of models with thought embeddings or scaled queries
PLACES = {"encoder": "encoder", "decoder": "decoder", "cross": "decoder to encoder"}  # place -> heading


@dataclass(frozen=True)
class Heads:
    """One attention of one layer."""

    place: str  # a key of PLACES; "decoder" also in a model that has nothing else
    layer: int  # from 0
    maps: np.ndarray  # (H, T, S) weights in the batch's first text, without padding
    similarity: np.ndarray  # (H, H)
    outputs: np.ndarray  # (H, H)
    entropy: np.ndarray  # (H,)


@dataclass(frozen=True)
class HeadAnalysis:
    """All attentions of a model, encoder first, in the order of layers."""

    attentions: tuple[Heads, ...]
    texts: int  # B

    def at(self, place: str) -> list[Heads]:
        return [heads for heads in self.attentions if heads.place == place]

    @property
    def places(self) -> list[str]:
        return [place for place in PLACES if self.at(place)]


# ---- measuring ----


@torch.no_grad()
def analyse(model: Any, batch: Mapping[str, torch.Tensor]) -> HeadAnalysis:
    """Run a transformers model once over a batch and compare its heads.

    `batch` holds what the model's forward takes, of `INPUTS`: for an encoder-decoder with `labels` (-100 is no query)
    or `decoder_input_ids`; for a decoder `attention_mask` may be (B, 1, T, T) bool. Other keys are not looked at.
    Attention is formed eagerly for the time of the call. `UserError` for a model that gives no attention maps.
    """
    inputs = {name: batch[name].to(model.device) for name in INPUTS if batch.get(name) is not None}
    with _watched(model) as entered:
        shown = {**inputs, "attention_mask": _additive(inputs.get("attention_mask"), model.dtype)}
        found = model(**shown, output_attentions=True, use_cache=False, return_dict=True)
    by_place = _weights(found)
    cells = _cells(inputs, {place: layers[0].shape for place, layers in by_place.items()})
    attentions = []
    for place, layers in by_place.items():
        projections = [entry for name, entry in entered.items() if _place(name) == place]
        if len(projections) != len(layers):
            raise UserError(
                f"{model.config.model_type} has no output projection named o_proj in each of its attentions"
            )
        for index, (weights, (z, projection)) in enumerate(zip(layers, projections, strict=True)):
            attentions.append(_compare(place, index, weights.float(), z.float(), projection.float(), cells[place]))
    return HeadAnalysis(tuple(attentions), len(inputs["input_ids"]))


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The model in inference mode, attention eager; yields what enters its output projections, and their weights."""
    entered: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(name: str):
        return lambda module, arguments: entered.update({name: (arguments[0], module.weight)})

    hooks = [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if n.endswith(".o_proj")]
    training, implementation = model.training, model.config._attn_implementation
    try:
        model.eval()
        model.set_attn_implementation("eager")
        yield entered
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)
        for hook in hooks:
            hook.remove()


def _place(name: str) -> str:
    """Of a projection's name in the model."""
    return "cross" if "cross" in name else "encoder" if name.startswith("encoder.") else "decoder"


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A 4-D bool mask as eager attention takes it, which adds it to the logits; others as they are."""
    if mask is None or mask.ndim != 4 or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _weights(found: Any) -> dict[str, tuple[torch.Tensor, ...]]:
    """place -> (B, H, T, S) of every layer."""
    names = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}
    by_place = {place: getattr(found, name, None) for place, name in names.items()}
    by_place["decoder"] = by_place["decoder"] or getattr(found, "attentions", None)
    by_place = {place: layers for place, layers in by_place.items() if layers}
    if not by_place or any(weights is None for layers in by_place.values() for weights in layers):
        raise UserError("the model gives no attention maps; heads can be compared where eager attention returns them")
    return by_place


def _cells(inputs: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """place -> (B, T, S) bool: keys that a query may attend, none for a query that is padding."""
    seq2seq = "encoder" in shapes
    source = inputs.get("attention_mask")
    target = inputs.get("decoder_attention_mask") if seq2seq else source
    queries = inputs["labels"] != -100 if seq2seq and "labels" in inputs else target
    sides = {"encoder": (source, source), "decoder": (queries, target), "cross": (queries, source)}
    found = {}
    for place, (b, _, t, s) in shapes.items():
        rows, keys = sides[place]
        if keys is not None and keys.ndim == 4:
            cells = keys[:, 0].bool()
            rows = cells.sum(-1) > 1  # padding attends itself alone, and so does the first token
            rows[:, 0] = True
        else:
            cells = torch.ones(b, t, s, dtype=torch.bool, device=inputs["input_ids"].device)
            cells = cells.tril() if place == "decoder" else cells
            cells = cells if keys is None else cells & keys.bool()[:, None]
        found[place] = cells if rows is None else cells & rows.bool()[..., None]
    return found


def _compare(
    place: str, layer: int, weights: torch.Tensor, z: torch.Tensor, projection: torch.Tensor, cells: torch.Tensor
) -> Heads:
    """Of weights (B, H, T, S), what enters the projection (B, T, H D), its weight (d, H D), and cells (B, T, S)."""
    heads, choice = weights.shape[1], cells.sum(-1)  # (B, T)
    compared = choice > 1
    if not compared.any():
        raise UserError("no query of the batch has two keys to choose from; give longer texts")
    chosen = weights.transpose(1, 2)[compared]  # (N, H, S)
    added = torch.einsum("nhe,dhe->nhd", z[compared].unflatten(-1, (heads, -1)), projection.unflatten(-1, (heads, -1)))
    directions = normalize(added, dim=-1)
    entropy = torch.special.entr(chosen).sum(-1) / choice[compared][:, None].log()
    first = cells[0]
    arrays = {
        "maps": weights[0][:, first.any(1)][..., first.any(0)],
        "similarity": map_similarity(chosen),
        "outputs": torch.einsum("nhd,ngd->hg", directions, directions) / len(directions),
        "entropy": entropy.mean(0),
    }
    return Heads(place, layer, **{name: array.float().cpu().numpy() for name, array in arrays.items()})


def map_similarity(weights: torch.Tensor) -> torch.Tensor:
    """1 - Jensen-Shannon divergence in bits of weights (N, H, S), averaged over N: (H, H)."""
    own = torch.special.entr(weights).sum(-1)  # (N, H) nats

    def divergence(head: int) -> torch.Tensor:
        between = torch.special.entr((weights[:, head, None] + weights) / 2).sum(-1)
        return (between - (own[:, head, None] + own) / 2).mean(0)

    return 1 - torch.stack([divergence(head) for head in range(weights.shape[1])]) / math.log(2)


def analyse_traces(
    engine: Any, problem_set: ProblemSet, prompt: Prompt, decoding: SamplingParams, seed: int, most: int = 8
) -> HeadAnalysis:
    """Of a model that thinks in parallel, over the first responses to so many problems that this seed draws."""
    requests = make_requests(engine, problem_set, prompt, 1)[:most]
    traces = collate([rollout.layout() for rollout in engine.generate(requests, decoding, seed)])
    inputs = {"input_ids": traces.tokens, "attention_mask": traces.mask, "position_ids": traces.positions}
    return analyse(engine.lm.model, inputs | forward_kwargs(engine.lm.model, traces.path_ids, traces.query_scale))


# ---- keeping ----

_ARRAYS = [f.name for f in fields(Heads)][2:]


def save(analysis: HeadAnalysis, path: str | Path) -> None:
    """Write all arrays as one .npz file."""
    arrays = {f"{h.place}/{h.layer}/{name}": getattr(h, name) for h in analysis.attentions for name in _ARRAYS}
    content = io.BytesIO()
    np.savez_compressed(content, texts=analysis.texts, **arrays)
    write_bytes(path, content.getvalue())


def load(path: str | Path) -> HeadAnalysis:
    """What `save` wrote; `UserError` for a file that is not."""
    try:
        with os_errors(path), np.load(path) as content:
            names = dict.fromkeys(tuple(key.split("/")[:2]) for key in content if "/" in key)
            attentions = [
                Heads(place, int(layer), *(content[f"{place}/{layer}/{name}"] for name in _ARRAYS))
                for place, layer in names
            ]
            return HeadAnalysis(tuple(attentions), int(content["texts"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{str(path)!r} is no analysis of heads ({error}); delete it and run the evaluation again"
        ) from error


# ---- drawing ----
