"""Products of a few rows with the weights, whose cost is that of reading them: one launch for what takes several.

Residual addition, RMS norm, all products of the same input and the gate are one kernel. A program reads its rows of one
weight once and all rows of the input, which stay in the GPU's cache. The torch twin is `TorchOps` of
`polythink.engine.lean.torch_ops`: `add_norm`, `linears` and `gate` one after another.

Axis legend: N rows, E features, F outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from polythink.engine.kernels.gate import KINDS, activated

MOST_ROWS = 16  # one tile of the tensor cores; with more the input is read too often
MOST = 3  # products in one launch

Weights = Sequence[tuple[torch.Tensor, torch.Tensor | None]]  # (F, E) and (F,)


def fits(x: torch.Tensor) -> bool:
    """Only in bfloat16: the scale of the norm is applied after the product, which float16 would not survive."""
    return 0 < len(x) <= MOST_ROWS and x.dtype == torch.bfloat16


def products(
    x: torch.Tensor,
    linears: Weights,
    delta: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, float, float] | None = None,
    activation: str | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The sum x + delta (N, E), and its norm's products with up to three weights, (N, F) each.

    `norm`: weight (E,), eps and offset (see `add_norm`); None: the sum itself is multiplied. `activation` (of
    `KINDS`): there are two weights, and the one result is activation(first product) * second product. Products are
    summed in float32. The scale of the norm is applied to the products, so the norm is not rounded before its weight.
    """
    rows, features = x.shape
    assert rows <= MOST_ROWS
    assert x.is_contiguous()
    assert 1 <= len(linears) <= MOST
    assert delta is None or delta.stride(1) == 1
    assert all(weight.is_contiguous() for weight, _ in linears)
    gated = activation is not None
    summed = x if delta is None else torch.empty_like(x)
    sizes = [len(weight) for weight, _ in linears]
    outs = [x.new_empty(rows, size) for size in (sizes[:1] if gated else sizes)]
    width, depth, warps, stages = shape_of(sizes, features, gated)
    blocks = [triton.cdiv(size, width) for size in sizes]
    padded = [*linears, *[linears[0]] * (MOST - len(linears))]
    weights, biases = zip(*padded, strict=True)
    to, ends = [*outs, *[outs[0]] * (MOST - len(outs))], [blocks[0], sum(blocks[:2])]
    products_kernel[(blocks[0] if gated else sum(blocks),)](
        x, x if delta is None else delta, summed, x if norm is None else norm[0],
        *weights, *(x if bias is None else bias for bias in biases), *to,
        rows, features, *[*sizes, *[0] * (MOST - len(sizes))], *ends,
        x.stride(0), 0 if delta is None else delta.stride(0), 0.0 if norm is None else norm[1],
        0.0 if norm is None else norm[2],
        len(linears), delta is not None, norm is not None, norm is not None and norm[2] != 0,
        biases[0] is not None, KINDS[activation] if gated else -1, MOST_ROWS, width, depth,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return summed, outs


def shape_of(sizes: Sequence[int], features: int, gated: bool) -> tuple[int, int, int, int]:
    """Outputs and features of a tile, warps and pipeline stages: enough programs to fill 132 multiprocessors."""
    wide = sum(sizes) // (2 if gated else 1) >= 16384
    return (64 if wide else 16), 256, 4, 3


@triton.jit
def products_kernel(
    x, delta, summed, norm, w0, w1, w2, b0, b1, b2, out0, out1, out2, rows, features, n0, n1, n2, end0, end1,
    x_stride, delta_stride, eps, offset,
    COUNT: tl.constexpr, ADDS: tl.constexpr, NORMS: tl.constexpr, SHIFTS: tl.constexpr, BIAS: tl.constexpr,
    KIND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """WIDTH outputs of one product, or of both that are gated, for all rows."""
    program = tl.program_id(0)
    w, b, out, n, block = w0, b0, out0, n0, program
    if KIND < 0:
        if COUNT > 1:  # noqa: SIM102 - decided when the kernel is compiled
            if program >= end0:
                w, b, out, n, block = w1, b1, out1, n1, program - end0
        if COUNT > 2:  # noqa: SIM102
            if program >= end1:
                w, b, out, n, block = w2, b2, out2, n2, program - end1
    row, k, column = tl.arange(0, ROWS), tl.arange(0, DEPTH), block * WIDTH + tl.arange(0, WIDTH)
    real, made = (row < rows)[:, None], column < n
    place = column.to(tl.int64)[None, :] * features
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    second = tl.zeros((ROWS, WIDTH), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, features, DEPTH):
        at = start + k
        inside = at < features
        values = tl.load(x + row[:, None] * x_stride + at[None, :], mask=real & inside[None, :], other=0.0)
        if ADDS:
            more = tl.load(delta + row[:, None] * delta_stride + at[None, :], mask=real & inside[None, :], other=0.0)
            values = (values.to(tl.float32) + more.to(tl.float32)).to(values.dtype)
            first = real & inside[None, :] & (program == 0)
            tl.store(summed + row[:, None] * features + at[None, :], values, mask=first)
        if NORMS:
            wide = values.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            factor = tl.load(norm + at, mask=inside, other=0.0).to(tl.float32)
            if SHIFTS:
                factor += offset
            values = (wide * factor[None, :]).to(values.dtype)
        seen = inside[:, None] & made[None, :]
        weights = tl.load(w + place + at[:, None], mask=seen, other=0.0)  # (DEPTH, WIDTH)
        total = tl.dot(values, weights, total)
        if KIND >= 0:
            weights = tl.load(w1 + place + at[:, None], mask=seen, other=0.0)
            second = tl.dot(values, weights, second)
    if NORMS:
        scale = (1.0 / tl.sqrt_rn(squares / features + eps))[:, None]
        total *= scale
        second *= scale
    if BIAS:
        total += tl.load(b + column, mask=made, other=0.0).to(tl.float32)[None, :]
        if KIND >= 0:
            second += tl.load(b1 + column, mask=made, other=0.0).to(tl.float32)[None, :]
    result = total.to(out.dtype.element_ty)
    if KIND >= 0:
        result = activated(result, KIND).to(tl.float32) * second.to(result.dtype).to(tl.float32)
    tl.store(out + row[:, None] * n + column[None, :], result.to(out.dtype.element_ty), mask=real & made[None, :])
