"""Grading: where a response states its answer, and whether that equals the reference.

Only the text after the last join is read, so an answer that is only in a path does not count. The answer is the last
balanced `\\boxed{..}` or the last `Final Answer:` line, whichever comes later. Equality is decided by spelling and by
number in this process where that is possible (all of AIME, GSM8K and DAPO), and by math-verify in a worker process
otherwise: see `problems.equality` and `problems.verify`.
"""

from __future__ import annotations

import atexit
import queue
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from polythink.errors import UserError, did_you_mean
from polythink.problems.equality import clean, compare, same_tokens
from polythink.problems.problem import CHECKERS, Problem
from polythink.problems.verify import Worker
from polythink.trace.convert import ConversionError
from polythink.trace.dialect import PARALLEL_R1, Dialect, get_dialect
from polythink.trace.parse import scan

# `unparsed`: no answer was found. `timeout`: the comparison ran out of its time or its memory.
VERDICTS = ("right", "wrong", "unparsed", "timeout")

MAX_LINE = 2000  # characters; a longer line is not searched for a formula

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)  # escaped braces do not count
_FINAL = re.compile(r"final\s+answer(?:\s+is)?[\s*_`]*[:：]\s*\}?", re.IGNORECASE)  # } of \textbf{Final Answer:}


@dataclass(frozen=True)
class Grade:
    """A verdict (one of `VERDICTS`) and the extracted answer, None if there was none.

    `share`: which share of the answer is right, for checkers that count parts (`attribution`: lines of the summary).
    """

    verdict: str
    extracted: str | None
    share: float | None = None


def final_part(text: str, dialect: Dialect = PARALLEL_R1) -> str:
    """The text after the last join: after the last closed element, and "" while one is still open.

    In a dialect that answers in the summary, the content of that element belongs to it, if it is a summary.
    A closing tag also closes what was left open inside its element; one without an opening tag is plain text.
    """
    opened: list[tuple[str, int]] = []  # element and number
    start = end = 0
    for tag in scan(text, dialect):
        element, _, side = tag.kind.partition("_")
        after, this = tag.start + len(tag.text), (element, tag.label)
        if side == "open":
            opened.append(this)
            start = after
        elif side == "close" and this in opened:
            while opened.pop() != this:
                pass
            end = start if element == "summary" and dialect.answer == "summary" else after
    rest = "" if opened else text[end:]
    return _without(rest, dialect.summary_open, dialect.summary_close) if dialect.answer == "summary" else rest


def _without(text: str, *tags: str) -> str:
    """The text with a line break in place of each tag."""
    for tag in tags:
        text = text.replace(tag, "\n")
    return text


def extract(text: str, dialect: Dialect = PARALLEL_R1) -> str | None:
    """The answer that the response states after its last join, without markup around it; None if there is none."""
    return stated_answer(final_part(text, dialect))


def with_boxed_answer(text: str, answer: str | None, dialect: Dialect) -> str:
    """The response with `answer` appended in a box, unless it states that answer already or `answer` is None.

    For a trace converted into `dialect` from one that answers in the summary. `ConversionError` if the response
    would not state the answer even so, because its braces are not balanced.
    """
    if answer is None or extract(text, dialect) == answer:
        return text
    text = f"{text} \\boxed{{ {answer} }}"
    if extract(text, dialect) != answer:
        raise ConversionError(f"the answer {answer!r} cannot be written in a box after the trace", "answer")
    return text


def stated_answer(text: str) -> str | None:
    """The answer stated in a text without blocks: its last balanced box or `Final Answer:` line, whichever is later."""
    found = [place for place in (_last_box(text), _last_line(text)) if place]
    return max(found)[1] if found else None


def last_box(text: str) -> str | None:
    """The content of the last balanced, non-empty `\\boxed{..}` of `text`. Linear in the text, however many boxes."""
    found = _last_box(text)
    return found[1] if found else None


def _last_box(text: str) -> tuple[int, str] | None:
    opened: list[re.Match[str]] = []
    boxes: list[tuple[int, int, int]] = []  # start of the command, start and end of the content
    for match in _BRACES.finditer(text):
        if match[0][-1] == "{" and match[0] != r"\{":
            opened.append(match)
        elif match[0] == "}" and opened:
            opening = opened.pop()
            if len(opening[0]) > 1:
                boxes.append((opening.start(), opening.end(), match.start()))
    filled = ((start, clean(text[inside:end])) for start, inside, end in reversed(boxes))
    return next((box for box in filled if box[1]), None)


def _last_line(text: str) -> tuple[int, str] | None:
    """The last `Final Answer:` followed by something, on its own line or on the next that is not empty."""
    end = len(text)
    for mark in reversed(list(_FINAL.finditer(text))):
        lines = (clean(line) for line in text[mark.end() : end].splitlines())
        answer = _essence(next(filter(None, lines), ""))
        if answer and r"\boxed" not in answer:  # boxes are read by `_last_box`; one never closed is no answer
            return mark.start(), answer
        end = mark.start()
    return None


def _essence(line: str) -> str:
    """The formula of a line that is a sentence with exactly one formula, otherwise the line."""
    if len(line) > MAX_LINE:
        return line
    line = re.sub(r"^(?:the\s+)?(?:final\s+)?answer\s+is\s*:?\s*", "", line, flags=re.IGNORECASE)
    formulas = re.findall(r"(?<![\\$])\$(?![\s$])([^$]+)(?<![\s\\])\$|\\\((.+?)\\\)", line)
    return clean("".join(formulas[0])) if len(formulas) == 1 else clean(line)


class Grader:
    """Grades responses. Thread-safe, also outside the main thread.

    math-verify runs in up to `workers` processes, started when an answer first needs them. Each answer has `seconds` of
    time from the moment a ready worker has it; a worker that overruns is killed and replaced. Close the grader, or use
    it as a context manager, to end its workers.
    """

    def __init__(self, workers: int = 2, seconds: float = 5.0, dialect: Dialect = PARALLEL_R1) -> None:
        self.workers, self.seconds, self.dialect = workers, seconds, dialect
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: a worker that is not started
        for _ in range(workers):
            self._idle.put(None)
        self._known: dict[tuple[str, str], bool | None] = {}  # samples of one problem often give the same answer

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
        return self._judge(extract(text, self.dialect), problem)

    def grade_many(self, answered: Sequence[tuple[str, Problem]]) -> list[Grade]:
        """The verdicts on many responses, in their order; the workers share the hard ones."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(lambda pair: self.grade(*pair), answered))

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
        return extract(_without(inside, *(t.text for t in tokens if t.kind == "path_open")), self.dialect)

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
        same = compare(given, reference)
        return self._verify(given, reference) if same is None else same

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

    def _verify(self, given: str, reference: str) -> bool | None:
        pair = (given, reference)
        if pair not in self._known:
            if len(self._known) >= 100_000:
                self._known.clear()
            self._known[pair] = self._ask(given, reference)
        return self._known[pair]

    def _ask(self, given: str, reference: str) -> bool | None:
        worker = self._idle.get()
        try:
            worker = worker if worker and worker.alive else Worker()
            return worker.ask(given, reference, self.seconds)
        finally:
            self._idle.put(worker if worker and worker.alive else None)


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
