"""The one record of a problem, and a named set of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# How an answer is judged: `math` compares values, `countdown` compares tokens (see `problems.answers`), `attribution`
# compares the summary with what the paths said (see `problems.attribution`).
CHECKERS = ("math", "countdown", "attribution")


@dataclass(frozen=True)
class Problem:
    """One problem with its reference answer. `question` is the bare problem: prompts are added when it is asked."""

    key: str  # unique within its set
    question: str
    answer: str
    checker: str = "math"
    source: str = ""  # the set that it belongs to
    solution: str = ""  # a worked solution where the set has one


@dataclass(frozen=True)
class ProblemSet:
    """Problems under a name. `notes` are sentences that belong beside every number measured on the set."""

    name: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)
