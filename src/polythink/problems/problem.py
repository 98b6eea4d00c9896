"""A problem, and a named set of problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from polythink.errors import UserError

if TYPE_CHECKING:
    from polythink.problems.tasks.task import Task

# What is read as an answer (problems.extract), or the published checks as they are (problems.published).
AnswerRule = Literal["strict", "lenient", "published", "published_gsm8k"]
ANSWER_RULES = get_args(AnswerRule)


@dataclass(frozen=True)
class Problem:
    """One problem with its reference answer. `question` is the bare problem: prompts are added when it is asked."""

    key: str  # unique within its set
    question: str
    answer: str
    checker: str = "math"  # the name of its task
    source: str = ""  # the set to which it belongs
    solution: str = ""  # a worked solution, if the set has one

    def __post_init__(self) -> None:
        if wrong := self.task.reference_mistake(self.answer):
            raise UserError(f"a problem {wrong}")

    @property
    def identity(self) -> tuple[str, ...]:
        """Tells it apart from problems of other sets, whose keys may be the same, and from itself before a correction:
        what was found out about a problem belongs to its question, answer and checker.
        """
        return (self.source, self.key, self.question, self.answer, self.checker)

    @property
    def task(self) -> Task:
        """The task of that name: how the problem is demonstrated and graded."""
        from polythink.problems.tasks.table import get_task  # the tasks make problems

        return get_task(self.checker)


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
