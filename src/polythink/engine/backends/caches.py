"""Caches of any transformers model as trees of tensors, so that they can be copied, stacked and split.

Models with recurrent, linear or convolutional layers keep their state in a cache of several kinds of layers, in a class
of their own, or in a plain list. Nothing here knows any of them: a cache is walked, through lists, dicts and the
attributes of objects. Which dimension of each tensor is the batch, and which the tokens, other caches tell (`measure`).

A state has no dimension of tokens; keys and values have one. Caches of different lengths are stacked with padding on
the left of these, as transformers pads the prompts of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

Path = tuple[Hashable, ...]  # attribute names, keys and indices from the cache down to a tensor
_ATOMS = (type(None), bool, int, float, str, type, torch.dtype, torch.device, PreTrainedConfig, torch.nn.Module)


@dataclass(frozen=True)
class Dims:
    """Of each tensor of a cache that has them: the dimension of the batch, and that of the tokens."""

    batch: dict[Path, int]
    tokens: dict[Path, int]

    @property
    def may_be_padded(self) -> bool:
        """Nothing but keys and values has tokens. An indexer's groups of tokens, say, would be cut elsewhere."""
        return all(path[-1] in ("keys", "values") for path in self.tokens)


class Row(NamedTuple):
    """A row of a stacked cache, and how many tokens it has read; what lies before them is padding."""

    cache: Any
    index: int
    length: int


def stack(rows: Sequence[Row], dims: Dims) -> Any:
    """One cache of a batch: copies of these rows, whose caches have the same `signature`."""
    same = len({row.length for row in rows}) == 1
    longest = max(row.length for row in rows)

    def joined(path: Path, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if path not in dims.batch:
            return tensors[0].clone()
        dim, parts = dims.batch[path], []
        for x, row in zip(tensors, rows, strict=True):
            part = x.narrow(dim, row.index, 1)
            if path in dims.tokens:
                part = _fitted(part, dims.tokens[path], row.length, 0 if same else longest)
            parts.append(part)
        return torch.cat(parts, dim) if len(parts) > 1 else parts[0].clone()

    return _Walk(joined).map([row.cache for row in rows])


def _fitted(x: torch.Tensor, dim: int, length: int, wanted: int) -> torch.Tensor:
    """Without the padding before its last `length` tokens, and with as much as makes it `wanted` tokens long."""
    if x.shape[dim] > length:
        x = x.narrow(dim, x.shape[dim] - length, length)
    if wanted <= x.shape[dim]:
        return x
    shape = list(x.shape)
    shape[dim] = wanted - x.shape[dim]
    return torch.cat((x.new_zeros(shape), x), dim)


def copied(cache: Any) -> Any:
    """A copy of a whole cache."""
    return _Walk(lambda path, tensors: tensors[0].clone()).map([cache])


def signature(cache: Any, dims: Dims) -> Hashable:
    """What caches must share to be stacked: structure, values, and the shapes of tensors but for batch and tokens."""
    found: list[Hashable] = []

    def note(path: Path, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        shape = list(tensors[0].shape)
        for dim in (known[path] for known in (dims.batch, dims.tokens) if path in known):
            shape[dim] = -1
        found.append((path, tuple(shape), tensors[0].dtype))
        return tensors[0]

    _Walk(note, found.append).map([cache])
    return tuple(found)


def tensors_of(cache: Any) -> dict[Path, torch.Tensor]:
    """All tensors of a cache."""
    found: dict[Path, torch.Tensor] = {}

    def note(path: Path, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        found[path] = tensors[0]
        return tensors[0]

    _Walk(note).map([cache])
    return found


def measure(make: Callable[[int, int], Any]) -> Dims:
    """The dimensions of the caches that `make` gives for a number of rows and of tokens.

    `ValueError` where they do not follow from three such caches.
    """
    few, rows, tokens = (tensors_of(make(*size)) for size in ((2, 4), (3, 4), (2, 5)))
    return Dims(_differing(few, rows, 2), _differing(few, tokens, 4))


def _differing(few: Mapping[Path, torch.Tensor], more: Mapping[Path, torch.Tensor], size: int) -> dict[Path, int]:
    """The dimension of each tensor that has grown from `size` by one."""
    dims: dict[Path, int] = {}
    for path, x in few.items():
        a, b = tuple(x.shape), tuple(more[path].shape)
        differing = [d for d, sizes in enumerate(zip(a, b, strict=True)) if len(set(sizes)) > 1]
        if not differing:
            continue
        if len(differing) > 1 or (a[differing[0]], b[differing[0]]) != (size, size + 1):
            raise ValueError(
                f"a tensor of the cache has the shapes {a} and {b} for {size} and {size + 1} rows or tokens"
            )
        dims[path] = differing[0]
    return dims


class _Walk:
    """Makes a cache from others: `function` of the tensors at the same place in all, other values as in the first.

    `atom` is called with those other values. What is one object in the first cache is one object in the new one.
    """

    def __init__(
        self,
        function: Callable[[Path, Sequence[torch.Tensor]], torch.Tensor],
        atom: Callable[[Hashable], None] = lambda value: None,
    ) -> None:
        self.function, self.atom = function, atom
        self.known: dict[int, Any] = {}  # by the id of the first cache's part

    def map(self, caches: Sequence[Any], path: Path = ()) -> Any:
        first = caches[0]
        if isinstance(first, _ATOMS):
            self.atom(first if isinstance(first, Hashable) else id(first))
            return first
        if id(first) not in self.known:
            self.known[id(first)] = self._made(caches, path)
        return self.known[id(first)]

    def _made(self, caches: Sequence[Any], path: Path) -> Any:
        first = caches[0]
        if isinstance(first, torch.Tensor):
            return self.function(path, caches)
        if isinstance(first, (list, tuple)):
            self.atom(len(first))
            parts = [self.map(parts, (*path, i)) for i, parts in enumerate(zip(*caches, strict=True))]
            return type(first)(parts)
        if isinstance(first, dict):
            self.atom(tuple(first))
            return {key: self.map([cache[key] for cache in caches], (*path, key)) for key in first}
        if not hasattr(first, "__dict__") or callable(first):  # a stream, say
            self.atom(type(first))
            return first
        self.atom(tuple(vars(first)))
        made = self.known[id(first)] = copy.copy(first)  # entered first: an object may refer to itself
        for name in vars(first):
            setattr(made, name, self.map([vars(cache)[name] for cache in caches], (*path, name)))
        return made
