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
    metrics = {"gen_batches": len(found), "groups": int((~left_out_P).sum())}
    return reduce(add, batches), list(chain.from_iterable(groups)), torch.cat(zero_spread), left_out_P, metrics


def draw_until_full(
    draw: Callable[[int], tuple[Batch, list[bool]]], wanted: int, most: int
) -> tuple[list[Batch], list[list[bool]]]:
    """The batches of a step, and of each which of its groups are trained on.

    `draw(number)` gives a batch and which of its groups have spread. Every process has the whole batch, so that all
    stop at the same one.
    """
    batches, kept = [], []
    while len(batches) < most and wanted > 0:
        batch, spread = draw(len(batches))
        chosen = [own and sum(spread[: i + 1]) <= wanted for i, own in enumerate(spread)]
        wanted -= sum(chosen)
        batches.append(batch)
        kept.append(chosen)
    return batches, kept
