"""Operator countdown: a synthetic, verifiable task that a model under a million parameters can learn but not perfect.

Numbers 1-9 are given in a fixed order; choose `+`, `-` or `*` between them so that the value, computed from left to
right (no precedence), is the target. Every intermediate value lies in 0..60, and exactly one choice of operators
reaches the target. A **chain** tries one choice and says at its end whether it worked:

    question     9 8 5 -> 5
    chain        9 - 8 = 1 * 5 = 5 ok
    sequential   9 - 8 = 1 * 5 = 5 ok \\boxed{ 9 - 8 * 5 }
    parallel     <Parallel><Path> chain </Path> ... </Parallel>
                 <Summary> - * </Summary> \\boxed{ 9 - 8 * 5 }
    ParaThinker  <think1> chain </think1> ... <summary> \\boxed{ 9 - 8 * 5 } </summary>

A path may try further chains after one that missed (`DemoStyle.retries`).

Words are separated by single spaces (between tags there may be none), and `VOCABULARY` holds every word.
"""

from __future__ import annotations

import operator
import random
import re
from dataclasses import fields
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from polythink.errors import UserError, did_you_mean
from polythink.problems.problem import Problem
from polythink.problems.tasks.demonstrations import SPLITS, STYLES, DemoStyle, Work, split_of, write
from polythink.problems.tasks.task import Task
from polythink.trace.dialect import PARALLEL_R1, Dialect

if TYPE_CHECKING:
    from polythink.problems.answers import Grader

LEVELS = {"mini": 2, "easy": 3, "hard": 4}  # level -> number of numbers
SETS = {
    "countdown-mini": "synthetic: one operator to choose",
    "countdown-easy": "synthetic: two operators to choose",
    "countdown-hard": "synthetic: three operators to choose",
}
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LOW, HIGH = 0, 60  # every value of a chain, both ends included

VOCABULARY: tuple[str, ...] = (
    *(str(value) for value in range(LOW, HIGH + 1)),
    *OPERATORS, "=", "->", ":", "ok", "no", "\\boxed{", "}", "together", "alone",
)  # fmt: skip

# A chain at the start of a path, after its opening tag and heading (`1:`), or after another chain: first number, steps,
# mark
_CHAIN = re.compile(r"\s*(?:<\w+>\s*)?(?:[\d.]+:\s+)?(\d+)((?:\s+[-+*]\s+\d+\s+=\s+\d+)+)(?:\s+(ok|no))?(?![^\s<])")
_STEP = re.compile(r"\s+([-+*])\s+(\d+)\s+=\s+\d+")
# `a op b = c`, found at every a: c may begin the next equation. `1 + 2 + 3 = 6` is not read as `2 + 3 = 6`
_EQUATION = re.compile(r"(?<![\w.])(?<![-+*]\s)(?=(\d{1,99})\s+([-+*])\s+(\d{1,99})\s+=\s+(\d{1,99})(?![\w]|\.\d))")


class Chain(NamedTuple):
    """One choice of operators. `values` are the results after each operator."""

    numbers: tuple[int, ...]
    operators: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def expression(self) -> str:
        """`9 - 8 * 5`, to be computed from left to right."""
        rest = zip(self.operators, self.numbers[1:], strict=True)
        return " ".join([str(self.numbers[0]), *(f"{op} {number}" for op, number in rest)])

    @property
    def first_operation(self) -> str:
        """`9 - 8`"""
        return " ".join([str(self.numbers[0]), *self.operators[:1], *map(str, self.numbers[1:2])])

    def text(self, target: int) -> str:
        """`9 - 8 = 1 * 5 = 5 ok`, or `... no` where the chain misses the target."""
        steps = zip(self.operators, self.numbers[1:], self.values, strict=True)
        shown = " ".join(f"{op} {number} = {value}" for op, number, value in steps)
        return f"{self.numbers[0]} {shown} {'ok' if self.values[-1] == target else 'no'}"


