"""Caches of any transformers model as trees of tensors, so that they can be copied, stacked and split.

Models with recurrent, linear or convolutional layers keep their state in a cache of several kinds of layers, in a class
of their own, or in a plain list. Nothing here knows any of them: a cache is walked, through lists, dicts and the
attributes of objects, and each tensor in it is taken to have the batch as its first dimension. Whether that holds for a
model, its self-check finds out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

_ATOMS = (type(None), bool, int, float, str, type, torch.dtype, torch.device, PreTrainedConfig, torch.nn.Module)


def stack(caches: Sequence[tuple[Any, int]]) -> Any:
    """One cache of a batch, from given rows of given caches (with the same `signature`); everything in it is a copy."""

    def rows(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if not tensors[0].dim():
            return tensors[0].clone()
        parts = [x[row : row + 1] for x, (_, row) in zip(tensors, caches, strict=True)]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    return _map(rows, [cache for cache, _ in caches], {})


def signature(cache: Any) -> Hashable:
    """What two caches must share to be stacked: their structure, and the shapes of all tensors but for the batch."""
    found: list[Hashable] = []

    def note(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        (x,) = tensors
        found.append((x.shape[1:], x.dtype, x.dim()))
        return x

    _map(note, [cache], {}, found.append)
    return tuple(found)


def tensors_of(cache: Any) -> list[torch.Tensor]:
    """All tensors of a cache, in the order of the walk."""
    found: list[torch.Tensor] = []
    _map(lambda tensors: found.append(tensors[0]) or tensors[0], [cache], {})
    return found


def _map(
    function: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    caches: Sequence[Any],
    known: dict[int, Any],
    atom: Callable[[Any], None] = lambda value: None,
) -> Any:
    """A new cache: `function` of the tensors that lie at the same place in all of `caches`, other values as in the first.

    `known`: what has been made, by the id of the first cache's part, so that what is one object stays one object.
    """
    first = caches[0]
    if isinstance(first, _ATOMS):
        atom(first)
        return first
    if id(first) in known:
        return known[id(first)]

    def deeper(parts: Sequence[Any]) -> Any:
        return _map(function, parts, known, atom)

    if isinstance(first, torch.Tensor):
        made = function(caches)
    elif isinstance(first, (list, tuple)):
        atom(len(first))
        made = type(first)([deeper(parts) for parts in zip(*caches, strict=True)])
    elif isinstance(first, dict):
        atom(tuple(first))
        made = {key: deeper([cache[key] for cache in caches]) for key in first}
    elif hasattr(first, "__dict__") and not callable(first):
        made = known[id(first)] = copy.copy(first)  # entered first: an object may refer to itself
        atom(tuple(vars(first)))
        for name in vars(first):
            setattr(made, name, deeper([vars(cache)[name] for cache in caches]))
    else:  # a stream, say
        atom(type(first))
        made = first
    known[id(first)] = made
    return made
