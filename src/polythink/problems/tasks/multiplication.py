"""Multiplication of long numbers: a synthetic task in which dividing the work shortens the critical path.

The second factor is split by its digits (or groups of them). A path multiplies the first factor by one part, digit by
digit with carries, and states its partial product; the summary adds the partial products column by column. A step
`a * d + c = t u` gives the digit `u` and the carry `t`:

    question     3 4 7 * 5 2 6
    path 1       7 * 6 + 0 = 4 2 4 * 6 + 4 = 2 8 3 * 6 + 2 = 2 0 : 0 0 2 0 8 2
    path 2       7 * 2 + 0 = 1 4 4 * 2 + 1 = 0 9 3 * 2 + 0 = 0 6 : 0 0 6 9 4 0
    path 3       7 * 5 + 0 = 3 5 4 * 5 + 3 = 2 3 3 * 5 + 2 = 1 7 : 1 7 3 5 0 0
    summary      2 + 0 + 0 + 0 = 0 2 8 + 4 + 0 + 0 = 1 2 ... 0 + 0 + 1 + 0 = 0 1 : \\boxed{ 1 8 2 5 2 2 }
    sequential   path 1 , path 2 , path 3 , summary

Path 1 has the last digits of the second factor. Every partial product is written with all the digits that the product
may have. The task follows ThreadWeaver's (arXiv 2512.07843), which multiplies chains of numbers; parts of one product
need nothing from each other, so here all the work but the addition can be done at once.

Words are separated by single spaces (between tags there may be none), and `VOCABULARY` holds every word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING

from polythink.errors import UserError, did_you_mean
from polythink.problems.problem import Problem
from polythink.problems.tasks.demonstrations import SPLITS, STYLES, DemoStyle, Work, split_of, write
from polythink.problems.tasks.task import Task, path_content
from polythink.trace.dialect import Dialect

if TYPE_CHECKING:
    from polythink.problems.answers import Grader

LEVELS = {"easy": (2, 2), "hard": (4, 4)}  # level -> number of digits of the two factors
SETS = {
    "multiply-easy": "synthetic: two numbers of 2 digits to multiply",
    "multiply-hard": "synthetic: two numbers of 4 digits to multiply",
}
POOL = 50_000  # problems of a level, where there are more pairs of numbers than that
VOCABULARY: tuple[str, ...] = (
    *map(str, range(10)), "*", "+", "=", ":", ",", "\\boxed{", "}", "together", "alone",
)  # fmt: skip

_QUESTION = re.compile(r"([1-9](?: \d)*) \* ([1-9](?: \d)*)")
_STATED = re.compile(r"(?<!\S):\s+(\d(?:\s+\d)*)\s*$")  # the number at the end of a path
_STEP = re.compile(r"(?<!\S)(\d(?: [*+] \d)+) = (\d \d)(?!\S)")


# ---- problems ----


def problems(level: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a level and a split, shuffled by `seed`, the first `limit` of them.

    The split is a hash of the two numbers in their order of size: `12 * 34` and `34 * 12` lie in the same one.
    """
    if level not in LEVELS:
        raise UserError(f"no multiplication level {level!r}{did_you_mean(level, LEVELS)}")
    if split not in SPLITS:
        raise UserError(f"multiplication has no split {split!r}{did_you_mean(split, SPLITS)}")
    return tuple(problem_of(*pair, source=f"multiply-{level}") for pair in _shuffled(level, split, seed)[:limit])


@lru_cache(maxsize=16)
def _shuffled(level: str, split: str, seed: int) -> tuple[tuple[int, int], ...]:
    chosen = [pair for pair in _pairs(level) if split_of(f"multiply:{min(pair)}*{max(pair)}") == split]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen)


def problem_of(one: int, other: int, source: str = "") -> Problem:
    """The problem `one * other`."""
    question, answer = f"{_spaced(one)} * {_spaced(other)}", _spaced(one * other)
    return Problem(f"{source or 'multiply'}:{one}*{other}", question, answer, MULTIPLICATION.name, source)


@lru_cache
def _pairs(level: str) -> tuple[tuple[int, int], ...]:
    """All pairs of numbers of a level, or `POOL` of them, always the same."""
    ranges = [range(10 ** (digits - 1), 10**digits) for digits in LEVELS[level]]
    if prod(map(len, ranges)) <= POOL:
        return tuple(product(*ranges))
    rng, pairs = random.Random(f"multiply-{level}"), {}
    while len(pairs) < POOL:
        pairs[rng.choice(ranges[0]), rng.choice(ranges[1])] = None
    return tuple(pairs)


def parse_question(text: str) -> tuple[int, int]:
    """The factors of `3 4 7 * 5 2 6`."""
    match = _QUESTION.fullmatch(text)
    if not match:
        raise UserError(f"{text!r} is not a multiplication; give two numbers digit by digit, as in '3 4 7 * 5 2 6'")
    return number(match[1]), number(match[2])


def number(words: str) -> int:
    """The number of its digits as words: 347 of `3 4 7`, leading zeros or not."""
    return int("".join(words.split()))


def _spaced(value: int, width: int = 0) -> str:
    """The digits of a number as words, with leading zeros up to a width: `0 3 4 7`."""
    return " ".join(str(value).rjust(width, "0"))


# ---- the work ----


def multiply(factor: int, digits: Sequence[tuple[int, int]], width: int) -> str:
    """The work of one part: the factor by each (digit, place) of it, their sum where there are several, the result."""
    lines = [f"{_by_digit(factor, digit)} : {_spaced(factor * digit * 10**place, width)}" for digit, place in digits]
    if len(digits) == 1:
        return lines[0]
    products = [factor * digit * 10**place for digit, place in digits]
    return " , ".join([*lines, f"{add(products, width)} : {_spaced(sum(products), width)}"])


