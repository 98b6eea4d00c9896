"""Dynamic sampling (DAPO, arXiv 2503.14476, eq. 11): a step draws on until it has enough groups with spread.

A group whose rewards are all equal teaches nothing, so a step that draws once trains on fewer groups than it asked
for. Here it draws whole batches until `wanted` groups differ, at most `most` batches, and trains on the first `wanted`
of them; what a step has too few of after that, it goes without. What it draws follows from (seed, step, number of the
batch) alone, so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from polythink.train import distributed
from polythink.train.config import GRPOConfig

Batch = TypeVar("Batch")


def draw_step(
    draw: Callable[[int], tuple[Any, list[list], torch.Tensor]], config: GRPOConfig
) -> tuple[Any, list[list], torch.Tensor, torch.Tensor, dict]:
    """All that a step draws: the sum of its batches, their groups, which of these (P,) have no spread, which are left
    out of training (for that, or because there are enough others), and metrics of dynamic sampling.

    `draw(number)` gives a batch, its groups, and (P,) bool: which of them have no spread.
    """
    if config.max_num_gen_batches == 1:
        batch, groups, zero_spread_P = draw(0)
        return batch, groups, zero_spread_P, zero_spread_P, {}

    def drawn(number: int) -> tuple[tuple, list[bool]]:
        found = draw(number)
        return found, [bool(group) and not zero for group, zero in zip(found[1], found[2].tolist(), strict=True)]

    found, kept = draw_until_full(drawn, config.prompts_per_step, config.max_num_gen_batches)
    batches, groups, zero_spread = zip(*found, strict=True)
    left_out_P = ~torch.tensor(list(chain.from_iterable(kept)))
    trained = distributed.all_reduce_sum(float((~left_out_P).sum()))
    metrics = {"gen_batches": len(found), "groups": int(trained)}
    return reduce(add, batches), list(chain.from_iterable(groups)), torch.cat(zero_spread), left_out_P, metrics


def draw_until_full(
    draw: Callable[[int], tuple[Batch, list[bool]]], wanted: int, most: int
) -> tuple[list[Batch], list[list[bool]]]:
    """The batches of a step, and of each which of its groups are trained on.

    `draw(number)` gives a batch and which of its groups have spread. With several processes each draws its share, and
    all stop together: `wanted` counts the groups of all, in the order in which one process would have drawn them.
    """
    batches, flags, found = [], [], 0
    for number in range(most):
        batch, spread = draw(number)
        batches.append(batch)
        flags.append(spread)
        found += sum(_everyones(spread))
        if found >= wanted:
            break
    kept, left = [], wanted
    for spread in flags:
        order = _everyones(spread)
        chosen = [own and sum(order[: i + 1]) <= left for i, own in enumerate(order)]
        left -= sum(chosen)
        kept.append(chosen[distributed.rank() :: distributed.world_size()])
    return batches, kept


def _everyones(own: list[bool]) -> list[bool]:
    """The flags of all processes, in the order that `distributed.shard` dealt the groups out."""
    if distributed.world_size() == 1:
        return own
    shares: list[list[bool]] = [[] for _ in range(distributed.world_size())]
    dist.all_gather_object(shares, own)
    longest = max(map(len, shares))
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
