"""Attribution: a synthetic task in which the summary must say which path said what.

A question names six letters, a place and a length. Every path, knowing nothing of the others, says that many words: at
the place any of the letters, dots elsewhere. The summary has a line for each path, in the order of the numbers in the
paths' tags, which is not the order in which the paths stand:

    question     a d e g j k -> 4 of 6
    trace        <think9> . . . k . . </think9><think2> . . . a . . </think2><summary> 2 a 9 k </summary>

Paths are equally long, start at the same position and say their letters at the same one, so neither positions nor the
neighbouring words tell them apart. With thought embeddings (ParaThinker, arXiv 2509.04475) each letter's key and value
say whose they are, and one attention layer can look up "the letter of path 9". Without, a letter knows its path only
through the path's opening tag: one layer must first carry the number from the tag to the letter, and only a later one
can look it up. A model of one layer thus needs the embeddings; a deeper one may learn the detour.

What is right depends on what the paths said, so the whole trace is graded. A model that always says the same letter
makes it easy for itself: the task is for fine-tuning and evaluation, not for a reward.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from polythink.errors import UserError, did_you_mean
from polythink.problems.problem import Problem
from polythink.problems.tasks.demonstrations import SPLITS, DemoStyle, split_of
from polythink.trace.dialect import Dialect, draw_labels
from polythink.trace.parse import TraceError, parse
from polythink.trace.tree import Trace

LETTERS = "abcdefghijkl"
CHOICES = 6  # letters of a question
LENGTHS = (5, 6, 7, 8)  # words of a path
FIRST_PLACE = 3  # the letter stands at least so far from the opening tag
MOST_NUMBERS = 64
DOT = "."

VOCABULARY: tuple[str, ...] = (*(str(n) for n in range(1, MOST_NUMBERS + 1)), *LETTERS, DOT, "->", "of")

_QUESTION = re.compile(r"([a-z](?: [a-z])*) -> (\d+) of (\d+)")


@dataclass(frozen=True)
class Question:
    """Each path says `length` words, one of `letters` at `place` (counted from 1)."""

    letters: tuple[str, ...]
    place: int
    length: int

    @property
    def text(self) -> str:
        return f"{' '.join(self.letters)} -> {self.place} of {self.length}"

    def path(self, letter: str) -> str:
        """What a path says: `. . . k . .`"""
        words = [DOT] * self.length
        words[self.place - 1] = letter
        return " ".join(words)

    def allows(self, path: str) -> bool:
        """Whether a path without its tags says what it was asked to."""
        return path.split() in [self.path(letter).split() for letter in self.letters]


def parse_question(text: str) -> Question:
    """The question that `a d e g j k -> 4 of 6` spells."""
    match = _QUESTION.fullmatch(text)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        raise UserError(f"{text!r} is not an attribution question; give letters, a place and a length, as in "
                        "'a d e g j k -> 4 of 6'")  # fmt: skip
    return Question(tuple(match[1].split()), int(match[2]), int(match[3]))


def problems(split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a split, shuffled by `seed`, the first `limit` of them; the split is a hash of the key.

    A problem's `answer` is the place that the summary reports: what was said there, only the trace knows.
    """
    if split not in SPLITS:
        raise UserError(f"attribution has no split {split!r}{did_you_mean(split, SPLITS)}")
    chosen = [problem for problem in _all_problems() if split_of(problem.key) == split]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen[:limit])


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


def demonstrate(problem: Problem, manner: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
    """A trace that answers the problem: each path says a letter drawn on its own.

    Of the manner count the numbers of `paths` and their `labels`: `random` ones of the inventory in random order, or
    `ordered`, 1..P.
    """
    question = parse_question(problem.question)
    inventory, paths = _inventory(dialect), manner.draw_paths(rng)
    numbers = draw_labels(inventory, paths, rng if manner.labels == "random" else None)
    said = {number: rng.choice(question.letters) for number in numbers}
    inside = "".join(
        f"{opened} {question.path(letter)} {closed}"
        for (opened, closed), letter in ((dialect.path_tags(n), letter) for n, letter in said.items())
    )
    lines = " ".join(f"{number} {said[number]}" for number in sorted(said))
    return (
        f"{dialect.block_open}{inside}{dialect.block_close}{dialect.gap}"
        f"{dialect.summary_open} {lines} {dialect.summary_close}"
    )


def _inventory(dialect: Dialect) -> int:
    """How many numbers a path can have; `UserError` where there are none, or no words for them."""
    if not dialect.inventory:
        raise UserError(
            f"attribution needs paths with numbers, dialect {dialect.name} has none; use dialect: parathinker"
        )
    if dialect.inventory > MOST_NUMBERS:
        raise UserError(
            f"attribution has words for the numbers 1 to {MOST_NUMBERS}, dialect {dialect.name} has "
            f"{dialect.inventory}; use parathinker:{MOST_NUMBERS} or fewer"
        )
    return dialect.inventory


# ---- grading ----


@dataclass(frozen=True)
class Report:
    """What a summary reports. `right_lines` is the share of paths whose line is there and right."""

    lines: str
    right: bool
    right_lines: float


def judge(text: str, place: int, dialect: Dialect) -> Report | None:
    """How the summary of the response's last block reports the words that its paths said at `place`.

    Right are exactly the lines that the paths call for, in the order of their numbers; never where a path says nothing
    at that place. None where the response does not parse or has no block, or the summary says nothing.
    """
    _inventory(dialect)
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
