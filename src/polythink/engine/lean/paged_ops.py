"""The pieces of the lean forward over pages of keys and values: in plain torch, and in Triton kernels.

Both may be captured in a CUDA graph: they read the step's facts from tensors that stay where they are.

Axis legend: N tokens, E hidden size, G query heads, H key and value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from polythink.engine.lean.family import Family, Layer, Linear
from polythink.engine.lean.streams import side_streams
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
    """The same with one kernel for each piece but the matrix products: 13 launches a layer in all."""

    attention = "triton"

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

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        """In a graph, products of the same input are branches: side by side where one alone does not fill the GPU."""
        if len(linears) == 1 or not x.is_cuda or not torch.cuda.is_current_stream_capturing():
            return super().linears(x, linears)
        main, found = torch.cuda.current_stream(x.device), []
        for side, linear in zip(side_streams(x.device), linears[1:], strict=False):
            side.wait_stream(main)
            with torch.cuda.stream(side):
                found.append(self.linear(x, *linear))
        first = self.linear(x, *linears[0])
        for side in side_streams(x.device)[: len(found)]:
            main.wait_stream(side)
        return [first, *found]

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