@lru_cache(maxsize=1 << 14)
def chains(numbers: tuple[int, ...]) -> tuple[Chain, ...]:
    """Every choice of operators whose values all lie in range."""
    if len(numbers) == 1:
        return (Chain(numbers, (), ()),)
    return tuple(
        Chain(numbers, (*begun.operators, op), (*begun.values, result))
        for begun in chains(numbers[:-1])
        for op, result in _results(begun.values[-1] if begun.values else numbers[0], numbers[-1])
    )


def problems(level: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a level and a split (a hash of their key), shuffled by `seed`, the first `limit` of them."""
    if level not in LEVELS:
        raise UserError(f"no countdown level {level!r}{did_you_mean(level, LEVELS)}")
    if split not in SPLITS:
        raise UserError(f"countdown has no split {split!r}{did_you_mean(split, SPLITS)}")
    return _shuffled(level, split, seed)[:limit]


@lru_cache(maxsize=16)  # reading a recipe asks for them again and again
def _shuffled(level: str, split: str, seed: int) -> tuple[Problem, ...]:
    name, chosen = f"countdown-{level}", []
    for numbers, ways in _reached(LEVELS[level]).items():
        by_target: dict[int, str] = {}
        for value, expression in ways:  # "" where a second choice reaches it too
            by_target[value] = "" if value in by_target else expression
        given = list(map(str, numbers))
        question, head = f"{' '.join(given)} -> ", f"{name}:{'.'.join(given)}>"
        for target in sorted(by_target):
            key = f"{head}{target}"
            if by_target[target] and split_of(key) == split:
                chosen.append(Problem(key, f"{question}{target}", by_target[target], checker="countdown", source=name))
    random.Random(seed).shuffle(chosen)
    return tuple(chosen)


def _reached(length: int) -> dict[tuple[int, ...], list[tuple[int, str]]]:
    """Of all lists of that many numbers the value and the expression of every chain; `chains` is its slow twin."""
    reached = {(number,): [(number, str(number))] for number in range(1, 10)}
    values = product(range(LOW, HIGH + 1), range(1, 10))
    steps = {given: [(result, f" {op} {given[1]}") for op, result in _results(*given)] for given in values}
    for _ in range(length - 1):
        reached = {
            (*numbers, number): [
                (result, begun + step) for value, begun in ways for result, step in steps[value, number]
            ]
            for numbers, ways in reached.items()
            for number in range(1, 10)
        }  # fmt: skip
    return reached


@lru_cache(maxsize=1 << 10)
def _results(value: int, number: int) -> tuple[tuple[str, int], ...]:
    """Each operator whose result is in range, and the result."""
    found = ((op, apply(value, number)) for op, apply in OPERATORS.items())
    return tuple((op, result) for op, result in found if LOW <= result <= HIGH)


@lru_cache(maxsize=1 << 14)
def parse_question(question: str) -> tuple[tuple[int, ...], int]:
    """Numbers and target of `9 8 5 -> 5`."""
    if not is_question(question):
        raise UserError(f"{question!r} is not a countdown question; give numbers and a target, as in '9 8 5 -> 5'")
    left, target = question.split(" -> ")
    return tuple(int(number) for number in left.split(" ")), int(target)


def path_answer(text: str) -> str | None:
    """The expression at which a path (or a sequential response) arrived: `9 - 8 * 5`; None if no chain begins it.

    Of several chains it is the last, where a path stops trying. Only operators and operands count, not the results and
    the mark: a slip in the arithmetic or a wrong `ok` makes neither a right path wrong nor a wrong one right.
    """
    tried = _attempts(text)
    return tried[-1][1] + _STEP.sub(r" \1 \2", tried[-1][2]) if tried else None


def is_marked_ok(text: str) -> bool:
    """Whether a chain at the beginning of a path (or a sequential response) is marked as having reached the target."""
    return any(match[3] == "ok" for match in _attempts(text))


def _attempts(text: str) -> list[re.Match[str]]:
    """The chains with which a text begins, one right after the other."""
    found: list[re.Match[str]] = []
    while match := _CHAIN.match(text, found[-1].end() if found else 0):
        found.append(match)
        if not match[3]:
            break
    return found


def is_question(text: str) -> bool:
    """Whether this is a question of the task, as in `9 8 5 -> 5`."""
    return bool(re.fullmatch(r"\d+(?: \d+)* -> \d+", text))


def slips(text: str) -> list[tuple[int, int]]:
    """Where the false results of a text stand: `13` in `6 + 6 = 13 + 3 = 16`, whose second equation holds.

    Every equation of a chain is judged by the number before it, as it is written.
    """
    return [
        found.span(4)
        for found in _EQUATION.finditer(text)
        if OPERATORS[found[2]](int(found[1]), int(found[3])) != int(found[4])
    ]


def demonstrate(problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect = PARALLEL_R1) -> str:
    """A response to a countdown problem, in the style `sequential` (one path's text) or `parallel` (a block).

    Chains are drawn independently: with probability `p_right` the solution, otherwise any chain in range (which may be
    the solution by chance). The summary states the first chain that reached the target, or any chain if none did: a
    failed attempt stays well formed and is wrong, unless `summary` is "reference".
    """
    _, target = parse_question(problem.question)
    paths = style.draw_paths(rng) if style.style == "parallel" else 1
    labels = dialect.draw_labels(paths, rng if style.labels == "random" else None) or (0,) * paths
    tried = [_path(problem, style, rng, label if style.strategies else 0) for label in labels]
    everything = [chain for path in tried for chain in path]
    chosen = next((chain for chain in everything if chain.values[-1] == target), None) or rng.choice(tried)[-1]
    answer = problem.answer if style.summary == "reference" else chosen.expression
    texts = [" ".join(chain.text(target) for chain in path) for path in tried]
    box = f"\\boxed{{ {answer} }}"
    if style.flat:
        return f"{texts[0]} {box}"
    outlines, operators = [path[0].first_operation for path in tried], " ".join(re.findall("[-+*]", answer))
    return write(Work(problem.question, outlines, texts, labels, operators, box, closing=box), dialect)


def strategy(label: int) -> tuple[str, str]:
    """The first two operators of the path with that number under `DemoStyle.strategies`: one of nine pairs."""
    names = tuple(OPERATORS)
    return names[(label - 1) % 3], names[(label - 1) // 3 % 3]


def _path(problem: Problem, style: DemoStyle, rng: random.Random, label: int) -> list[Chain]:
    """The chains of one path: one, and more while they miss the target and retries are left."""
    numbers, target = parse_question(problem.question)
    everything = chains(numbers)
    if label:
        first = strategy(label)
        everything = [chain for chain in everything if chain.operators[:2] == first] or everything
    operators = tuple(problem.answer.split(" ")[1::2])
    right = next((chain for chain in everything if chain.operators == operators), None)
    if right and right.expression != problem.answer:
        right = None
    tried: list[Chain] = []
    while len(tried) <= style.retries and not (tried and tried[-1].values[-1] == target):
        tried.append(right if right and rng.random() < style.p_right else rng.choice(everything))
    return tried


class Countdown(Task):
    name = "countdown"
    about = "operator countdown: the operators between given numbers that reach a target"
    sets = SETS
    styles = STYLES
    demo_keys = tuple(field.name for field in fields(DemoStyle))
    words = VOCABULARY
    teacher_prompt = "countdown_parallel"
    sequential_teacher_prompt = "countdown_sequential"
    shows_slips = True
    graded_part = "operators"
    report_hint = (
        "Countdown: a path is right if its chain of operators gives the target. The results that it writes between "
        "them, and its mark (ok, no), are not looked at, so a path may be right although its arithmetic is wrong: "
        "false results are struck through and counted."
    )

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        return problems(name.removeprefix("countdown-"), split, limit, seed)

    def is_question(self, text: str) -> bool:
        return is_question(text)

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        return demonstrate(problem, style, rng, dialect)

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        """The chain at which the path arrived."""
        return path_answer(text)

    def marked(self, text: str) -> bool | None:
        return is_marked_ok(text)

    def slips(self, text: str) -> list[tuple[int, int]]:
        return slips(text)


COUNTDOWN = Countdown()
