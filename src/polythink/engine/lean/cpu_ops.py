"""The lean forward's products on a CPU, whose cost is that of reading the weights.

Three ways, chosen by shape, dtype and the CPU's kind alone, so that the same step is always the same arithmetic:
* `x @ weight.T` (`F.linear`) for single rows, for many rows, for small matrices, and for bfloat16 on a CPU that
  multiplies it: one of 3072 x 576 takes 0.60 ms for 8 rows there, `(weight @ x.T).T` 0.75;
* `(weight @ x.T).T` for a few rows: MKL takes half the time or less, since it then reads the weights in their order;
* weights packed for oneDNN (`Packed`): 0.6 to 0.85 of that (the same matrix: 0.36 ms in bfloat16), at the cost of a
  second copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.lean.family import Family, Linear
from polythink.engine.lean.torch_ops import TorchOps
from polythink.models.forward import product_dtype

TURNED_ROWS = 8  # up to so many rows packed weights save too little: as much as `(weight @ x.T).T` takes, or 0.9 of it
TURNED_ROWS_WIDE = 3  # and so many with registers of 512 bits: of 4 rows they take 0.4 to 0.85 of it, of 8 0.5 to 0.65
FEW_ROWS = 128  # at most so many for `(weight @ x.T).T`
LARGE = 1 << 16  # elements of a matrix from which on the other ways than `F.linear` pay
MOST_PACKED = 1 << 30  # bytes: larger models are not packed


class Packed:
    """A copy of the weights in the order in which oneDNN reads them; products of the same input are one.

    In `dtype`, to which inputs are cast too, as autocast does. It does not follow the weights: to be made anew whenever
    they may have changed.
    """

    def __init__(self, family: Family, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.found: dict[int, tuple[torch.Tensor, torch.Tensor | None, list[int]]] = {}  # by id of the first weight
        for linears in _together(family):
            weights, biases = zip(*linears, strict=True)
            weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights).to(dtype), 32)
            bias = None if biases[0] is None else torch.cat(biases).to(dtype)
            self.found[id(weights[0])] = weight, bias, [len(w) for w in weights]

    def products(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        weight, bias, sizes = self.found[id(linears[0].weight)]
        out = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), weight, bias, "none", [], "")
        return out.split(sizes, -1) if len(sizes) > 1 else (out,)


class CPUOps(TorchOps):
    """`TorchOps` with the products of a CPU."""

    def __init__(self, family: Family, cache: TreeKVCache, dtype: torch.dtype, packed: Packed | None, *more) -> None:
        super().__init__(family, cache, dtype, *more)
        self.packed = packed

    def linear(self, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        if not 1 < len(x) <= FEW_ROWS or weight.numel() < LARGE or multiplies_bfloat16(product_dtype(x.dtype)):
            return F.linear(x, weight, bias)
        out = torch.mm(weight, x.t()).t().contiguous()
        return out if bias is None else out.add_(bias)

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        dtype = product_dtype(x.dtype)
        if self.packed is not None and self.packed.dtype == dtype and packing_pays(len(x), dtype):
            return self.packed.products(x, linears)
        return super().linears(x, linears)


@cache
def multiplies_bfloat16(dtype: torch.dtype) -> bool:
    """Is it bfloat16, and does this CPU multiply that without turning it into float32?"""
    return dtype == torch.bfloat16 and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def packs_from(dtype: torch.dtype) -> int | None:
    """From how many rows on products are faster with packed weights, with one thread and with several; None: never."""
    if dtype == torch.float32:
        return 1 + (TURNED_ROWS_WIDE if torch.backends.cpu.get_cpu_capability() == "AVX512" else TURNED_ROWS)
    return 1 if multiplies_bfloat16(dtype) else None


def packing_pays(rows: int, dtype: torch.dtype) -> bool:
    """Are products of so many rows faster with packed weights?"""
    least = packs_from(dtype)
    return least is not None and rows >= least


def may_pack(family: Family) -> bool:
    """Are the weights such that packing them pays, and are the means there?"""
    weight = family.head.weight
    dtype = product_dtype(weight.dtype)
    if weight.device.type != "cpu" or packs_from(dtype) is None or not torch.backends.mkldnn.is_available():
        return False
    weights = [linear.weight for linears in _together(family) for linear in linears]
    if any(w.dtype != weight.dtype for w in weights):
        return False
    return min(w.numel() for w in weights) >= LARGE and sum(w.numel() for w in weights) * dtype.itemsize <= MOST_PACKED


def _together(family: Family) -> Iterator[tuple[Linear, ...]]:
    """The products of the forward; those of the same input together."""
    for layer in family.layers:
        yield layer.query, layer.key, layer.value
        yield (layer.out,)
        yield layer.gate, layer.up
        yield (layer.down,)
    yield (Linear(family.head.weight, family.head.bias),)
