"""How many paths a block has, where the model does not declare it: a policy that reads the trace as it was drawn.

A policy is asked at the fork, before any path is drawn, and again whenever all paths so far have ended: with a larger
number than there are, more are forked from the same place; otherwise the paths are joined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polythink.engine.policies import Policies
from polythink.errors import UserError
from polythink.rewards.functions import written

FIXED = "fixed"


@dataclass(frozen=True)
class ForkState:
    """What a policy knows of a block."""

    prompt: tuple[int, ...]  # token ids
    before: tuple[int, ...]  # the stretch of text that ends at the fork
    drawn: tuple[tuple[int, ...], ...]  # the paths that have ended, in order, tags included; empty at the fork
    blocks: int  # blocks before it in the same text
    depth: int  # blocks around it
    paths: int  # `SamplingParams.paths`
    most: int  # no block may have more paths
    decode: Callable[[tuple[int, ...]], str]  # token ids into text
    answer: Callable[[str], str]  # of a path's text: `SamplingParams.path_answer`


Policy = Callable[[ForkState], int]


def agreement(state: ForkState) -> int:
    """Two paths, and `paths` of them if the two do not end in the same answer; one without an answer disagrees."""
    if not state.drawn:
        return min(2, state.paths)
    answers = {state.answer(state.decode(path)) for path in state.drawn}
    return len(state.drawn) if len(answers) == 1 and "" not in answers else state.paths


WIDTHS = Policies("width", {"agreement": agreement}, FIXED)
Width = WIDTHS.type


def wanted(policy: Policy, state: ForkState) -> int:
    """The policy's answer; `UserError` unless it is a number of paths, at least one."""
    count = policy(state)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"width {written(policy)!r} returned {count!r}; it must return a number of paths from 1 up")
    return count
