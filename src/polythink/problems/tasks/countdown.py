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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.problem import Problem
from polythink.problems.tasks.demonstrations import SPLITS, STYLES, DemoStyle, split_of
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.render import render
from polythink.trace.tree import Block, Trace

LEVELS = {"mini": 2, "easy": 3, "hard": 4}  # level -> number of numbers
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LOW, HIGH = 0, 60  # every value of a chain, both ends included

VOCABULARY: tuple[str, ...] = (
    *(str(value) for value in range(LOW, HIGH + 1)),
    *OPERATORS, "=", "->", ":", "ok", "no", "\\boxed{", "}", "together", "alone",
)  # fmt: skip

# A chain at the start of a path, after its opening tag, or after another chain: first number, steps, mark
_CHAIN = re.compile(r"\s*(?:<\w+>\s*)?(\d+)((?:\s+[-+*]\s+\d+\s+=\s+\d+)+)(?:\s+(ok|no))?(?![^\s<])")
_STEP = re.compile(r"\s+([-+*])\s+(\d+)\s+=\s+\d+")
# `a op b = c`, found at every a: c may begin the next equation. `1 + 2 + 3 = 6` is not read as `2 + 3 = 6`
_EQUATION = re.compile(r"(?<![\w.])(?<![-+*]\s)(?=(\d+)\s+([-+*])\s+(\d+)\s+=\s+(\d+)(?![\w]|\.\d))")


@dataclass(frozen=True)
class Chain:
    """One choice of operators. `values` are the results after each operator."""

    numbers: tuple[int, ...]
    operators: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def expression(self) -> str:
        """`9 - 8 * 5`, to be computed from left to right."""
        rest = zip(self.operators, self.numbers[1:], strict=True)
        return " ".join([str(self.numbers[0]), *(f"{op} {number}" for op, number in rest)])

    def text(self, target: int) -> str:
        """`9 - 8 = 1 * 5 = 5 ok`, or `... no` where the chain misses the target."""
        steps = zip(self.operators, self.numbers[1:], self.values, strict=True)
        shown = " ".join(f"{op} {number} = {value}" for op, number, value in steps)
        return f"{self.numbers[0]} {shown} {'ok' if self.values[-1] == target else 'no'}"


@lru_cache(maxsize=1 << 14)
def chains(numbers: tuple[int, ...]) -> tuple[Chain, ...]:
    """Every choice of operators whose values all lie in range."""
    found = [Chain(numbers[:1], (), ())]
    for number in numbers[1:]:
        found = [longer for chain in found for longer in _extend(chain, number) if LOW <= longer.values[-1] <= HIGH]
    return tuple(found)


def _extend(chain: Chain, number: int) -> list[Chain]:
    last = chain.values[-1] if chain.values else chain.numbers[0]
    return [
        Chain((*chain.numbers, number), (*chain.operators, op), (*chain.values, apply(last, number)))
        for op, apply in OPERATORS.items()
    ]


def problems(level: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
    """The problems of a level and a split (a hash of their key), shuffled by `seed`, the first `limit` of them."""
    if level not in LEVELS:
        raise UserError(f"no countdown level {level!r}{did_you_mean(level, LEVELS)}")
    if split not in SPLITS:
        raise UserError(f"countdown has no split {split!r}{did_you_mean(split, SPLITS)}")
    chosen = [problem for problem in _all_problems(level) if split_of(problem.key) == split]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen[:limit])


@lru_cache
def _all_problems(level: str) -> tuple[Problem, ...]:
    found = []
    for numbers in product(range(1, 10), repeat=LEVELS[level]):
        by_target: dict[int, list[Chain]] = {}
        for chain in chains(numbers):
            by_target.setdefault(chain.values[-1], []).append(chain)
        found += [_problem(level, target, ways[0]) for target, ways in sorted(by_target.items()) if len(ways) == 1]
    return tuple(found)


def _problem(level: str, target: int, only: Chain) -> Problem:
    name = f"countdown-{level}"
    numbers = [str(number) for number in only.numbers]
    key = f"{name}:{'.'.join(numbers)}>{target}"
    return Problem(key, f"{' '.join(numbers)} -> {target}", only.expression, checker="countdown", source=name)


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


def arithmetic_holds(text: str) -> bool:
    """Whether every equation in a path is true. A path may be right all the same: see `path_answer`."""
    return not slips(text)


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
    said = tuple(Trace((f" {text} ",)) for text in texts)
    if dialect.answers_in_summary:
        return render(Trace((Block(said, Trace((f" {box} ",)), labels),)), dialect)
    operators = f" {' '.join(re.findall('[-+*]', answer))} "
    return render(Trace((Block(said, Trace((operators,)), labels), f" {box}")), dialect)


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
    tried: list[Chain] = []
    while len(tried) <= style.retries and not (tried and tried[-1].values[-1] == target):
        right = next((chain for chain in everything if chain.expression == problem.answer), None)
        tried.append(right if right and rng.random() < style.p_right else rng.choice(everything))
    return tried


@dataclass(frozen=True)
class CountdownTeacher:
    """A cold-start teacher that needs no model: `teacher(problem, prompt, sample)` returns a demonstration.

    `styles` maps styles to weights, which need not sum to 1; `labels` is that of `DemoStyle`. The response depends
    on (seed, problem, sample) alone.
    """

    styles: Mapping[str, float]
    p_right: float = 0.5
    paths: int = 3
    seed: int = 0
    dialect: Dialect = PARALLEL_R1
    labels: str = "ordered"

    def __post_init__(self) -> None:
        if unknown := next((style for style in self.styles if style not in STYLES), None):
            raise UserError(f"no style {unknown!r} of demonstrations{did_you_mean(unknown, STYLES)}")
        if self.paths < 1 or not 0 <= self.p_right <= 1:
            raise UserError(f"paths must be 1 or more and p_right in 0..1, got {self.paths} and {self.p_right}")
        if not self.styles or min(self.styles.values()) < 0 or not sum(self.styles.values()):
            raise UserError(f"weights of styles must be 0 or more and not all 0, got {dict(self.styles)}")
        DemoStyle(labels=self.labels)  # checks it

    @property
    def about(self) -> dict[str, Any]:
        """What its responses depend on: recorded with them."""
        keys = ("p_right", "paths", "labels", "seed")
        return {"kind": "countdown", "styles": dict(self.styles)} | {key: getattr(self, key) for key in keys}

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        rng = random.Random(f"{self.seed}/{problem.key}/{sample}")
        (style,) = rng.choices(list(self.styles), list(self.styles.values()))
        return demonstrate(
            problem, DemoStyle(style, (self.paths,), self.p_right, labels=self.labels), rng, self.dialect
        )
