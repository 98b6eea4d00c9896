"""Caches of any transformers model as trees of tensors, so that they can be copied, stacked and split.

Models with recurrent, linear or convolutional layers keep their state in a cache of several kinds of layers, in a class
of their own, or in a plain list. Nothing here knows any of them: a cache is walked, through lists, dicts and the
attributes of objects. Which dimension of each tensor is the batch, two caches of different batches tell (`batch_dims`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

Path = tuple[Hashable, ...]  # attribute names, keys and indices from the cache down to a tensor
_ATOMS = (type(None), bool, int, float, str, type, torch.dtype, torch.device, PreTrainedConfig, torch.nn.Module)


def stack(caches: Sequence[tuple[Any, int]], dims: Mapping[Path, int]) -> Any:
    """One cache of a batch: copies of these rows of these caches, which have the same `signature`."""

    def rows(path: Path, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if path not in dims:
            return tensors[0].clone()
        dim = dims[path]
        parts = [x.narrow(dim, row, 1) for x, (_, row) in zip(tensors, caches, strict=True)]
        return torch.cat(parts, dim) if len(parts) > 1 else parts[0].clone()

    return _Walk(rows).map([cache for cache, _ in caches])


def copied(cache: Any) -> Any:
    """A copy of a whole cache."""
    return _Walk(lambda path, tensors: tensors[0].clone()).map([cache])


def signature(cache: Any, dims: Mapping[Path, int]) -> Hashable:
    """What two caches must share to be stacked: structure, values, and the shapes of all tensors but for the batch."""
    found: list[Hashable] = []

    def note(path: Path, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        x = tensors[0]
        shape = list(x.shape)
        if path in dims:
            shape[dims[path]] = -1
        found.append((path, tuple(shape), x.dtype))
        return x

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


def batch_dims(two: Any, three: Any) -> dict[Path, int]:
    """The dimension of each tensor that is the batch, from caches of the same tokens for batches of two and of three.

    Tensors without one are left out. `ValueError` where the two do not tell.
    """
    dims: dict[Path, int] = {}
    others = tensors_of(three)
    for path, x in tensors_of(two).items():
        differing = [d for d, sizes in enumerate(zip(x.shape, others[path].shape, strict=True)) if len(set(sizes)) > 1]
        if differing and (len(differing) > 1 or x.shape[differing[0]] != 2 or others[path].shape[differing[0]] != 3):
            raise ValueError(
                f"a cache has tensors of shapes {tuple(x.shape)} and {tuple(others[path].shape)} for "
                "batches of two and three"
            )
        if differing:
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
