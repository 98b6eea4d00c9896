"""The gate of a feed-forward block: activation(gate) * up in one kernel.

The torch twin is `TorchOps.gate` of `polythink.engine.lean.torch_ops`. Axis legend: N tokens, F features of the block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024
KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}


def gate(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """(N, F): activation(gate) * up; `gate` and `up` (N, F), contiguous; `activation` one of `KINDS`.

    Computed in float32, rounded where a module of transformers rounds: after the activation and at the end.
    """
    assert gate.is_contiguous()
    assert up.is_contiguous()
    assert (gate.shape, gate.dtype) == (up.shape, up.dtype)
    out = torch.empty_like(gate)
    if count := gate.numel():
        gate_kernel[(triton.cdiv(count, BLOCK),)](gate, up, out, count, KINDS[activation], BLOCK)
    return out


@triton.jit
def gate_kernel(gate, up, out, count, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK values."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    x = tl.load(gate + at, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    if KIND == 1:
        wide = 0.5 * wide * (1.0 + tl.erf(wide * 0.7071067811865476))  # 1 / sqrt(2)
    else:
        # x sigmoid(x), or x (1 + tanh(u)) / 2 = x sigmoid(2u); no exponential overflows
        inner = wide if KIND == 0 else 1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)  # 2 sqrt(2 / pi)
        wide = wide / (1.0 + tl.exp(-tl.maximum(inner, -80.0)))
    wide = wide.to(x.dtype).to(tl.float32)
    product = wide * tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, product.to(x.dtype), mask=inside)
