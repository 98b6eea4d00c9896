"""The places where a trainer must know that it is one of several processes. With one process they do nothing.

Everything else in this room reads as if there were one. Parameters, optimiser and gradients need no such place: the
optimiser is made from `model.parameters()` and the model is only ever called as a whole, so it may be sharded before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from polythink.errors import UserError

Item = TypeVar("Item")


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def refuse_many() -> None:
    """Stop where a launcher started several processes that would each train a model of their own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and world_size() == 1:
        raise UserError("training in several processes is not built yet; start one process, without torchrun")


def shard(items: Sequence[Item]) -> list[Item]:
    """The items that this process works on."""
    return list(items[rank() :: world_size()])


def all_reduce_sum(value: float, device: torch.device | str = "cpu") -> float:
    """The sum of a number over all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.item()
