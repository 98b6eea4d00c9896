"""The pieces of the lean forward over pages of keys and values: in plain torch, and in Triton kernels.

Both may be captured in a CUDA graph: they read the step's facts from tensors that stay where they are.

Axis legend: N tokens, E hidden size, G query heads, H key and value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from polythink.engine.lean.family import Family, Layer, Linear, Norm
from polythink.engine.lean.torch_ops import TorchOps
from polythink.engine.paged.cache import PagedCache


class PagedOps(TorchOps):
    """See `polythink.engine.lean.forward.Ops`. For the step that the cache has planned and begun.

    `vectors` (layers, N, D) are added to the keys and values of each token. Factors on the queries' scores are the
    cache's concern.
    """

    attention = "torch"  # the kernel of the attention

    def __init__(
        self, family: Family, cache: PagedCache, dtype: torch.dtype, vectors: torch.Tensor | None = None
    ) -> None:
        super().__init__(family, cache, dtype, vectors, positions=cache.now.position)

    def write(self, layer: Layer, k: torch.Tensor, v: torch.Tensor) -> None:
        self.cache.write(layer.index, k, v)

    def attend(self, layer: Layer, q: torch.Tensor) -> torch.Tensor:
        return self.cache.attend(layer.index, q, layer.scaling)


class TritonOps(PagedOps):
    """The same with one kernel for each piece but the matrix products: 13 launches a layer in all.

    With up to `few` rows the products are kernels too, which do what stands before and after them: 7 launches.
    """

    attention = "triton"
    few = True

    def __init__(
        self, family: Family, cache: PagedCache, dtype: torch.dtype, vectors: torch.Tensor | None = None
    ) -> None:
        super().__init__(family, cache, dtype, vectors)
        half = family.head_dim // 2
        # the kernel takes the plain sine of the first half
        self.halves = [(cos[:, 0, :half].contiguous(), sin[:, 0, half:].contiguous()) for cos, sin in self.turns]

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: nn.Parameter, eps: float, offset: float
    ) -> torch.Tensor:
        from polythink.engine.kernels.norm import add_norm

        return add_norm(x, delta, weight, eps, offset)

    def normed_linears(
        self, x: torch.Tensor, delta: torch.Tensor | None, norm: Norm, linears: Sequence[Linear]
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        from polythink.engine.kernels.products import fits, products

        if self.few and fits(x):
            return products(x, linears, delta, norm)
        return super().normed_linears(x, delta, norm, linears)

    def normed_gate(
        self, x: torch.Tensor, delta: torch.Tensor, norm: Norm, gate: Linear, up: Linear, activation: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from polythink.engine.kernels.products import fits, products

        if self.few and fits(x):
            x, (gated,) = products(x, (gate, up), delta, norm, activation)
            return x, gated
        return super().normed_gate(x, delta, norm, gate, up, activation)

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        from polythink.engine.kernels.products import fits, products

        return products(x, linears)[1] if self.few and fits(x) else super().linears(x, linears)

    def rotate_and_write(self, layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        from polythink.engine.kernels.rotary import rotate_and_write

        norm = layer.query_norm
        return rotate_and_write(
            q,
            k,
            v,
            None if layer.rotary is None else self.halves[layer.rotary],
            self.cache.now.slot,
            self.cache.keys[layer.index],
            self.cache.values[layer.index],
            None if norm is None else (norm.weight, layer.key_norm.weight),
            0.0 if norm is None else norm.eps,
            0.0 if norm is None else norm.offset,
            None if self.vectors is None else self.vectors[layer.index],
        )

    def gate(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        from polythink.engine.kernels.gate import gate as product

        return product(gate, up, activation)
