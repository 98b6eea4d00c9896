"""Operator countdown: a synthetic, verifiable task that a model under a million parameters can learn, and be wrong at.

Numbers 1-9 stand in a fixed order; choose `+`, `-` or `*` between them so that the value, worked out from left to right
(no precedence), is the target. Every value on the way lies in 0..60, and exactly one choice of operators reaches the
target. A **chain** tries one choice and says at its end whether it worked:

    question     9 8 5 -> 5
    chain        9 - 8 = 1 * 5 = 5 ok
    sequential   9 - 8 = 1 * 5 = 5 ok \\boxed{ 9 - 8 * 5 }
    parallel     <Parallel><Path> chain </Path> ... </Parallel>
                 <Summary> - * </Summary> \\boxed{ 9 - 8 * 5 }

All words are separated by single spaces (tags need none between them), and `VOCABULARY` holds every word.
"""

from __future__ import annotations

import hashlib
import operator
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from polythink.problems.record import Problem
from polythink.run.errors import UserError, nearest
from polythink.trace.dialect import PARALLEL_R1, Dialect

LEVELS = {"mini": 2, "easy": 3, "hard": 4}  # level -> how many numbers
SPLITS = ("train", "heldout")
STYLES = ("sequential", "parallel")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LOW, HIGH = 0, 60  # every value of a chain, both ends included
HELDOUT_PERCENT = 12

VOCABULARY: tuple[str, ...] = (
    *(str(value) for value in range(LOW, HIGH + 1)),
    *OPERATORS, "=", "->", ":", "ok", "no", "\\boxed{", "}", "together", "alone",
)  # fmt: skip

# a chain at the start of a path, behind its opening tag: first number, steps, mark
_CHAIN = re.compile(r"\s*(?:<\w+>\s*)?(\d+)((?:\s+[-+*]\s+\d+\s+=\s+\d+)+)(?:\s+(ok|no))?(?![^\s<])")
_STEP = re.compile(r"\s+([-+*])\s+(\d+)\s+=\s+\d+")


@dataclass(frozen=True)
class Chain:
    """One choice of operators and what it comes to. `values` are the results after each operator."""

    numbers: tuple[int, ...]
    operators: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def expression(self) -> str:
        """`9 - 8 * 5`, to be read from left to right."""
        rest = zip(self.operators, self.numbers[1:], strict=True)
        return " ".join([str(self.numbers[0]), *(f"{op} {number}" for op, number in rest)])

    def text(self, target: int) -> str:
        """`9 - 8 = 1 * 5 = 5 ok`, or `... no` where the chain misses the target."""
        steps = zip(self.operators, self.numbers[1:], self.values, strict=True)
        shown = " ".join(f"{op} {number} = {value}" for op, number, value in steps)
        return f"{self.numbers[0]} {shown} {'ok' if self.values[-1] == target else 'no'}"


def chains(numbers: tuple[int, ...]) -> tuple[Chain, ...]:
    """Every choice of operators whose values all stay in range."""
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
    """The problems of a level that belong to `split`, shuffled by `seed`, the first `limit` of them.

    A problem's split is a hash of its key: it depends on nothing else and never changes.
    """
    if level not in LEVELS:
        raise UserError(f"no countdown level {level!r}{nearest(level, LEVELS)}")
    if split not in SPLITS:
        raise UserError(f"countdown has no split {split!r}{nearest(split, SPLITS)}")
    chosen = [problem for problem in _all_problems(level) if split_of(problem.key) == split]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen[:limit])


