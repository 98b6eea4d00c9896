"""The residual stream and its norms: one kernel adds what a block gives and norms what the next block takes.

The torch twin is `TorchOps.add_norm` of `polythink.engine.lean.torch_ops`. Axis legend: N tokens, E features.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """Adds `delta` (N, E) to the residual stream `x` (N, E) in place; returns x / rms(x) * (offset + weight), (N, E).

    `weight` (E,). Rows are contiguous, all of one dtype. Computed in float32, rounded where a module of transformers
    rounds: after the addition, before the product with a weight without offset, at the end. RMS norm: Zhang and
    Sennrich 2019; `offset` 1 is Gemma's.
    """
    tokens, features = x.shape
    assert x.stride(1) == 1
    assert weight.is_contiguous()
    assert delta is None or delta.stride(1) == 1
    out = torch.empty_like(x)
    if tokens:
        size = triton.next_power_of_2(features)
        add_norm_kernel[(tokens,)](
            x, x if delta is None else delta, weight, out,
            x.stride(0), 0 if delta is None else delta.stride(0), out.stride(0), features, eps, offset,
            delta is not None, offset != 0, size, num_warps=min(max(size // 256, 1), 16),
        )  # fmt: skip
    return out


@triton.jit
def add_norm_kernel(
    x, delta, weight, out, x_stride, delta_stride, out_stride, features, eps, offset,
    ADDS: tl.constexpr, SHIFTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    inside = at < features
    values = tl.load(x + token * x_stride + at, mask=inside, other=0.0)
    if ADDS:
        more = tl.load(delta + token * delta_stride + at, mask=inside, other=0.0)
        values = (values.to(tl.float32) + more.to(tl.float32)).to(values.dtype)
        tl.store(x + token * x_stride + at, values, mask=inside)
    wide = values.to(tl.float32)
    normed = wide * (1.0 / tl.sqrt_rn(tl.sum(wide * wide, 0) / features + eps))
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFTS:
        factor += offset
    else:
        normed = normed.to(values.dtype).to(tl.float32)
    tl.store(out + token * out_stride + at, (normed * factor).to(values.dtype), mask=inside)
