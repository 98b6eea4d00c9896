"""The pieces of the flat training forward, each with its gradient written out.

Autograd would keep and pass over several tensors of the size of the stream for each of them; on a CPU these passes
cost as much as the matrix products. Gradients are tested against autograd's of the transformers module.

Axis legend: N tokens, E hidden size, F size of the MLP, G query heads, H key and value heads, D head size; B rows and T
tokens of the padded batch that attention reads.
"""

from __future__ import annotations

import torch
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import gelu


class AddNorm(Function):
    """x + delta (N, E), and that divided by its root mean square, times (weight + offset). `delta` None: nothing."""

    @staticmethod
    def forward(ctx, x, delta, weight, eps, offset):
        ctx.set_materialize_grads(False)
        ctx.added = delta is not None
        x = x.view_as(x) if delta is None else x + delta
        scale = _inverse_rms(x, eps)
        normed, weight = x * scale, weight + offset if offset else weight
        ctx.save_for_backward(normed, scale, weight)
        return x, normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x, grad):
        if grad is None:
            return grad_x, grad_x if ctx.added else None, None, None, None
        grad, grad_weight = _norm_gradients(grad, *ctx.saved_tensors)
        if grad_x is not None:
            grad += grad_x
        return grad, grad if ctx.added else None, grad_weight, None, None


