"""Log-probabilities of chosen tokens from the last hidden states, without all logits: the head and the softmax run for
some rows at a time, and again in the backward pass, so that neither the logits nor their gradient exist whole.

The slow twin is `logprobs.pick_logprobs` over whole logits. The pieces are computed inside of the model's own forward,
where a head stands for a moment that returns log-probabilities in place of logits: so weights that are gathered for a
forward (FSDP), hooks and adapters take effect. At the peak of a backward pass there are, beside the hidden states,
4 R V bytes of logits (R rows of a piece), and 4 V E of the weight's gradient if it is trained; in half precision the
head's weight, a piece and a piece's share of that gradient once more, at 2 bytes each.

Left out: models that change logits after the head (a cap, a factor); these get whole logits.

Axis legend: N scored tokens, B rows and C columns of hidden states, R rows of a piece, E hidden size, V vocabulary,
K tokens whose rows are trained beside the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.autograd.function import Function, once_differentiable
from torch.utils.checkpoint import checkpoint

from polythink.errors import UserError
from polythink.models.compiled import compiled
from polythink.models.forward import evaluating, product_dtype, unwrapped
from polythink.models.tag_rows import rows_behind

LOGITS_MEMORY_BYTES = 1 << 28

_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Scoring:
    """Which tokens are scored, and how: `tokens` (N,) int64 at `temperature` (N,) float32."""

    tokens: torch.Tensor
    temperature: torch.Tensor
    memory_bytes: int = LOGITS_MEMORY_BYTES  # of float32 logits that exist at a time
    float32: bool = False  # the product with the head's weight, whatever the type of the weights
    fused: bool = False  # what is done with a piece of logits is compiled

    def in_pieces(self, model: nn.Module, cells: int) -> bool:
        """Whether a forward that would have `cells` (B * C) rows of logits is to score them in pieces.

        Where all logits fit there is nothing to gain, but a float32 head is computed here only. `UserError` for one of
        a model that cannot have it.
        """
        head = head_of(model)
        if self.float32 and not (plain_head(model) and _is_linear(head)):
            raise UserError(
                f"float32_head needs a head that is a plain linear layer and the last of the model; that of "
                f"{model.config.model_type} here has more to it; set float32_head: false"
            )
        if self.float32 or head is None:
            return self.float32
        return 4 * cells * getattr(head, "out_features", 0) > self.memory_bytes and plain_head(model)

    def __call__(self, head: nn.Module, hidden: torch.Tensor, at: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(N,) float32 log-probabilities from hidden states (B, C, E), those after the tokens at [at, columns]."""
        hidden = hidden[at, columns]
        if _is_linear(head):
            rows = max(1, self.memory_bytes // (4 * len(head.weight)))
            kind = torch.float32 if self.float32 else product_dtype(hidden.dtype, hidden.device.type)
            how = rows, kind, self.fused
            more = _trained_rows(head, hidden, kind)
            return HeadLogprobs.apply(hidden, head.weight, head.bias, self.tokens, self.temperature, *how, *more)
        rows = max(1, self.memory_bytes // (4 * head.out_features))
        parts = zip(*(x.split(rows) for x in (hidden, self.tokens, self.temperature)), strict=True)
        return torch.cat([checkpoint(_through, head, *part, use_reentrant=False) for part in parts])


class HeadLogprobs(Function):
    """(N,) float32 log-softmax(hidden @ weight.T + bias, divided by the temperature) of the tokens.

    `hidden` (N, E), `weight` (V, E), `bias` (V,) or None, `tokens` (N,), `temperature` (N,); `rows` at a time, with
    products of the type `kind` and everything else in float32. `fused`: compiled, so that a piece is read once and no
    float32 copy of it is written. `more` (N, K) is added to the logits of the tokens `ids` (K,) before the division.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens, temperature, rows, kind, fused, more=None, ids=None):
        norm = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        picked = torch.empty_like(norm)
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(kind)
            for span in _spans(len(hidden), rows):
                piece = hidden[span], cast, bias, ids, _part(more, span), temperature[span], tokens[span]
                norm[span], picked[span] = _run(_normalised, fused, *piece)
        ctx.save_for_backward(hidden, weight, bias, tokens, temperature, norm, more, ids)
        ctx.rows, ctx.kind, ctx.fused = rows, kind, fused
        return picked.sub_(norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, bias, tokens, temperature, norm, more, ids = ctx.saved_tensors
        own_hidden, own_weight, own_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if own_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if own_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if own_bias else None
        grad_more = None if more is None else torch.empty_like(more)
        with torch.autocast(hidden.device.type, enabled=False):
            cast, factor = weight.to(ctx.kind), grad.float() / temperature
            for span in _spans(len(hidden), ctx.rows):
                given = hidden[span], cast, bias, ids, _part(more, span), temperature[span]
                given += tokens[span], norm[span], factor[span], ctx.fused
                piece, of_bias = _run(_gradient, ctx.fused, *given)
                if more is not None:
                    grad_more[span] = piece.index_select(1, ids).float()
                if own_bias:
                    grad_bias += of_bias
                if own_hidden:
                    grad_hidden[span] = piece @ cast
                if own_weight:
                    _add_product(grad_weight, piece.t(), hidden[span].to(ctx.kind))
                del piece  # before the next one is made
        grads = (x if x is None else x.to(like.dtype) for x, like in ((grad_weight, weight), (grad_bias, bias)))
        return grad_hidden, *grads, None, None, None, None, None, grad_more, None


def _spans(count: int, rows: int) -> list[slice]:
    return [slice(begin, begin + rows) for begin in range(0, count, rows)]


def _part(more: torch.Tensor | None, span: slice) -> torch.Tensor | None:
    return None if more is None else more[span]


def _logits(hidden, weight, bias, ids, more, temperature) -> torch.Tensor:
    """(R, V) float32, divided by the temperature; the caller's own, to change in place."""
    logits = (hidden.to(weight.dtype) @ weight.t()).float()
    if bias is not None:
        logits += bias
    if more is not None:
        logits.index_add_(1, ids, more)
    return logits.div_(temperature[:, None])


def _normalised(hidden, weight, bias, ids, more, temperature, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """(R,) and (R,): the logarithm of the softmax's denominator, and the logit of each token."""
    logits = _logits(hidden, weight, bias, ids, more, temperature)
    picked = logits.gather(1, tokens[:, None])[:, 0]
    most = logits.amax(1)
    return logits.sub_(most[:, None]).exp_().sum(1).log_().add_(most), picked


def _gradient(
    hidden, weight, bias, ids, more, temperature, tokens, norm, factor, fused
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(R, V) gradient of the logits, factor x (1 for the token - softmax); and its sum over rows if there is a bias."""
    piece = _logits(hidden, weight, bias, ids, more, temperature)
    piece = piece.sub_(norm[:, None]).exp_().mul_(-factor[:, None])
    if fused:  # a comparison is part of one kernel, a scatter is not
        columns = torch.arange(len(weight), device=weight.device)
        piece = piece + torch.where(columns == tokens[:, None], factor[:, None], 0.0)
    else:
        piece.scatter_add_(1, tokens[:, None], factor[:, None])
    return piece.to(weight.dtype), None if bias is None else piece.sum(0)


def _run(function: Callable, fused: bool, *piece):
    """The function of a piece; compiled if `fused`, for any number of rows, which all have but weight, bias and ids."""
    if not fused:
        return function(*piece)
    hidden, _, _, _, *others = piece
    for tensor in (hidden, *others):
        if isinstance(tensor, torch.Tensor):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return compiled(function)(*piece)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total (float32) += a @ b: in half precision the sum over many pieces would lose digits."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _through(head: nn.Module, hidden, tokens, temperature) -> torch.Tensor:
    """(R,) log-probabilities through a head with hooks or adapters: whatever it is, it is called."""
    logits = head(hidden[None])[0].float() / temperature[:, None]
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)


def _is_linear(head: nn.Module) -> bool:
    """A linear layer and nothing else: no subclass, no adapter, no hook but that of rows that are trained."""
    hooks = [hook for hook in head._forward_hooks.values() if rows_behind(hook) is None]
    return type(head) is nn.Linear and not hooks and not head._forward_pre_hooks


def _trained_rows(head: nn.Module, hidden: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, ...]:
    """What rows that are trained (`tag_rows.py`) add to logits (N, K), and of which tokens (K,); () where none are."""
    for rows in map(rows_behind, head._forward_hooks.values()):
        if rows is not None and rows.enabled:
            return rows.logits(hidden, kind), rows.ids_K
    return ()


# --- the head's place in the model


class _Replaced(nn.Module):
    """Stands where the head was. It is no part of this module, so that no one takes it for a part of the model, but
    what a model's forward asks the head for, such as the type of its weight (Mamba), is the head's.
    """

    def __init__(self, call, head: nn.Module) -> None:
        super().__init__()
        self.call = call
        self.__dict__["head"] = head

    def __getattr__(self, name: str):
        return getattr(self.__dict__["head"], name)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.call(hidden)


def head_of(model: nn.Module) -> nn.Module | None:
    """The layer from hidden states to logits; None where the model has none."""
    return unwrapped(model).get_output_embeddings()


@contextmanager
def scored_in_place(model: nn.Module, scoring: Scoring, at: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """While this is entered, the model's forward returns as `logits` (N,) the log-probabilities of `scoring`."""
    head = head_of(model)
    with _replaced(model, head, lambda hidden: scoring(head, hidden, at, columns)):
        yield


@contextmanager
def _replaced(model: nn.Module, head: nn.Module, call) -> Iterator[None]:
    owner, name = next(
        (owner, name) for owner in unwrapped(model).modules() for name, child in owner._modules.items() if child is head
    )
    owner._modules[name] = _Replaced(call, head)
    try:
        yield
    finally:
        owner._modules[name] = head


def plain_head(model: nn.Module) -> bool:
    """Are the model's logits what its head returns? Found out once, by a forward in which it returns known numbers."""
    inner = unwrapped(model)
    if inner not in _PLAIN:
        _PLAIN[inner] = _returns_what_its_head_does(model)
    return _PLAIN[inner]


@torch.no_grad()
def _returns_what_its_head_does(model: nn.Module) -> bool:
    head = head_of(model)
    if head is None or not hasattr(head, "out_features"):
        return False
    known = torch.linspace(-100, 100, 7, device=next(model.parameters()).device)  # beyond any cap
    ids = torch.zeros(1, 2, dtype=torch.long, device=known.device)
    with evaluating(model), _replaced(model, head, lambda hidden: known):
        try:
            logits = model(input_ids=ids, use_cache=False).logits
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError):  # it wants logits of a vocabulary's size
            return False
    return logits.shape == known.shape and bool((logits == known).all())