def _by_digit(factor: int, digit: int) -> str:
    """The factor's digits from the last to the first, each by the digit, with the carry of the one before."""
    steps, carry = [], 0
    for own in map(int, reversed(str(factor))):
        value = own * digit + carry
        steps.append(f"{own} * {digit} + {carry} = {_spaced(value, 2)}")
        carry = value // 10
    return " ".join(steps)


def add(numbers: Sequence[int], width: int) -> str:
    """The sum of numbers column by column, from the last digits to the first: `2 + 0 + 0 + 0 = 0 2 ..`; at most 9."""
    steps, carry = [], 0
    for place in range(width):
        column = [value // 10**place % 10 for value in numbers]
        value = sum(column) + carry
        steps.append(f"{' + '.join(map(str, [*column, carry]))} = {_spaced(value, 2)}")
        carry = value // 10
    return " ".join(steps)


def parts_of(factor: int, parts: int) -> list[list[tuple[int, int]]]:
    """The (digit, place) pairs of each part of a factor, the last digits first; the first parts are the longer ones."""
    digits = [(int(digit), place) for place, digit in enumerate(reversed(str(factor)))]
    if parts > len(digits):
        raise UserError(f"a factor of {len(digits)} digits cannot be divided among {parts} paths; give paths from 1 to "
                        f"{len(digits)}")  # fmt: skip
    length, longer = divmod(len(digits), parts)
    bounds = [i * length + min(i, longer) for i in range(parts + 1)]
    return [digits[start:end] for start, end in pairwise(bounds)]


def demonstrate(problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
    """A right response, in the style `sequential` (the parts one after another) or `parallel` (a path for each).

    The second factor is divided into as many parts as the style has paths. Numbers of paths are 1..P: a path's number
    says which part is its own. `UserError` for more paths than digits, and for a dialect whose paths cannot know.
    """
    one, other = parse_question(problem.question)
    width = len(str(one)) + len(str(other))
    parts = parts_of(other, style.draw_paths(rng))
    work = [multiply(one, digits, width) for digits in parts]
    numbers = [sum(one * digit * 10**place for digit, place in digits) for digits in parts]
    box = f"\\boxed{{ {_spaced(one * other)} }}"
    total = f"{add(numbers, width)} : " if len(numbers) > 1 else ""
    if style.flat:
        return f"{' , '.join(work)} , {total}{box}"
    if not dialect.inventory and not dialect.declares_paths:
        raise UserError(
            f"multiplication divides its work by the numbers of paths, and dialect {dialect.name} has none: every path "
            "would do any part; use dialect: parathinker, or demonstrations in the style sequential"
        )
    outlines = [f"{_spaced(one)} * {' '.join(str(digit) for digit, _ in reversed(digits))}" for digits in parts]
    labels = dialect.draw_labels(len(parts), None)
    summary, closing = f"{total}{_spaced(one * other)}", f"{total}{box}"
    return write(Work(problem.question, outlines, work, labels, summary, box, closing), dialect)


# ---- grading ----


def path_answer(text: str) -> str | None:
    """The partial product that a path (without its tags) states at its end."""
    match = _STATED.search(text)
    return match[1] if match else None


def partial_products(one: int, other: int) -> set[int]:
    """What a path may come to: `one` by any run of digits of `other`, at their places."""
    digits = str(other)
    ends = range(1, len(digits) + 1)
    return {one * int(digits[i:j]) * 10 ** (len(digits) - j) for j in ends for i in range(j)}


def slips(text: str) -> list[tuple[int, int]]:
    """Where the false results of a text stand: `4 3` in `7 * 6 + 0 = 4 3`."""
    return [step.span(2) for step in _STEP.finditer(text) if _value(step[1]) != number(step[2])]


def _value(expression: str) -> int:
    return sum(prod(map(int, term.split(" * "))) for term in expression.split(" + "))


class Multiplication(Task):
    name = "multiplication"
    about = "products of long numbers: paths have partial products, the summary adds them"
    sets = SETS
    styles = STYLES
    demo_keys = ("style", "paths")
    words = VOCABULARY
    teacher_prompt = "countdown_parallel"
    sequential_teacher_prompt = "countdown_sequential"
    shows_slips = True
    report_hint = (
        "Multiplication: a path is right if the number that it states is the first factor by one or more neighbouring "
        "digits of the second one; which part it was to do is not asked. False results on the way are struck through "
        "and counted."
    )

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        return problems(name.removeprefix("multiply-"), split, limit, seed)

    def is_question(self, text: str) -> bool:
        return bool(_QUESTION.fullmatch(text))

    def reference_mistake(self, answer: str) -> str:
        return "" if _is_number(answer) else f"has the reference answer {answer!r}; a product is a number, as in 4 0 8"

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        return demonstrate(problem, style, rng, dialect)

    def equal(self, given: str, reference: str, grader: Grader) -> bool | None:
        """The same number, its digits written together or apart."""
        return _is_number(given) and self.vote(given) == self.vote(reference)  # int() refuses thousands of digits

    def vote(self, answer: str) -> str:
        digits = "".join(answer.split())
        return digits.lstrip("0") or "0" if _is_number(answer) else digits

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        return path_answer(path_content(text, grader.dialect)[0])

    def grade_path(self, text: str, problem: Problem, grader: Grader) -> bool | None:
        """Whether the path states a partial product of the problem."""
        given = self.path_answer(text, problem, grader)
        wanted = map(str, partial_products(*parse_question(problem.question)))
        return None if given is None else self.vote(given) in wanted

    def slips(self, text: str) -> list[tuple[int, int]]:
        return slips(text)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9\s]*[0-9]\s*", text))


MULTIPLICATION = Multiplication()
