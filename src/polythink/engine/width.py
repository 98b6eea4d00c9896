"""How many paths a block has, where the model does not declare it: a policy that reads the trace as it was drawn.

A policy is asked at the fork, before any path is drawn, and again whenever all paths so far have ended: with a larger
number than there are, more are forked from the same place; otherwise the paths are joined. It sees tokens alone, never
log-probabilities, which agree between two computations to rounding only: so a width depends on the trace and on nothing
else, and the slow twin finds the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from polythink.errors import UserError, did_you_mean
from polythink.rewards.functions import name_of, resolve

FIXED = "fixed"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile(r"\w+")
_TAG = re.compile(r"</?\w+>")


@dataclass(frozen=True)
class ForkState:
    """What a policy knows of a block. Token ids include tags; `decode` turns them into text."""

    prompt: tuple[int, ...]
    before: tuple[int, ...]  # the stretch of text that ends at the fork
    drawn: tuple[tuple[int, ...], ...]  # the paths that have ended, in order; empty when the block is opened
    blocks: int  # blocks before it in the same text
    depth: int  # blocks around it
    paths: int  # `SamplingParams.paths`
    most: int  # no block may have more paths
    decode: Callable[[tuple[int, ...]], str]


Policy = Callable[[ForkState], int]


def agreement(state: ForkState) -> int:
    """Two paths, and `paths` of them if the two do not end in the same answer: their last number, or last word."""
    if not state.drawn:
        return min(2, state.paths)
    answers = {last_answer(state.decode(path)) for path in state.drawn}
    return len(state.drawn) if len(answers) == 1 else state.paths


def last_answer(text: str) -> str:
    """The last number of a text, or its last word where it has none; tags do not count."""
    text = _TAG.sub(" ", text)
    return ([""] + (_NUMBER.findall(text) or _WORD.findall(text)))[-1]


POLICIES: dict[str, Policy] = {"agreement": agreement}


def policy_of(width: str | Policy) -> Policy | None:
    """The policy of that name, or of "module:function"; None for a fixed width."""
    if width == FIXED:
        return None
    return POLICIES[width] if isinstance(width, str) and width in POLICIES else resolve(width)


def _check(width: str | Policy) -> str | Policy:
    known = (FIXED, *POLICIES)
    if isinstance(width, str) and ":" not in width and width not in known:
        raise ValueError(
            f'no width {width!r}{did_you_mean(width, known)} (or a function of your own: "module:function")'
        )
    policy_of(width)
    return width


def _written(width: str | Policy) -> str:
    return width if isinstance(width, str) else f"{width.__module__}:{name_of(width)}"


Width = Annotated[str | Policy, AfterValidator(_check), PlainSerializer(_written)]


def wanted(policy: Policy, state: ForkState) -> int:
    """The policy's answer; `UserError` unless it is a number of paths, at least one."""
    count = policy(state)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"width {_written(policy)!r} returned {count!r}; it must return a number of paths from 1 up")
    return count
