"""Grading: where a response states its answer, and whether that equals the reference.

Only the text behind the last join is read, so an answer that stands in a path alone counts for nothing. There the last
balanced `\\boxed{..}` or the last `Final Answer:` line is taken, whichever comes later. Equality is settled by spelling
and by number in this process where that is possible (all of AIME, GSM8K and DAPO), and by math-verify in a worker
process otherwise: see `problems.equality` and `problems.verify`.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from polythink.problems.equality import clean, compare, same_tokens
from polythink.problems.problem import Problem
from polythink.problems.verify import Worker
from polythink.trace.convert import ConversionError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import scan

# `unparsed`: no answer was found. `timeout`: the comparison ran out of its time or its memory.
VERDICTS = ("right", "wrong", "unparsed", "timeout")

MAX_LINE = 2000  # characters; a longer line is not searched for a formula

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)  # escaped braces do not count
_FINAL = re.compile(r"final\s+answer(?:\s+is)?[\s*_`]*[:：]\s*\}?", re.IGNORECASE)  # } of \textbf{Final Answer:}


@dataclass(frozen=True)
class Grade:
    """A verdict (one of `VERDICTS`) and the answer that it was passed on, None where there was none.

    `share` is how much of the answer is right, where its checker counts parts (`attribution`: lines of the summary).
    """

    verdict: str
    extracted: str | None
    share: float | None = None


def final_part(text: str, dialect: Dialect = PARALLEL_R1) -> str:
    """The text behind the last join: behind the last closed element, and nothing while one is still open.

    In a dialect that answers in the summary, that element's content belongs to it, if it is a summary.
    A closing tag also closes what was left open inside its element; one without an opening tag is plain text.
    """
    opened: list[tuple[str, int]] = []  # element and number
    start = end = 0
    for tag in scan(text, dialect):
        element, _, side = tag.kind.partition("_")
        behind, this = tag.start + len(tag.text), (element, tag.label)
        if side == "open":
            opened.append(this)
            start = behind
        elif side == "close" and this in opened:
            while opened.pop() != this:
                pass
            end = start if element == "summary" and dialect.answer == "summary" else behind
    rest = "" if opened else text[end:]
    return _without(rest, dialect.summary_open, dialect.summary_close) if dialect.answer == "summary" else rest


def _without(text: str, *tags: str) -> str:
    """The text with a new line in the place of each of the tags."""
    for tag in tags:
        text = text.replace(tag, "\n")
    return text


def extract(text: str, dialect: Dialect = PARALLEL_R1) -> str | None:
    """The answer that the response states behind its last join, without markup around it; None where there is none."""
    return stated_answer(final_part(text, dialect))


def with_boxed_answer(text: str, answer: str | None, dialect: Dialect) -> str:
    """The response with `answer` in a box behind it, unless it states that answer already (or there is none).

    For a trace that was converted into `dialect` from one that answers in the summary. `ConversionError` where the response
    would not state the answer even so: where it is no formula with balanced braces.
    """
    if answer is None or extract(text, dialect) == answer:
        return text
    text = f"{text} \\boxed{{ {answer} }}"
    if extract(text, dialect) != answer:
        raise ConversionError(f"the answer {answer!r} cannot be written in a box behind the trace", "answer")
    return text


def stated_answer(text: str) -> str | None:
    """The answer stated in a text without blocks: its last balanced box or `Final Answer:` line, whichever is later."""
    found = [place for place in (_last_box(text), _last_line(text)) if place]
    return max(found)[1] if found else None


def last_box(text: str) -> str | None:
    """What the last balanced, non-empty `\\boxed{..}` of `text` holds. Linear in the text, however many boxes."""
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
    """The last `Final Answer:` with something behind it, on its own line or the next that is not empty."""
    end = len(text)
    for mark in reversed(list(_FINAL.finditer(text))):
        lines = (clean(line) for line in text[mark.end() : end].splitlines())
        answer = _essence(next(filter(None, lines), ""))
        if answer and r"\boxed" not in answer:  # a box stands for itself, and one that was never closed for nothing
            return mark.start(), answer
        end = mark.start()
    return None


def _essence(line: str) -> str:
    """A line's only formula where it is a sentence with one formula in it, otherwise the line."""
    if len(line) > MAX_LINE:
        return line
    line = re.sub(r"^(?:the\s+)?(?:final\s+)?answer\s+is\s*:?\s*", "", line, flags=re.IGNORECASE)
    formulas = re.findall(r"(?<![\\$])\$(?![\s$])([^$]+)(?<![\s\\])\$|\\\((.+?)\\\)", line)
    return clean("".join(formulas[0])) if len(formulas) == 1 else clean(line)


class Grader:
    """Grades responses; safe to use from several threads, and off the main one.

    math-verify only ever runs in up to `workers` processes, which start when the first answer needs them. Each answer
    has `seconds` of time from the moment a ready worker has it; a worker that overruns is killed and replaced. Close
    the grader, or use it as a context manager, to end its workers.
    """

    def __init__(self, workers: int = 2, seconds: float = 5.0, dialect: Dialect = PARALLEL_R1) -> None:
        self.workers, self.seconds, self.dialect = workers, seconds, dialect
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: a worker that has yet to start
        for _ in range(workers):
            self._idle.put(None)
        self._known: dict[tuple[str, str], bool | None] = {}  # samples of one problem often give the same answer

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. The grader can be used again: they start anew."""
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
        """What a path states by itself, None where that is nothing: a countdown path a chain, one of an attribution
        problem its words, any other an answer as a response does.

        `text` is the path alone; its own tags may stand around it.
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
        """Is that answer right? None where there is none, or the comparison timed out. A path of an attribution
        problem is right if it says what it was asked to."""
        given = self.path_answer(text, problem)
        if problem.checker == "attribution":
            from polythink.problems.tasks.attribution import parse_question

            return parse_question(problem.question).allows(given or "")
        verdict = self._judge(given, problem).verdict
        return verdict == "right" if verdict in ("right", "wrong") else None

    def equal(self, given: str, reference: str, checker: str = "math") -> bool | None:
        """Are the two answers equal? None where that could not be settled in time."""
        if checker == "countdown":
            return same_tokens(given, reference)
        same = compare(given, reference)
        return self._verify(given, reference) if same is None else same

    def _attributed(self, text: str, problem: Problem) -> Grade:
        """The verdict on a summary that reports its paths, for which the paths have to be read."""
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
