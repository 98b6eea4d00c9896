"""The lean forward's products on a CPU, whose cost is that of reading the weights.

Three ways, chosen by the shape alone, so that the same step is always the same arithmetic:
* `x @ weight.T` (`F.linear`) for single rows, for many rows, and for small matrices;
* `(weight @ x.T).T` for a few rows: MKL takes half the time or less, since it then reads the weights in their order;
* weights packed for oneDNN (`Packed`): for more rows, 0.6 to 0.85 of that, at the cost of a second copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.lean.family import Family, Linear
from polythink.engine.lean.torch_ops import TorchOps

TURNED_ROWS = 8  # up to so many rows packed weights save too little: as much as `(weight @ x.T).T` takes, or 0.9 of it
FEW_ROWS = 128  # at most so many for `(weight @ x.T).T`
LARGE = 1 << 16  # elements of a matrix from which on the other ways than `F.linear` pay
MOST_PACKED = 1 << 30  # bytes: larger models are not packed


class Packed:
    """A copy of the weights in the order in which oneDNN reads them; products of the same input are one.

    It does not follow the weights: to be made anew whenever they may have changed.
    """

    def __init__(self, family: Family) -> None:
        self.found: dict[int, tuple[torch.Tensor, torch.Tensor | None, list[int]]] = {}  # by id of the first weight
        for linears in _together(family):
            weights, biases = zip(*linears, strict=True)
            weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights), 32)
            bias = None if biases[0] is None else torch.cat(biases)
            self.found[id(weights[0])] = weight, bias, [len(w) for w in weights]

    def products(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        weight, bias, sizes = self.found[id(linears[0].weight)]
        out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out.split(sizes, -1) if len(sizes) > 1 else (out,)


class CPUOps(TorchOps):
    """`TorchOps` with the products of a CPU."""

    def __init__(self, family: Family, cache: TreeKVCache, dtype: torch.dtype, packed: Packed | None, *more) -> None:
        super().__init__(family, cache, dtype, *more)
        self.packed = packed

    def linear(self, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        if not 1 < len(x) <= FEW_ROWS or weight.numel() < LARGE:
            return F.linear(x, weight, bias)
        out = torch.mm(weight, x.t()).t().contiguous()
        return out if bias is None else out.add_(bias)

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        if self.packed is not None and packing_pays(len(x)):
            return self.packed.products(x, linears)
        return super().linears(x, linears)


def packing_pays(rows: int) -> bool:
    """Are products of so many rows faster with packed weights, with one thread and with several?"""
    return rows > TURNED_ROWS


def may_pack(family: Family) -> bool:
    """Are the weights such that packing them pays, and are the means there?"""
    weight = family.head.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    weights = [linear.weight for linears in _together(family) for linear in linears]
    return min(w.numel() for w in weights) >= LARGE and 4 * sum(w.numel() for w in weights) <= MOST_PACKED


def _together(family: Family) -> Iterator[tuple[Linear, ...]]:
    """The products of the forward; those of the same input together."""
    for layer in family.layers:
        yield layer.query, layer.key, layer.value
        yield (layer.out,)
        yield layer.gate, layer.up
        yield (layer.down,)
    yield (Linear(family.head.weight, family.head.bias),)
