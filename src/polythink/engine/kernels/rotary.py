"""Between the projections and the attention: norms per head, rotation, and the write to the cache, in one kernel.

The torch twin is `PagedOps.rotate_and_write` of `polythink.engine.lean.paged_ops`. Axis legend: N tokens, G query
heads, H key and value heads, D head size, C slots of the cache.
"""

from __future__ import annotations

from math import gcd

import torch
import triton
import triton.language as tl

MOST_HEADS = 4  # of a token, in one program


def rotate_and_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor] | None,
    slot: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None,
    eps: float = 0.0,
    offset: float = 0.0,
    vector: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, G, D): the queries q (N, G, D), normed and rotated. Keys and values (N, H, D) go to the cache.

    `turn`: cosine and sine (N, D/2) of each token's angles, None: no rotation; feature i turns with feature i + D/2 (Su
    et al. 2021, laid out as in Llama). `slot` (N,) int32: where in `keys` and `values` (C, H, D) a token's are written.
    `norms`: weights (D,) of the RMS norm of each head of queries and of keys, with its `eps` and `offset` (see
    `add_norm`). `vector` (N, D) is added to all heads of keys, before rotation, and of values. The last two axes of
    q, k, v and the cache are contiguous. Computed in float32, rounded after each step as a module of transformers does.
    """
    (tokens, heads, size), kv_heads = q.shape, k.shape[1]
    assert all(x.stride(2) == 1 and x.stride(1) == size for x in (q, k, v, keys, values))
    assert keys.stride() == values.stride()
    assert vector is None or vector.stride(1) == 1
    cos, sin = (q, q) if turn is None else turn
    q_norm, k_norm = (q, q) if norms is None else norms
    assert turn is None or (cos.is_contiguous() and sin.is_contiguous() and cos.shape == (tokens, size // 2))
    out = q.new_empty(q.shape)
    if tokens:
        together = min(MOST_HEADS, gcd(heads, kv_heads, MOST_HEADS))
        rotate_kernel[(tokens, (heads + 2 * kv_heads) // together)](
            q, k, v, cos, sin, slot, keys, values, out, q_norm, k_norm, q if vector is None else vector,
            q.stride(0), k.stride(0), v.stride(0), keys.stride(0), 0 if vector is None else vector.stride(0),
            heads, kv_heads, size, eps, offset,
            turn is not None, norms is not None, offset != 0, vector is not None, triton.next_power_of_2(size),
            together, num_warps=together,
        )  # fmt: skip
    return out


@triton.jit
def rotate_kernel(
    q, k, v, cos, sin, slot, keys, values, out, q_norm, k_norm, vector,
    q_stride, k_stride, v_stride, slot_stride, vector_stride, heads, kv_heads, size, eps, offset,
    TURNS: tl.constexpr, NORMS: tl.constexpr, SHIFTS: tl.constexpr, ADDS: tl.constexpr, SIZE: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: of the queries, then of the keys, then of the values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS
    at = tl.arange(0, SIZE)[None, :]
    own = tl.arange(0, HEADS)[:, None] * size  # where each of the heads begins
    inside = (at < size) & (own >= 0)
    half = size // 2
    mate = tl.where(at < half, at + half, at - half)  # the feature that each one turns with
    place = tl.load(slot + token).to(tl.int64) * slot_stride
    if head < heads:
        start = q + token * q_stride + head * size + own
        x, y = normed_head(start, q_norm, at, mate, inside, size, eps, offset, NORMS, SHIFTS)
        if TURNS:
            x = turned(x, y, cos + token * half, sin + token * half, at, half, inside)
        tl.store(out + (token * heads + head) * size + own + at, x, mask=inside)
    elif head < heads + kv_heads:
        head = head - heads
        start = k + token * k_stride + head * size + own
        x, y = normed_head(start, k_norm, at, mate, inside, size, eps, offset, NORMS, SHIFTS)
        if ADDS:
            x = plus(x, vector + token * vector_stride + at, inside)
            y = plus(y, vector + token * vector_stride + mate, inside)
        if TURNS:
            x = turned(x, y, cos + token * half, sin + token * half, at, half, inside)
        tl.store(keys + place + head * size + own + at, x, mask=inside)
    else:
        head = head - heads - kv_heads
        x = tl.load(v + token * v_stride + head * size + own + at, mask=inside)
        if ADDS:
            x = plus(x, vector + token * vector_stride + at, inside)
        tl.store(values + place + head * size + own + at, x, mask=inside)


@triton.jit
def normed_head(start, weight, at, mate, inside, size, eps, offset, NORMS: tl.constexpr, SHIFTS: tl.constexpr):
    """The features of some heads, and for each of them the one that it turns with."""
    x = tl.load(start + at, mask=inside, other=0.0)
    y = tl.load(start + mate, mask=inside, other=0.0)
    if NORMS:
        wide = x.to(tl.float32)
        scale = 1.0 / tl.sqrt_rn(tl.sum(wide * wide, 1) / size + eps)[:, None]
        x = weighted(x, scale, tl.load(weight + at, mask=inside, other=0.0), offset, SHIFTS)
        y = weighted(y, scale, tl.load(weight + mate, mask=inside, other=0.0), offset, SHIFTS)
    return x, y


@triton.jit
def weighted(x, scale, weight, offset, SHIFTS: tl.constexpr):
    """The last step of an RMS norm."""
    normed, factor = x.to(tl.float32) * scale, weight.to(tl.float32)
    if SHIFTS:
        factor += offset
    else:
        normed = normed.to(x.dtype).to(tl.float32)
    return (normed * factor).to(x.dtype)


@triton.jit
def plus(x, more, inside):
    return (x.to(tl.float32) + tl.load(more, mask=inside, other=0.0).to(tl.float32)).to(x.dtype)


@triton.jit
def turned(x, y, cos, sin, at, half, inside):
    """x cos - y sin in the first half, x cos + y sin in the second."""
    angle = tl.where(at < half, at, at - half)
    c = tl.load(cos + angle, mask=inside, other=1.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    first = (x.to(tl.float32) * c).to(x.dtype).to(tl.float32)
    return (first + tl.where(at < half, -s, s) * y.to(tl.float32)).to(x.dtype)
