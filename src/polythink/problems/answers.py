"""Grading: whether the answer that a response states equals the reference.

`problems.extract` says where the answer stands. Equality is decided by spelling, number and parts in this process where
that is possible (all of AIME, GSM8K and DAPO), and by algebra in a worker process otherwise: see `problems.equality`
and `problems.verify`. docs/reference/answers.md is the page for users.
"""

from __future__ import annotations

import atexit
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

from polythink.errors import UserError, did_you_mean
from polythink.problems.equality import same, same_tokens
from polythink.problems.extract import extract, final_part, said_answer, stated_answer, without
from polythink.problems.problem import ANSWER_RULES, CHECKERS, Problem
from polythink.problems.published import published_answer, published_equal
from polythink.problems.verify import Worker
from polythink.trace.dialect import PARALLEL_R1, Dialect, get_dialect
from polythink.trace.scan import scan

# `unparsed`: no answer was found. `timeout`: the comparison ran out of its time or its memory.
VERDICTS = ("right", "wrong", "unparsed", "timeout")


@dataclass(frozen=True)
class Grade:
    """A verdict (one of `VERDICTS`) and the extracted answer, None if there was none.

    `share`: which share of the answer is right, for checkers that count parts (`attribution`: lines of the summary).
    `lenient`: the answer stands in a form that only the rule `lenient` reads; `strict` would say `unparsed`.
    """

    verdict: str
    extracted: str | None
    share: float | None = None
    lenient: bool = False


class Grader:
    """Grades responses. Thread-safe, also outside the main thread.

    `answers` is one of `ANSWER_RULES`. Algebra runs in up to `workers` processes, started when an answer first needs
    them. Each answer has `seconds` of time from the moment a ready worker has it; a worker that overruns is killed and
    replaced. Close the grader, or use it as a context manager, to end its workers.
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
        self._known: dict[tuple[str, str], bool] = {}  # samples of one problem often give the same answer

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. The grader can be used again: new ones start."""
        for _ in range(self.workers):
            worker = self._idle.get()
            if worker:
                worker.kill()
        for _ in range(self.workers):
            self._idle.put(None)

    def grade(self, text: str, problem: Problem) -> Grade:
        """The verdict on one response."""
        if problem.checker == "attribution":
            return self._attributed(text, problem)
        if problem.checker == "math" and self.answers in ("published", "published_gsm8k"):
            return self._as_published(text, problem)
        part = final_part(text, self.dialect)
        given = stated_answer(part)
        if given is not None or problem.checker != "math" or self.answers == "strict":
            return self._judge(given, problem)
        return replace(self._judge(said_answer(part), problem), lenient=True)

    def grade_many(self, answered: Sequence[tuple[str, Problem]]) -> list[Grade]:
        """The verdicts on many responses, in their order; the workers share the hard ones."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(lambda pair: self.grade(*pair), answered))

    def readings(self, text: str, problem: Problem, grade: Grade) -> dict[str, str]:
        """The verdicts on a graded response under the rules `strict` and `lenient`; none where those do not apply."""
        if problem.checker != "math" or self.answers not in ("strict", "lenient"):
            return {}
        if grade.verdict != "unparsed" or self.answers == "lenient":
            return {"strict": "unparsed" if grade.lenient else grade.verdict, "lenient": grade.verdict}
        said = said_answer(final_part(text, self.dialect))
        return {"strict": "unparsed", "lenient": self._judge(said, problem).verdict}

    def path_answer(self, text: str, problem: Problem) -> str | None:
        """The answer of a single path, None if it states none.

        That is the chain of a countdown path, the words of an attribution path, and an answer as in a response for any
        other. `text` is the path alone, with or without its own tags.
        """
        if problem.checker == "countdown":
            from polythink.problems.tasks.countdown import path_answer

            return path_answer(text)
        tokens = list(scan(text, self.dialect))
        inside = "".join(t.text for t in tokens if t.kind[:5] != "path_")
        if problem.checker == "attribution":
            return inside.strip() or None
        return extract(without(inside, *(t.text for t in tokens if t.kind == "path_open")), self.dialect)

    def grade_path(self, text: str, problem: Problem) -> bool | None:
        """Whether the answer of a single path is right; None if it states none, or if the comparison timed out.

        A path of an attribution problem is right if it answers the question.
        """
        given = self.path_answer(text, problem)
        if problem.checker == "attribution":
            from polythink.problems.tasks.attribution import parse_question

            return parse_question(problem.question).allows(given or "")
        verdict = self._judge(given, problem).verdict
        return verdict == "right" if verdict in ("right", "wrong") else None

    def equal(self, given: str, reference: str, checker: str = "math") -> bool | None:
        """Whether two answers are equal; None if that could not be decided in time."""
        if checker == "countdown":
            return same_tokens(given, reference)
        clock = _Clock(self.seconds)
        return same(given, reference, lambda one, other: self._verify(one, other, clock))

    def _as_published(self, text: str, problem: Problem) -> Grade:
        given = published_answer(text, self.answers)
        if given is None:
            return Grade("unparsed", None)
        return Grade("right" if published_equal(given, problem.answer, self.answers) else "wrong", given)

    def _attributed(self, text: str, problem: Problem) -> Grade:
        """The verdict on a summary that reports its paths: here the paths have to be read too."""
        from polythink.problems.tasks.attribution import judge

        report = judge(text, int(problem.answer), self.dialect)
        if report is None:
            return Grade("unparsed", None, 0.0)
        return Grade("right" if report.right else "wrong", report.lines, report.right_lines)

    def _judge(self, given: str | None, problem: Problem) -> Grade:
        if given is None:
            return Grade("unparsed", None)
        same = self.equal(given, problem.answer, problem.checker)
        return Grade({True: "right", False: "wrong", None: "timeout"}[same], given)

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


def grade(response: str, answer: str, *, dialect: str | Dialect = "parallel_r1", checker: str = "math") -> Grade:
    """The verdict on one response, given the reference answer. For many responses use `Grader.grade_many`.

    The grader is kept for the next call, and its worker processes (see `Grader`) end with this process. `UserError` for
    an unknown dialect or checker.
    """
    if checker not in CHECKERS:
        raise UserError(f"no checker {checker!r}{did_you_mean(checker, CHECKERS)}")
    grader = _shared_grader(get_dialect(dialect) if isinstance(dialect, str) else dialect)
    return grader.grade(response, Problem(key="", question="", answer=answer, checker=checker))


@cache
def _shared_grader(dialect: Dialect) -> Grader:
    grader = Grader(dialect=dialect)
    atexit.register(grader.close)
    return grader