class Linears(Function):
    """x (N, E) times several weights (out, E): queries, keys and values."""

    @staticmethod
    def forward(ctx, x, *weights):
        ctx.save_for_backward(x, *weights)
        return tuple(x @ weight.t() for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        x, *weights = ctx.saved_tensors
        grad_x = grads[0] @ weights[0]
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            grad_x.addmm_(grad, weight)
        return grad_x, *(grad.t() @ x for grad in grads)


class GatedMLP(Function):
    """down(silu(gate(x)) * up(x)) of x (N, E), weights (F, E), (F, E) and (E, F)."""

    @staticmethod
    def forward(ctx, x, gate, up, down):
        g, u = x @ gate.t(), x @ up.t()
        s = torch.sigmoid(g)
        silu = g.mul_(s)
        inner = silu * u
        ctx.save_for_backward(x, u, s, silu, inner, gate, up, down)
        return inner @ down.t()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, u, s, silu, inner, gate, up, down = ctx.saved_tensors
        grad_down = grad.t() @ inner
        grad_inner = grad @ down
        grad_u = grad_inner * silu
        grad_inner.mul_(u)
        slope = torch.addcmul(s, silu, 1 - s)  # silu'(g) = s + g s (1 - s)
        grad_g = slope.mul_(grad_inner)
        grad_x = grad_g @ gate
        grad_x.addmm_(grad_u, up)
        return grad_x, grad_g.t() @ x, grad_u.t() @ x, grad_down


class GeluMLP(Function):
    """down(gelu(gate(x)) * up(x)) of x (N, E), weights (F, E), (F, E) and (E, F).

    What gelu gives is computed again in the backward pass: models that have it have a large F and a small E.
    """

    @staticmethod
    def forward(ctx, x, gate, up, down, approximate):
        g, u = x @ gate.t(), x @ up.t()
        ctx.save_for_backward(x, g, u, gate, up, down)
        ctx.approximate = approximate
        return gelu(g, approximate=approximate).mul_(u) @ down.t()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, g, u, gate, up, down = ctx.saved_tensors
        inner = gelu(g, approximate=ctx.approximate)
        grad_down = grad.t() @ (inner * u)
        grad_inner = grad @ down
        grad_u = inner.mul_(grad_inner)
        grad_g = torch.ops.aten.gelu_backward(grad_inner.mul_(u), g, approximate=ctx.approximate)
        grad_x = grad_g @ gate
        grad_x.addmm_(grad_u, up)
        return grad_x, grad_g.t() @ x, grad_u.t() @ x, grad_down, None


class Turn(Function):
    """Heads x (N, heads, D), each normalised with `weight` (D,) (None: they are not), then rotated.

    `cos` and `sin` (N, 1, D / 2) turn the halves of a head against each other; a factor on both scales the result.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, offset, cos, sin):
        saved = ()
        if weight is not None:
            scale = _inverse_rms(x, eps)
            normed, weight = x * scale, weight + offset if offset else weight
            saved, x = (normed, scale, weight), normed * weight
        ctx.save_for_backward(cos, sin, *saved)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cos, sin, *saved = ctx.saved_tensors
        grad, grad_weight = _rotated(grad, cos, sin, -1), None
        if saved:
            grad, grad_weight = _norm_gradients(grad, *saved)
        return grad, grad_weight, None, None, None, None


class Attend(Function):
    """Attention of padded rows over tokens that are held once: (N, G, D) from q (N, G, D), scaled, and k, v (N, H, D).

    `index` (B, T) says which token stands in each place of the rows. A token may stand in several, with the same
    context in all; `first` (N,) is the place out of B * T whose result is taken. `mask` (B, T, T) is added to the
    scores: 0 where a query reads a key, -inf elsewhere.
    """

    @staticmethod
    def forward(ctx, q, k, v, index, first, mask):
        (rows, width), heads, places = index.shape, k.shape[1], index.flatten()
        ctx.whole = _is_in_order(places, len(first))
        if not ctx.whole:
            q, k, v = (x.index_select(0, places) for x in (q, k, v))
        q, k, v = (_in_rows(x, rows, heads) for x in (q, k, v))
        scores = q @ k.transpose(1, 2)
        scores.view(rows, heads, width, -1, width).add_(mask[:, None, :, None])
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, weights, index, first)
        out = _in_places(weights @ v, rows, width)
        return out if ctx.whole else out.index_select(0, first)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, weights, index, first = ctx.saved_tensors
        (rows, width), heads = index.shape, len(k) // len(index)
        if not ctx.whole:
            grad = grad.new_zeros(rows * width, *grad.shape[1:]).index_copy_(0, first, grad)
        grad = _in_rows(grad, rows, heads)
        grad_v = weights.transpose(1, 2) @ grad
        grad_scores = torch._softmax_backward_data(grad @ v.transpose(1, 2), weights, -1, weights.dtype)
        grads = grad_scores @ k, grad_scores.transpose(1, 2) @ q, grad_v
        grad_q, grad_k, grad_v = (_in_places(x, rows, width) for x in grads)
        if not ctx.whole:
            grad_q = grad_q.index_select(0, first)  # in other places it is zero
            grad_k, grad_v = (_summed(x, index, len(first)) for x in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, None, None, None


def _is_in_order(places: torch.Tensor, tokens: int) -> bool:
    """Whether the rows are the list of tokens: none is padded, and none stands in two places."""
    return len(places) == tokens and torch.equal(places, torch.arange(tokens))


def _in_rows(x: torch.Tensor, rows: int, heads: int) -> torch.Tensor:
    """(B * H, T * G / H, D) from all places (B * T, G, D): the heads that read one key together."""
    places, groups, size = x.shape
    x = x.reshape(rows, places // rows, heads, groups // heads, size).transpose(1, 2)
    return x.reshape(rows * heads, -1, size)


def _in_places(x: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """(B * T, G, D): the inverse of `_in_rows`."""
    heads, size = len(x) // rows, x.shape[-1]
    x = x.view(rows, heads, width, -1, size).transpose(1, 2)
    return x.reshape(rows * width, -1, size)


def _summed(x: torch.Tensor, index: torch.Tensor, tokens: int) -> torch.Tensor:
    """(N, H, D): what all places (B * T, H, D) of each token sum to."""
    return x.new_zeros(tokens, *x.shape[1:]).index_add_(0, index.flatten(), x)


def _inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """(.., 1): one over the root mean square of the last axis."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_gradients(grad, normed, scale, weight) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the input and of the weight of `normed * weight`, normed = x * scale."""
    product = grad * normed
    mean = (product @ weight).div_(-normed.shape[-1])[..., None]
    grad_weight = product.flatten(0, -2).sum(0)
    return torch.mul(grad, weight, out=product).addcmul_(normed, mean).mul_(scale), grad_weight


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    """The halves of each head turned by the angle, or with `sign` -1 turned back."""
    half = x.shape[-1] // 2
    out, a, b = torch.empty_like(x), x[..., :half], x[..., half:]
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin, value=sign)
    return out
