"""The pieces of the lean forward in plain torch: what runs on the CPU, and the slow twin of other devices' pieces.

Axis legend: N tokens, E hidden size, G query heads, H key and value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from polythink.engine.backends import attention
from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.lean.family import Family, Layer, Linear, Rotary

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class TorchOps:
    """See `polythink.engine.lean.forward.Ops`. For one step, whose tokens the cache has planned.

    `vectors` (layers, N, D) are added to the keys and values of each token, `scale` (N,) multiplies its queries.
    """

    def __init__(
        self,
        family: Family,
        cache: TreeKVCache,
        dtype: torch.dtype,
        vectors: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> None:
        self.cache, self.vectors = cache, vectors
        self.scale = None if scale is None else scale[:, None, None]
        positions = (cache.now.positions if positions is None else positions)[:, None].float()
        self.turns = [turns(rotary, positions, dtype) for rotary in family.rotaries]

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: nn.Parameter, eps: float, offset: float
    ) -> torch.Tensor:
        if delta is not None:
            x += delta
        return norm(x, weight, eps, offset)

    def linear(self, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        return [self.linear(x, weight, bias) for weight, bias in linears]

    def rotate_and_write(self, layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if layer.query_norm is not None:
            q, k = norm(q, *layer.query_norm), norm(k, *layer.key_norm)
        if self.vectors is not None:
            vector = self.vectors[layer.index][:, None].to(k.dtype)
            k, v = k + vector, v + vector
        if self.scale is not None:
            q = (q * self.scale).to(q.dtype)
        if layer.rotary is not None:
            cos, sin = self.turns[layer.rotary]
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.write(layer, k, v)
        return q

    def write(self, layer: Layer, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put keys and values (N, H, D) into the step's slots."""
        keys, values = (x.transpose(0, 1)[None] for x in (k, v))  # (1, H, N, D)
        self.read = self.cache.layers[layer.index].update(keys, values)

    def attend(self, layer: Layer, q: torch.Tensor) -> torch.Tensor:
        return attention.attend(self.cache, q, *self.read, layer.scaling, layer.window)

    def gate(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        return ACTIVATIONS[activation](gate).mul_(up)


def norm(x: torch.Tensor, weight: nn.Parameter, eps: float, offset: float) -> torch.Tensor:
    """x / rms(x) * (offset + weight) over the last axis, in float32, of the type of x."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * (weight.float() + offset)).to(x.dtype) if offset else normed.to(x.dtype) * weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (N, heads, D) with its halves turned against each other; `cos`, `sin` (N, 1, D), the first half of sin < 0."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def turns(rotary: Rotary, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine (N, 1, D) of the positions (N, 1) float32."""
    angle = positions * rotary.frequencies.float()
    cos, sin = angle.cos() * rotary.stretch, angle.sin() * rotary.stretch
    return torch.cat((cos, cos), -1).to(dtype)[:, None], torch.cat((-sin, sin), -1).to(dtype)[:, None]
