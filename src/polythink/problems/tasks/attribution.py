"""Attribution: a synthetic task in which the summary must say which path said what.

A question gives six letters, a place and a length. Every path, independent of the others, has that many words: one of
the letters at that place, dots elsewhere. The summary reports each path's letter, in the order of the numbers in the
paths' tags, which is not the order of the paths:

    question     a d e g j k -> 4 of 6
    trace        <think9> . . . k . . </think9><think2> . . . a . . </think2><summary> 2 a 9 k </summary>

Paths are equally long, start at the same position and have their letters at the same position, so neither positions nor
neighbouring words tell them apart. With thought embeddings (ParaThinker, arXiv 2509.04475) each letter's key and value
show which path they belong to, and one attention layer can look up "the letter of path 9". Without them a letter is
tied to its path only through the path's opening tag: one layer must first carry the number from the tag to the letter,
and only a later one can look it up. A model of one layer thus needs the embeddings; a deeper one may learn the detour.

The right answer depends on what the paths said, so the whole trace is graded. A model can game the task by always
choosing one letter, so do not use it as an RL reward.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from polythink.errors import UserError, did_you_mean
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.tasks.demonstrations import SPLITS, DemoStyle, Work, split_of, write
from polythink.problems.tasks.task import Task, path_content
from polythink.trace.dialect import Dialect
from polythink.trace.parse import TraceError, parse
from polythink.trace.tree import Trace

if TYPE_CHECKING:
    from polythink.problems.answers import Grader

LETTERS = "abcdefghijkl"
CHOICES = 6  # letters per question
LENGTHS = (5, 6, 7, 8)  # words per path
FIRST_PLACE = 3  # smallest place, so that the letter is not next to the opening tag
MOST_NUMBERS = 64
DOT = "."

SETS = {"attribution": "synthetic: which path said what"}
VOCABULARY: tuple[str, ...] = (*(str(n) for n in range(1, MOST_NUMBERS + 1)), *LETTERS, DOT, "->", "of")

_QUESTION = re.compile(r"([a-z](?: [a-z])*) -> (\d+) of (\d+)")


@dataclass(frozen=True)
class Question:
    """Each path has `length` words: one of `letters` at `place` (counted from 1), dots elsewhere."""

    letters: tuple[str, ...]
    place: int
    length: int

    @property
    def text(self) -> str:
        return f"{' '.join(self.letters)} -> {self.place} of {self.length}"

    def path(self, letter: str) -> str:
        """The text of a path with that letter: `. . . k . .`"""
        words = [DOT] * self.length
        words[self.place - 1] = letter
        return " ".join(words)

    def allows(self, path: str) -> bool:
        """Whether a path (without its tags) answers the question."""
        return path.split() in [self.path(letter).split() for letter in self.letters]


def parse_question(text: str) -> Question:
    """The question of a text like `a d e g j k -> 4 of 6`."""
    match = _QUESTION.fullmatch(text)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        raise UserError(f"{text!r} is not an attribution question; give letters, a place and a length, as in "
                        "'a d e g j k -> 4 of 6'")  # fmt: skip
    return Question(tuple(match[1].split()), int(match[2]), int(match[3]))


def problems(split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a split, shuffled by `seed`, the first `limit` of them; the split is a hash of the key.

    A problem's `answer` is the place of the letters: the letters themselves are known from the trace alone.
    """
    if split not in SPLITS:
        raise UserError(f"attribution has no split {split!r}{did_you_mean(split, SPLITS)}")
    return _shuffled(split, seed)[:limit]


@lru_cache(maxsize=16)
def _shuffled(split: str, seed: int) -> tuple[Problem, ...]:
    chosen = [problem for problem in _all_problems() if split_of(problem.key) == split]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen)


@lru_cache
def _all_problems() -> tuple[Problem, ...]:
    questions = [
        Question(letters, place, length)
        for length in LENGTHS
        for place in range(FIRST_PLACE, length + 1)
        for letters in combinations(LETTERS, CHOICES)
    ]
    return tuple(
        Problem(f"attribution:{''.join(q.letters)}>{q.place}.{q.length}", q.text, str(q.place), "attribution",
                "attribution")
        for q in questions
    )  # fmt: skip


