"""A problem, and a named set of problems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from polythink.errors import UserError

# How an answer is graded: `math` compares values, `countdown` compares words (see `problems.answers`), `attribution`
# compares the summary with the paths (see `problems.tasks.attribution`).
CHECKERS = ("math", "countdown", "attribution")
# What is read as an answer (problems.extract), or the published checks as they are (problems.published).
AnswerRule = Literal["strict", "lenient", "published", "published_gsm8k"]
ANSWER_RULES = get_args(AnswerRule)


def reference_mistake(answer: str, checker: str) -> str:
    """What is wrong with a reference answer for that checker, as the end of a sentence; "" if nothing is."""
    if checker == "attribution" and not re.fullmatch(r"[1-9][0-9]{0,3}", answer):
        return f"has the reference answer {answer!r}; for the checker attribution it is the letters' place, 1 or more"
    return ""


@dataclass(frozen=True)
class Problem:
    """One problem with its reference answer. `question` is the bare problem: prompts are added when it is asked."""

    key: str  # unique within its set
    question: str
    answer: str
    checker: str = "math"
    source: str = ""  # the set to which it belongs
    solution: str = ""  # a worked solution, if the set has one

    def __post_init__(self) -> None:
        if wrong := reference_mistake(self.answer, self.checker):
            raise UserError(f"a problem {wrong}")


Item = TypeVar("Item")  # Problem; in the text room, a pair of texts


@dataclass(frozen=True)
class ProblemSet(Generic[Item]):
    """Problems under a name. `notes` are sentences to be shown beside every number measured on the set."""

    name: str
    problems: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.problems)
