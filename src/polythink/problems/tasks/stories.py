"""Word problems in plain English, for small language models: short stories with one, two or three steps of arithmetic.

A problem is told from a family (`story_families`): its structure, one of a dozen tellings, and names, things and
numbers that are drawn. In the split `heldout` both the tellings and the people's names are ones that `train` never
has, so what is right there is not remembered:

    question   Maria has 5 boxes with 6 pencils in each of them. How many pencils does Maria have?
    solution   There are 5 groups of 6: 5 * 6 = 30.
               Count all but one first, 4 * 6 = 24, and then the last 6: 24 + 6 = 30.

The reference solution has two paragraphs: two orders of computing the answer, each whole in itself, in wordings that
are drawn. A demonstration with a block has a path for each; the summary says what they come to. A sequential one has
one of them.

    <Parallel><Path> There are .. 30. </Path><Path> Count .. 30. </Path></Parallel>
    <Summary> Both ways give 30. </Summary> Final Answer: 30

Answers are numbers and graded as in mathematics (`math`).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from polythink.errors import UserError, did_you_mean
from polythink.problems.problem import Problem
from polythink.problems.tasks.arithmetic import exact, false_results, parsed
from polythink.problems.tasks.demonstrations import SPLITS
from polythink.problems.tasks.math import Math
from polythink.problems.tasks.story_families import LEVELS
from polythink.problems.tasks.story_words import (
    BOXES,
    BOYS,
    COLORS,
    DAYS,
    GIRLS,
    HELDOUT_BOYS,
    HELDOUT_GIRLS,
    KIN,
    MONTHS,
    THINGS,
    Family,
)
from polythink.problems.tasks.task import path_content
from polythink.problems.tasks.worked import Ways, same_in

if TYPE_CHECKING:
    from polythink.problems.answers import Grader

SETS = {
    "stories-one": "synthetic: word problems of one step",
    "stories-two": "synthetic: word problems of two steps",
    "stories-three": "synthetic: word problems of three steps",
}
POOL = {"train": 6000, "heldout": 1500}  # problems of a level and split

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_SLOT = re.compile(r"\{([^{}]+)\}|\[([^\[\]]+)\]")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


# ---- problems ----


def problems(level: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a level and a split, shuffled by `seed`, the first `limit` of them."""
    if level not in LEVELS:
        raise UserError(f"stories have no level {level!r}{did_you_mean(level, LEVELS)}")
    if split not in SPLITS:
        raise UserError(f"stories have no split {split!r}{did_you_mean(split, SPLITS)}")
    found = list(_all(level, split))
    random.Random(seed).shuffle(found)
    return tuple(found[:limit])


@lru_cache(maxsize=8)
def _all(level: str, split: str) -> tuple[Problem, ...]:
    """All problems of a level and a split, always the same; families have equal shares, and no text comes twice."""
    found: dict[str, Problem] = {}
    rng, families = random.Random(f"stories-{level}:{split}"), LEVELS[level]
    number = 0
    while len(found) < POOL[split]:
        family = families[number % len(families)]
        telling = rng.choice(family.tellings if split == "train" else family.heldout)
        problem = _tell(f"{level}:{split}:{family.name}:{number}", level, family, telling, split, rng)
        found.setdefault(problem.question, problem)
        number += 1
    return tuple(found.values())


def _tell(key: str, level: str, family: Family, telling: str, split: str, rng: random.Random) -> Problem:
    numbers, words = draw_numbers(family, rng), draw_words(split, rng)
    text, _, unit = telling.partition(" | ")
    words["unit"] = fill(unit or "{things}", words, numbers)
    answer = value_of(family.answer, numbers)
    solution = "\n".join(fill(rng.choice(wordings), words, numbers) for wordings in family.ways)
    question = fill(text, words, numbers)
    return Problem(f"stories:{key}", question, str(answer), STORIES.name, f"stories-{level}", solution)


def draw_words(split: str, rng: random.Random) -> dict[str, str]:
    """What the slots for words hold (`story_words`): three people, a thing, a box and so on."""
    girls, boys = (GIRLS, BOYS) if split == "train" else (HELDOUT_GIRLS, HELDOUT_BOYS)
    first, *others = rng.sample([*girls, *boys], 3)
    he, his, him = ("she", "her", "her") if first in girls else ("he", "his", "him")
    words = {"A": first, "B": others[0], "C": others[1], "he": he, "He": he.capitalize(), "his": his, "him": him}
    words["His"] = his.capitalize()
    words["thing"], words["things"] = rng.choice(THINGS).split()
    words["box"], words["boxes"] = rng.choice(BOXES).split()
    words["color"], words["hue"] = rng.sample(COLORS, 2)
    day = rng.randrange(len(DAYS))
    words["day"], words["next"] = DAYS[day], DAYS[(day + 1) % len(DAYS)]
    return words | {"month": rng.choice(MONTHS), "kin": rng.choice(KIN)}


def draw_numbers(family: Family, rng: random.Random) -> dict[str, int]:
    """Numbers of a problem of the family, so that its condition holds."""
    while True:
        numbers = {name: rng.randint(*bounds) for name, bounds in family.numbers.items()}
        numbers |= {name: value_of(expression, numbers) for name, expression in family.derived.items()}
        if value_of(family.where, numbers):
            return numbers


# ---- filling in ----


def fill(text: str, words: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    """A telling or a way with its slots filled and its steps written out."""
    return _SLOT.sub(lambda slot: _filled(slot, words, numbers), text)


def _filled(slot: re.Match[str], words: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    if slot[2]:
        return step(slot[2], numbers)
    return words[slot[1]] if slot[1] in words else str(value_of(slot[1], numbers))


def step(expression: str, numbers: Mapping[str, int]) -> str:
    """`6 * 4 = 24` of `a*b`: the outermost operation of an expression, with the values of its two sides."""
    whole = parsed(expression)
    assert isinstance(whole, ast.BinOp), f"{expression} is no step of arithmetic"
    one, other, result = (_whole(part, numbers) for part in (whole.left, whole.right, whole))
    return f"{one} {_SIGNS[type(whole.op)]} {other} = {result}"


def value_of(expression: str, numbers: Mapping[str, int]) -> int:
    """The value of a sum over the numbers of a problem; divisions must come out even."""
    return _whole(parsed(expression), numbers)


def _whole(node: ast.expr, numbers: Mapping[str, int]) -> int:
    found = exact(node, numbers)
    assert found.denominator == 1, f"{ast.unparse(node)} does not come out even"
    return int(found)


class Stories(Math):
    name = "stories"
    about = "word problems in plain English; paths work the same answer out in different orders"
    sets = SETS
    shows_slips = True
    report_hint = (
        "Word problems: a path is right if what it comes to, its last number, is the answer. False results on the way "
        "are struck through and counted."
    )

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        return problems(name.removeprefix("stories-"), split, limit, seed)

    def ways(self, problem: Problem, most: int) -> Ways:
        """The paragraphs of the worked solution, each of them whole."""
        return same_in(problem.solution.splitlines(), problem.answer, most)

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        """What a path states as an answer; without that, its last number: a path ends with what it comes to."""
        stated = super().path_answer(text, problem, grader)
        if stated is not None:
            return stated
        numbers = _NUMBER.findall(path_content(text, grader.dialect)[0])
        return numbers[-1].replace(",", "") if numbers else None

    def slips(self, text: str) -> list[tuple[int, int]]:
        return false_results(text)


STORIES = Stories()