def demonstrate(problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
    """A trace that answers the problem: each path's letter is drawn independently.

    Only `paths` and `labels` of the style matter here.
    """
    question = parse_question(problem.question)
    check_numbers(dialect)
    numbers = dialect.draw_labels(style.draw_paths(rng), rng if style.labels == "random" else None)
    said = {number: rng.choice(question.letters) for number in numbers}
    lines = " ".join(f"{number} {said[number]}" for number in sorted(said))
    paths = [question.path(letter) for letter in said.values()]
    outlines = [DOT] * len(paths)  # a path's letter is its own choice
    return write(Work(problem.question, outlines, paths, numbers, lines, ""), dialect)


def check_numbers(dialect: Dialect) -> None:
    """`UserError` if the dialect's paths have no numbers, or more numbers than `VOCABULARY` has words for."""
    if not dialect.inventory:
        raise UserError(
            f"attribution needs paths with numbers, dialect {dialect.name} has none; use dialect: parathinker"
        )
    if dialect.inventory > MOST_NUMBERS:
        raise UserError(
            f"attribution has words for the numbers 1 to {MOST_NUMBERS}, dialect {dialect.name} has "
            f"{dialect.inventory}; use parathinker:{MOST_NUMBERS} or fewer"
        )


# ---- grading ----


@dataclass(frozen=True)
class Report:
    """What a summary reports. `right_lines` is the share of paths that are reported rightly."""

    lines: str
    right: bool
    right_lines: float


def judge(text: str, place: int, dialect: Dialect) -> Report | None:
    """How the summary of the response's last block reports the words that its paths have at `place`.

    It is right if it holds exactly the lines that the paths call for, in the order of their numbers, and no path ends
    before `place`. None if the response does not parse, has no block, or its summary is empty.
    """
    check_numbers(dialect)
    try:
        blocks = parse(text, dialect).blocks
    except TraceError:
        return None
    given = _words(blocks[-1].summary) if blocks else []
    if not given:
        return None
    said = {label: _words(path)[place - 1 : place] for label, path in blocks[-1].numbered()}
    wanted = [word for label in sorted(said) for word in (str(label), *said[label])]
    reported = dict(zip(given[::2], given[1::2], strict=False))
    right_lines = sum(said[label] == [reported.get(str(label))] for label in said)
    return Report(" ".join(given), all(said.values()) and given == wanted, right_lines / len(said))


def _words(trace: Trace) -> list[str]:
    return "".join(part for part in trace.parts if isinstance(part, str)).split()


class Attribution(Task):
    name = "attribution"
    about = "which path said what: the summary must report every path"
    sets = SETS
    styles = ("parallel",)
    demo_keys = ("paths", "labels")
    words = VOCABULARY
    teacher_prompt = "none"

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        return problems(split, limit, seed)

    def reference_mistake(self, answer: str) -> str:
        if re.fullmatch(r"[1-9][0-9]{0,3}", answer):
            return ""
        return f"has the reference answer {answer!r}; for the checker attribution it is the letters' place, 1 or more"

    def check_dialect(self, dialect: Dialect) -> None:
        check_numbers(dialect)

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        return demonstrate(problem, style, rng, dialect)

    def grade(self, text: str, problem: Problem, grader: Grader) -> Grade:
        """The verdict on a summary that reports its paths: here the paths have to be read too."""
        report = judge(text, int(problem.answer), grader.dialect)
        if report is None:
            return Grade("unparsed", None, 0.0)
        return Grade("right" if report.right else "wrong", report.lines, report.right_lines)

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        """The words of the path."""
        return path_content(text, grader.dialect)[0].strip() or None

    def grade_path(self, text: str, problem: Problem, grader: Grader) -> bool | None:
        """Whether the path answers the question."""
        given = self.path_answer(text, problem, grader)
        return parse_question(problem.question).allows(given or "")


ATTRIBUTION = Attribution()