def split_of(key: str) -> str:
    """`train` or `heldout`, from the key alone."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    return "heldout" if share < HELDOUT_PERCENT else "train"


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
    if not re.fullmatch(r"\d+(?: \d+)* -> \d+", question):
        raise UserError(f"{question!r} is not a countdown question; give numbers and a target, as in '9 8 5 -> 5'")
    left, target = question.split(" -> ")
    return tuple(int(number) for number in left.split(" ")), int(target)


def path_answer(text: str) -> str | None:
    """The expression that a path (or a sequential response) tried: `9 - 8 * 5`; None where no chain begins the text.

    It is made of the operators and operands that were written. Results and the mark are not looked at: a slip in the
    arithmetic or a wrong `ok` makes neither a right path wrong nor a wrong one right.
    """
    match = _CHAIN.match(text)
    return None if match is None else match[1] + _STEP.sub(r" \1 \2", match[2])


def is_marked_ok(text: str) -> bool:
    """Whether the chain that begins a path (or a sequential response) says of itself that it reached the target."""
    match = _CHAIN.match(text)
    return match is not None and match[3] == "ok"


def demonstrate(
    problem: Problem,
    style: str,
    rng: random.Random,
    paths: int = 3,
    p_right: float = 0.5,
    dialect: Dialect = PARALLEL_R1,
) -> str:
    """A response to a countdown problem, in the style `sequential` (one chain) or `parallel` (a block of `paths`).

    Each chain is drawn on its own: with probability `p_right` the solution, otherwise any chain in range (which may be
    the solution by chance). The summary copies the operators of a chain marked `ok`, of any where there is none, and
    the box holds what the summary chose: a failed attempt stays well formed and is wrong.
    """
    if style not in STYLES:
        raise UserError(f"no style of demonstration {style!r}{nearest(style, STYLES)}")
    numbers, target = parse_question(problem.question)
    everything = chains(numbers)
    drawn = [_draw(problem, everything, rng, p_right) for _ in range(paths if style == "parallel" else 1)]
    right = [chain for chain in drawn if chain.values[-1] == target]
    chosen = right[0] if right else rng.choice(drawn)
    box = f"\\boxed{{ {chosen.expression} }}"
    if style == "sequential":
        return f"{chosen.text(target)} {box}"
    d = dialect
    inside = "".join(f"{d.path_open} {chain.text(target)} {d.path_close}" for chain in drawn)
    summary = f"{d.summary_open} {' '.join(chosen.operators)} {d.summary_close}"
    return f"{d.block_open}{inside}{d.block_close}{d.gap}{summary} {box}"


def _draw(problem: Problem, everything: tuple[Chain, ...], rng: random.Random, p_right: float) -> Chain:
    if rng.random() < p_right:
        return next(chain for chain in everything if chain.expression == problem.answer)
    return rng.choice(everything)


@dataclass(frozen=True)
class CountdownTeacher:
    """A cold-start teacher that needs no model: `teacher(problem, prompt, sample)` is a demonstration.

    `styles` are the shares of the styles, in any unit. The response depends on (seed, problem, sample) alone.
    """

    styles: Mapping[str, float]
    p_right: float = 0.5
    paths: int = 3
    seed: int = 0
    dialect: Dialect = PARALLEL_R1

    def __post_init__(self) -> None:
        if unknown := next((style for style in self.styles if style not in STYLES), None):
            raise UserError(f"no style of demonstration {unknown!r}{nearest(unknown, STYLES)}")
        if self.paths < 1 or not 0 <= self.p_right <= 1:
            raise UserError(f"paths must be 1 or more and p_right within 0..1, not {self.paths} and {self.p_right}")
        if not self.styles or min(self.styles.values()) < 0 or not sum(self.styles.values()):
            raise UserError(f"the shares of the styles must be 0 or more and not all 0, not {dict(self.styles)}")

    @property
    def about(self) -> dict[str, Any]:
        """What its responses depend on, to be recorded."""
        facts = {"styles": dict(self.styles), "p_right": self.p_right, "paths": self.paths, "seed": self.seed}
        return {"kind": "countdown", **facts}

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        rng = random.Random(f"{self.seed}/{problem.key}/{sample}")
        (style,) = rng.choices(list(self.styles), list(self.styles.values()))
        return demonstrate(problem, style, rng, self.paths, self.p_right, self.dialect)
