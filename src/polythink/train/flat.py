"""The training forward of the Llama family (Gemma 3 too) on a CPU: the tokens of a batch in one list, each held once.

The slow twin is `logprobs.logits_after`: one forward of the transformers module over padded rows. Here nothing is
padded but inside of attention, the last layer's MLP runs for the scored tokens only, and tokens of the same context
(`Batch.contexts`: the prompt and the common beginnings of a group's rollouts) are computed once. The parameters are the
module's own. Logits and gradients are the twin's up to rounding. Under autocast the products with weights are of its
type and what attention reads is rounded to it, as in the twin; scores and what else stands between the products stay
in float32, so that single values are rounded otherwise.

Left out, and so left to the module: models with thought embeddings, adapters, hooks, biases or dropout, scaled queries,
positions beyond a window, other types than float32, long rows (attention here holds all scores of a row).

Axis legend: B rows, T tokens of a row, N tokens of the list, C of them with logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from polythink.engine.lean.family import Family, Layer, Norm, Unfit, describe
from polythink.engine.lean.torch_ops import turns
from polythink.models.batch import Batch
from polythink.models.forward import product_dtype
from polythink.models.head import Scoring
from polythink.models.logprobs import Logits, LogitsOf, check_forward, logits_after
from polythink.trace import layout as traces
from polythink.train.flat_ops import AddNorm, Attend, GatedMLP, GeluMLP, Linears, Turn

LONGEST = 512  # tokens of a row
# what was found of the models that are read once; also by the threads that train them
_read: WeakKeyDictionary[torch.nn.Module, list[Family | Unfit]] = WeakKeyDictionary()


def training_logits(model: torch.nn.Module, batch: Batch) -> LogitsOf:
    """How this batch gets the logits that are trained on: `logits_after`, or the same by a flat forward."""
    if batch.tokens.device.type != "cpu" or batch.tokens.shape[1] > LONGEST:
        return logits_after
    if bool((batch.query_scale != 1).any()):
        return logits_after
    try:
        family = plain_family(model)
    except Unfit:
        return logits_after
    if any(layer.window and int(batch.positions.max()) >= layer.window for layer in family.layers):
        return logits_after
    return partial(flat_logits, family)


def fits(model: torch.nn.Module) -> bool:
    """Whether batches of this model go through the flat forward, if nothing in them is against it."""
    try:
        plain_family(model)
    except Unfit:
        return False
    return next(model.parameters()).device.type == "cpu"


def beginning(layout: traces.Layout) -> bytes:
    """What tells the prompts of a batch apart: rows with the same prompt are best computed together."""
    return layout.tokens[layout.segment == 0].tobytes()


@contextmanager
def read_once(model: torch.nn.Module) -> Iterator[None]:
    """While this is entered `plain_family` reads the module once: nothing of it may change but its weights.

    To read it for each of a step's micro-batches takes a fiftieth of the time of small ones.
    """
    outermost = _read.setdefault(model, []) == []
    try:
        if outermost:
            _read[model].append(_outcome(model))
        yield
    finally:
        if outermost:
            _read.pop(model, None)


def _outcome(model: torch.nn.Module) -> Family | Unfit:
    try:
        return _plain_family(model)
    except Unfit as error:
        return error


def plain_family(model: torch.nn.Module) -> Family:
    """The model as a `Family`; `Unfit` where it has what the flat forward leaves out."""
    found = _read[model][0] if _read.get(model) else _outcome(model)
    if isinstance(found, Unfit):
        raise Unfit(str(found))
    return found


def _plain_family(model: torch.nn.Module) -> Family:
    if isinstance(model, FSDPModule):
        raise Unfit("weights that lie in several processes")
    family = describe(model)
    if family.thoughts is not None:
        raise Unfit("thought embeddings")
    if family.cap is not None:
        raise Unfit("logits that the flat training forward does not compute")
    if model.training and getattr(model.config, "attention_dropout", 0):
        raise Unfit("dropout")
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise Unfit("activations that are computed again")
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise Unfit("another type than float32")
    if any(map(_is_special, family.layers)) or family.head.bias is not None or family.head._forward_hooks:
        raise Unfit("biases, or positions that are not rotated")
    return family


def _is_special(layer: Layer) -> bool:
    linears = (layer.query, layer.key, layer.value, layer.out, layer.gate, layer.up, layer.down)
    return layer.rotary is None or any(linear.bias is not None for linear in linears)


def flat_logits(
    family: Family, model, batch: Batch, rows: torch.Tensor, tokens: torch.Tensor, scoring: Scoring | None = None
) -> Logits | torch.Tensor:
    """As `logits_after`: logits (1, C, V), and where in it those after the given tokens (rows, tokens) lie."""
    check_forward(model, batch.positions, batch.mask)
    real = batch.real.flatten().nonzero()[:, 0]
    if batch.contexts is None:
        first, number = real, torch.arange(len(real))
    else:
        first, number = _first_places(batch.contexts.flatten()[real], real)
    index = torch.zeros(batch.real.numel(), dtype=torch.long)  # padding reads any token: no one reads the padding
    index[real] = number
    index = index.view(batch.real.shape)
    mask = torch.zeros(batch.mask[:, 0].shape).masked_fill_(~batch.mask[:, 0], -torch.inf)
    scored, column = torch.unique(index[rows, tokens], return_inverse=True)
    x = family.embedding(batch.tokens.flatten()[first])
    kind = product_dtype(x.dtype)
    with torch.autocast("cpu", enabled=False):  # the casts are named here, for the gradients as well
        hidden = run(family, x, batch.positions.flatten()[first], _reader(index, first, mask), scored, kind)
    if scoring is not None and scoring.in_pieces(model, len(scored)):
        return scoring(family.head, hidden[None], torch.zeros_like(column), column)
    return F.linear(hidden, family.head.weight)[None], torch.zeros_like(column), column


def _first_places(contexts: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The places of the first token of each context, in order, and for each of `places` the number of its context."""
    found, number = torch.unique(contexts, return_inverse=True)
    first = torch.full((len(found),), len(places)).scatter_reduce_(0, number, torch.arange(len(places)), "amin")
    return places[first], number


