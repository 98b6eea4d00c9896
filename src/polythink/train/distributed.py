"""Where a training loop must know that it is one of several processes. With one process these functions do nothing.

The losses are ready for several processes: batches are sharded, and token counts are summed before gradients are
averaged. The rest is not yet: sampling takes a different number of forwards on each rank, every rank would write
metrics.jsonl, and checkpoints hold whole state dicts. `refuse_many` therefore stops a run that a launcher started.
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
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def refuse_many() -> None:
    """`UserError` where a launcher started several processes: each would train a model of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and world_size() == 1:
        raise UserError("training in several processes is not supported yet; start one process, without torchrun")


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
