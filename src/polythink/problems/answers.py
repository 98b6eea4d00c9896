"""Grading: whether the answer that a response states equals the reference.

The problem's task says how (`problems.tasks.task`); here are the time and the processes that it takes. In mathematics
`problems.extract` says where the answer stands. Equality is decided by spelling, number and parts in this process where
that is possible (all of AIME, GSM8K and DAPO), and by algebra in a worker process otherwise: see `problems.equality`
and `problems.verify`. docs/reference/answers.md is the page for users.
"""

from __future__ import annotations

import atexit
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from polythink.errors import UserError, did_you_mean
from polythink.problems.grade import Grade
from polythink.problems.problem import ANSWER_RULES, Problem
from polythink.problems.sandbox import Limits, Sandbox
from polythink.problems.tasks.table import get_task
from polythink.problems.verify import Worker
from polythink.run.jsonl import kind_of
from polythink.trace.dialect import PARALLEL_R1, Dialect, get_dialect


class Grader:
    """Grades responses. Thread-safe, also outside the main thread.

    `answers` is one of `ANSWER_RULES`. Algebra runs in up to `workers` processes, started when an answer first needs
    them, and so do programs. Each answer has `seconds` of time from the moment a ready worker has it; a worker that
    overruns is killed and replaced. Close the grader, or use it as a context manager, to end its workers.
    """

    def __init__(
        self, workers: int = 2, seconds: float = 5.0, dialect: Dialect = PARALLEL_R1, answers: str = "strict"
    ) -> None:
        if answers not in ANSWER_RULES:
            raise UserError(f"no rule {answers!r} for answers{did_you_mean(answers, ANSWER_RULES)}")
        self.workers, self.seconds, self.dialect, self.answers = workers, seconds, dialect, answers
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: a worker that is not started
        for _ in range(workers):
            self._idle.put(None)
        self.sandbox = Sandbox(workers, Limits(seconds))  # for programs; starts nothing before the first
        self._known: dict[tuple[str, str], bool] = {}  # samples of one problem often give the same answer

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. The grader can be used again: new ones start."""
        self.sandbox.close()
        for _ in range(self.workers):
            worker = self._idle.get()
            if worker:
                worker.kill()
        for _ in range(self.workers):
            self._idle.put(None)

    def grade(self, text: str, problem: Problem) -> Grade:
        """The verdict on one response."""
        return problem.task.grade(text, problem, self)

    def grade_many(self, answered: Sequence[tuple[str, Problem]]) -> list[Grade]:
        """The verdicts on many responses, in their order; the workers share the hard ones."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(lambda pair: self.grade(*pair), answered))

    def readings(self, text: str, problem: Problem, grade: Grade) -> dict[str, str]:
        """The verdicts on a graded response under the rules `strict` and `lenient`; none where those do not apply."""
        return problem.task.readings(text, problem, grade, self)

    def path_answer(self, text: str, problem: Problem) -> str | None:
        """The answer of a single path, None if it states none: an answer as in a response, unless the task has others.

        `text` is the path alone, with or without its own tags.
        """
        return problem.task.path_answer(text, problem, self)

    def grade_path(self, text: str, problem: Problem) -> bool | None:
        """Whether the answer of a single path is right; None if it states none, or if the comparison timed out."""
        return problem.task.grade_path(text, problem, self)

    # ---- what the tasks ask of it ----

    def judge(self, given: str | None, problem: Problem) -> Grade:
        """The verdict on an extracted answer."""
        if given is None:
            return Grade("unparsed", None)
        same = self.equal(given, problem.answer, problem.checker)
        return Grade({True: "right", False: "wrong", None: "timeout"}[same], given)

    def equal(self, given: str, reference: str, checker: str | None = None) -> bool | None:
        """Whether two answers of a task (None: math) are equal; None if that could not be decided in time."""
        return get_task(checker).equal(given, reference, self)

    def algebra(self) -> Callable[[str, str], bool | None]:
        """Whether two formulas are equal, in a worker; all calls of one function share the time for one answer."""
        clock = _Clock(self.seconds)
        return lambda one, other: self._verify(one, other, clock)

    def _verify(self, given: str, reference: str, clock: _Clock) -> bool | None:
        """Algebra on one formula. A decision is remembered; that there was no time for it is not."""
        pair = (given, reference)
        known = self._known.get(pair)
        if known is None:
            known = self._ask(given, reference, clock)
            if len(self._known) >= 100_000:
                self._known.clear()
            if known is not None:
                self._known[pair] = known
        return known

    def _ask(self, given: str, reference: str, clock: _Clock) -> bool | None:
        worker = self._idle.get()
        try:
            worker = worker if worker and worker.alive else Worker()
            if clock.left <= 0:
                return None
            started = time.monotonic()
            equal = worker.ask(given, reference, clock.left)
            clock.left -= time.monotonic() - started
            return equal
        finally:
            self._idle.put(worker if worker and worker.alive else None)


@dataclass
class _Clock:
    """Seconds that are left for one answer; its formulas share them."""

    left: float


def grade(
    response: str, answer: str | float, *, dialect: str | Dialect = "parallel_r1", checker: str = "math"
) -> Grade:
    """The verdict on one response, given the reference answer. For many responses use `Grader.grade_many`.

    An answer that is no text is read as in a row of `load_problems`. The grader is kept for the next call, and its
    worker processes (see `Grader`) end with this process. `UserError` for an unknown dialect or checker, and for what
    is no response or answer.
    """
    if not isinstance(response, str):
        raise UserError(f"the response is {kind_of(response)}; it must be text")
    if not isinstance(answer, str):
        try:
            answer, _, _ = get_task(checker).reference({"answer": answer})
        except UserError as error:
            raise UserError(f"the reference {error}") from None
        if not answer:
            raise UserError("there is no reference answer to compare the response with")
    grader = _shared_grader(get_dialect(dialect) if isinstance(dialect, str) else dialect)
    return grader.grade(response, Problem(key="", question="", answer=answer, checker=checker))


@cache
def _shared_grader(dialect: Dialect) -> Grader:
    grader = Grader(dialect=dialect)
    atexit.register(grader.close)
    return grader