def _reader(index: torch.Tensor, first: torch.Tensor, mask: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: Attend.apply(q, k, v, index, first, mask)


def run(
    family: Family, x: torch.Tensor, positions: torch.Tensor, attend: Callable, scored: torch.Tensor, kind: torch.dtype
) -> torch.Tensor:
    """The last hidden states (C, E), normed, of the `scored` tokens, from the embeddings (N, E) at positions (N,).

    Products with weights are of the dtype `kind`.
    """
    tokens, delta = len(x), None
    turned = [turns(rotary, positions[:, None].float(), x.dtype) for rotary in family.rotaries]
    for layer in family.layers:
        cos, sin = turned[layer.rotary]
        x, normed = AddNorm.apply(x, delta, *layer.before_attention)
        q, k, v = Linears.apply(kind, normed, layer.query.weight, layer.key.weight, layer.value.weight)
        q, k, v = (heads.view(tokens, -1, family.head_dim) for heads in (q, k, v))
        q = Turn.apply(q, *(layer.query_norm or (None, 0.0, 0.0)), cos * layer.scaling, sin * layer.scaling)
        k = Turn.apply(k, *(layer.key_norm or (None, 0.0, 0.0)), cos, sin)
        q, k = (heads.to(kind).to(x.dtype) for heads in (q, k))  # as a cache of keys and values of that type has them
        read = attend(q, k, v).view(tokens, -1)
        if layer is family.layers[-1]:  # no later layer reads the other tokens
            x, read = x.index_select(0, scored), read.index_select(0, scored)
        (delta,) = Linears.apply(kind, read, layer.out.weight)
        x, normed = AddNorm.apply(x, _normed(delta, layer.after_attention), *layer.before_mlp)
        delta = _normed(_mlp(family.activation, kind, normed, layer), layer.after_mlp)
    return AddNorm.apply(x, delta, *family.norm)[1]


def _normed(x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    return x if norm is None else AddNorm.apply(x, None, *norm)[1]


def _mlp(activation: str, kind: torch.dtype, x: torch.Tensor, layer: Layer) -> torch.Tensor:
    weights = layer.gate.weight, layer.up.weight, layer.down.weight
    if activation == "silu":
        return GatedMLP.apply(kind, x, *weights)
    return GeluMLP.apply(kind, x, *weights, "tanh" if activation == "gelu_tanh" else "none")
