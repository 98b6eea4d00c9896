"""How alike the heads of a model are: similarity and entropy of attention maps, and what each head contributes.

EIT and PartialFormer both start from heads that degenerate into copies of each other. Measured for each attention of
each layer, averaged over the queries of a batch:

    similarity   1 - JS(A_i(t), A_j(t))   of the weights that heads i and j give to the keys of query t, in bits: 1 for
                 the same weights, 0 for no key in common (Clark et al. 2019, arXiv 1906.04341, section 6)
    entropy      H(A_i(t)) / log n(t)     n(t) keys to choose from: 1 for even weights, 0 for one key
    outputs      cos(c_i(t), c_j(t))      c_i = Z_i W_o,i, what head i adds to the output. Li et al. 2018 (arXiv
                 1810.10183) compare the Z_i themselves, but each has coordinates of its own; all c_i share one space

Z_i is the input of the output projection: in PartialFormer, after the head's feed-forward layer and gate. Padding and
queries with a single key, where heads cannot differ, are left out.

Axis legend: B texts, H heads, T queries, S keys, D head size, d model width, N queries of all texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import normalize

from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.head_file import PLACES, HeadAnalysis, Heads
from polythink.evaluate.samples import askable, make_requests
from polythink.models.batch import collate
from polythink.models.forward import evaluating
from polythink.models.thoughts import KEYWORDS, forward_kwargs
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import Prompt

# arguments of a model's forward; the last ones are those of models with thought embeddings or scaled queries
INPUTS = ("input_ids", "attention_mask", "position_ids", "decoder_input_ids", "decoder_attention_mask", "labels")
INPUTS += KEYWORDS


@torch.no_grad()
def analyse(model: Any, batch: Mapping[str, torch.Tensor]) -> HeadAnalysis:
    """Run a transformers model once over a batch and compare its heads.

    `batch` holds arguments of the model's forward: an encoder-decoder needs `labels` (-100 is no query) or
    `decoder_input_ids`; for a decoder `attention_mask` may be (B, 1, T, T) bool. Keys outside `INPUTS` are ignored.
    Attention runs eagerly during the call. `UserError` for a model that returns no attention maps.
    """
    inputs = {name: batch[name].to(model.device) for name in INPUTS if batch.get(name) is not None}
    with _watched(model) as entered:
        shown = {**inputs, "attention_mask": _additive(inputs.get("attention_mask"), model.dtype)}
        by_place = _weights(model(**shown, output_attentions=True, use_cache=False, return_dict=True))
    cells = _cells(inputs, {place: layers[0].shape for place, layers in by_place.items()})
    attentions = []
    for place, layers in by_place.items():
        projections = [entry for name, entry in entered.items() if _place(name) == place]
        if len(projections) != len(layers):
            raise UserError(f"{model.config.model_type} has no output projection o_proj in each of its attentions")
        for index, (weights, (z, projection)) in enumerate(zip(layers, projections, strict=True)):
            found = _compare(weights.float(), z.float(), projection.float(), cells[place])
            attentions.append(Heads(place, index, *(array.float().cpu().numpy() for array in found)))
    return HeadAnalysis(tuple(attentions), len(inputs["input_ids"]))


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Put the model in inference mode with eager attention; yields the inputs and weights of its output projections."""
    entered: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(name: str):
        return lambda module, arguments: entered.update({name: (arguments[0], module.weight)})

    hooks = [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if n.endswith(".o_proj")]
    implementation = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        with evaluating(model):
            yield entered
    finally:
        model.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()


def _place(name: str) -> str:
    """The place of an attention, from the name of its projection in the model."""
    return "cross" if "cross" in name else "encoder" if name.startswith("encoder.") else "decoder"


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A 4-D bool mask as eager attention takes it: added to the logits. Other masks are returned as they are."""
    if mask is None or mask.ndim != 4 or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _weights(found: Any) -> dict[str, tuple[torch.Tensor, ...]]:
    """place -> (B, H, T, S) of every layer."""
    by_place = {place: getattr(found, f"{place}_attentions", None) for place in PLACES}
    by_place["decoder"] = by_place["decoder"] or getattr(found, "attentions", None)
    by_place = {place: layers for place, layers in by_place.items() if layers}
    if not by_place or any(weights is None for layers in by_place.values() for weights in layers):
        raise UserError("the model returns no attention maps; only heads whose eager attention returns them compare")
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
    weights: torch.Tensor, z: torch.Tensor, projection: torch.Tensor, cells: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Similarity, outputs and entropy, in the order of `Heads`, of one attention.

    From weights (B, H, T, S), the projection's input (B, T, H D) and weight (d, H D), and cells (B, T, S).
    """
    heads, choice = weights.shape[1], cells.sum(-1)  # (B, T)
    compared = choice > 1
    if not compared.any():
        raise UserError("no query of the batch has two keys to choose from; use longer texts")
    chosen = weights.transpose(1, 2)[compared]  # (N, H, S)
    added = torch.einsum("nhe,dhe->nhd", z[compared].unflatten(-1, (heads, -1)), projection.unflatten(-1, (heads, -1)))
    directions = normalize(added, dim=-1)
    outputs = torch.einsum("nhd,ngd->hg", directions, directions) / len(directions)
    entropy = torch.special.entr(chosen).sum(-1) / choice[compared][:, None].log()
    return map_similarity(chosen), outputs, entropy.mean(0)


def map_similarity(weights: torch.Tensor) -> torch.Tensor:
    """1 - Jensen-Shannon divergence in bits of weights (N, H, S), averaged over N: (H, H)."""
    own = torch.special.entr(weights).sum(-1)  # (N, H) nats

    def divergence(head: int) -> torch.Tensor:
        between = torch.special.entr((weights[:, head, None] + weights) / 2).sum(-1)
        return (between - (own[:, head, None] + own) / 2).mean(0)

    return 1 - torch.stack([divergence(head) for head in range(weights.shape[1])]) / math.log(2)


def analyse_traces(
    engine: Engine, problems: ProblemSet, prompt: Prompt, params: SamplingParams, seed: int, most: int = 8
) -> HeadAnalysis:
    """`analyse` on parallel traces: the first response to each of the first `most` problems under this seed.

    Problems that cannot be asked are left out, as in the evaluation.
    """
    asked = askable(engine, problems, prompt)[0]
    requests = make_requests(engine, asked[:most], prompt, 1)
    traces = collate([rollout.layout() for rollout in engine.generate(requests, params, seed)])
    inputs = {"input_ids": traces.tokens, "attention_mask": traces.mask, "position_ids": traces.positions}
    model = engine.lm.model
    return analyse(model, inputs | forward_kwargs(model, traces.path_ids, traces.query_scale))
