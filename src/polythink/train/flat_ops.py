"""The pieces of the flat training forward, each with its gradient written out.

Products are of a given type, and what stands between them in that of the weights (float32). Casts to the type that
something has already cost nothing. Autograd would keep and pass over several tensors of the size of the stream for each
of them; on a CPU these passes cost as much as the matrix products. Gradients are tested against autograd's of the
transformers module.

Axis legend: N tokens, E hidden size, F size of the MLP, G query heads, H key and value heads, D head size; B rows and T
tokens of the padded batch that attention reads.
"""

from __future__ import annotations

import torch
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import gelu

from polythink.engine.lean.torch_ops import rotate


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
    """x (N, E) times several weights (out, E): queries, keys and values. Products are of the type `kind`."""

    @staticmethod
    def forward(ctx, kind, x, *weights):
        ctx.kinds = x.dtype, weights[0].dtype
        x, *weights = (given.to(kind) for given in (x, *weights))
        ctx.save_for_backward(x, *weights)
        return tuple((x @ weight.t()).to(ctx.kinds[0]) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        (x, *weights), (kind, weight_kind) = ctx.saved_tensors, ctx.kinds
        grads = [grad.to(x.dtype) for grad in grads]
        grad_x = grads[0] @ weights[0]
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            grad_x.addmm_(grad, weight)
        return None, grad_x.to(kind), *((grad.t() @ x).to(weight_kind) for grad in grads)


class GatedMLP(Function):
    """down(silu(gate(x)) * up(x)) of x (N, E), weights (F, E), (F, E) and (E, F). All of it is of the type `kind`."""

    @staticmethod
    def forward(ctx, kind, x, gate, up, down):
        ctx.kinds = x.dtype, gate.dtype
        x, gate, up, down = (given.to(kind) for given in (x, gate, up, down))
        g, u = x @ gate.t(), x @ up.t()
        s = torch.sigmoid(g)
        silu = g.mul_(s)
        inner = silu * u
        ctx.save_for_backward(x, u, s, silu, inner, gate, up, down)
        return (inner @ down.t()).to(ctx.kinds[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, u, s, silu, inner, gate, up, down), (kind, weight_kind) = ctx.saved_tensors, ctx.kinds
        grad = grad.to(x.dtype)
        grad_down = grad.t() @ inner
        grad_inner = grad @ down
        grad_u = grad_inner * silu
        grad_inner.mul_(u)
        slope = torch.addcmul(s, silu, 1 - s)  # silu'(g) = s + g s (1 - s)
        grad_g = slope.mul_(grad_inner)
        grad_x = grad_g @ gate
        grad_x.addmm_(grad_u, up)
        of_weights = (grad_g.t() @ x, grad_u.t() @ x, grad_down)
        return None, grad_x.to(kind), *(grad.to(weight_kind) for grad in of_weights)


class GeluMLP(Function):
    """down(gelu(gate(x)) * up(x)) of x (N, E), weights (F, E), (F, E) and (E, F). All of it is of the type `kind`.

    What gelu gives is computed again in the backward pass: models that have it have a large F and a small E.
    """

    @staticmethod
    def forward(ctx, kind, x, gate, up, down, approximate):
        ctx.kinds, ctx.approximate = (x.dtype, gate.dtype), approximate
        x, gate, up, down = (given.to(kind) for given in (x, gate, up, down))
        g, u = x @ gate.t(), x @ up.t()
        ctx.save_for_backward(x, g, u, gate, up, down)
        return (gelu(g, approximate=approximate).mul_(u) @ down.t()).to(ctx.kinds[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, g, u, gate, up, down), (kind, weight_kind) = ctx.saved_tensors, ctx.kinds
        grad, inner = grad.to(x.dtype), gelu(g, approximate=ctx.approximate)
        grad_down = grad.t() @ (inner * u)
        grad_inner = grad @ down
        grad_u = inner.mul_(grad_inner)
        grad_g = torch.ops.aten.gelu_backward(grad_inner.mul_(u), g, approximate=ctx.approximate)
        grad_x = grad_g @ gate
        grad_x.addmm_(grad_u, up)
        of_weights = (grad_g.t() @ x, grad_u.t() @ x, grad_down)
        return None, grad_x.to(kind), *(grad.to(weight_kind) for grad in of_weights), None


class Turn(Function):
    """Heads x (N, heads, D), each normalised with `weight` (D,) (None: they are not), then rotated.

    `cos` and `sin` (N, 1, D), the first half of sin < 0, turn the halves of a head against each other (`rotate`); a
    factor on both scales the result.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, offset, cos, sin):
        saved = ()
        if weight is not None:
            scale = _inverse_rms(x, eps)
            normed, weight = x * scale, weight + offset if offset else weight
            saved, x = (normed, scale, weight), normed * weight
        ctx.save_for_backward(cos, sin, *saved)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cos, sin, *saved = ctx.saved_tensors
        grad, grad_weight = rotate(grad, cos, -sin), None
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
