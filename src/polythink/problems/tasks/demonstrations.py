"""What the synthetic tasks share: splits by hash, and how demonstrations are written."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from polythink.errors import UserError, did_you_mean
from polythink.run.retry import CallError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.render import render
from polythink.trace.tree import Block, Plan, Trace

if TYPE_CHECKING:
    from polythink.problems.problem import Problem
    from polythink.problems.tasks.task import Task

SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 12
FLAT, BLOCKS = STYLES = ("sequential", "parallel")


def split_of(key: str) -> str:
    """`train` or `heldout`: a hash of the key, so that a problem's split never changes."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    return "heldout" if share < HELDOUT_PERCENT else "train"


class NotDemonstrable(UserError):
    """A problem that its task cannot demonstrate, whereas others of its set may be."""


@dataclass(frozen=True)
class DemoStyle:
    """How demonstrations are written."""

    style: str = BLOCKS  # one of `STYLES`
    paths: tuple[int, ...] = (3,)  # possible numbers of paths per block, equally likely
    p_right: float = 0.5  # probability that a chain is the solution
    retries: int = 0  # further chains that a path may try after one that missed
    labels: str = "ordered"  # numbers of numbered paths: "ordered" (1..P), or "random" (any of the inventory)
    strategies: bool = False  # a path's number determines its first two operators (`countdown.strategy`)
    summary: str = "chosen"  # the answer in the summary: "chosen" from the paths, or always the "reference"

    def __post_init__(self) -> None:
        for value, known in (
            (self.style, STYLES), (self.labels, ("ordered", "random")), (self.summary, ("chosen", "reference")),
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"no style {value!r} of demonstrations{did_you_mean(value, known)}")

    @property
    def flat(self) -> bool:
        """One chain after another in flat text, without a block."""
        return self.style == FLAT

    @property
    def most_paths(self) -> int:
        """The largest number of paths in a block; 0 in flat text."""
        return 0 if self.flat else max(self.paths)

    def draw_paths(self, rng: random.Random) -> int:
        """Number of paths of the next block."""
        return self.paths[0] if len(self.paths) == 1 else rng.choice(self.paths)


@dataclass(frozen=True)
class Work:
    """What a block of a demonstration says, in words; white space and tags are the dialect's."""

    goal: str  # what the plan says, and an outline of each path: written where the dialect has them
    outlines: Sequence[str]
    paths: Sequence[str]
    labels: tuple[int, ...]
    summary: str
    answer: str  # after the summary; "" where there is none
    closing: str = ""  # the summary in place of both, where the dialect has the answer in it
    before: str = ""  # what stands before the block


def write(work: Work, dialect: Dialect) -> str:
    """The response: a block, with a plan, headings, a summary and the answer where the dialect has them."""
    headings = [dialect.heading(place) for place in range(1, len(work.paths) + 1)]
    outlines = tuple(
        " ".join(["", *heading.split(), text, ""]) for heading, text in zip(headings, work.outlines, strict=True)
    )
    plan = dialect.plan and Plan(f" {work.goal}", outlines if dialect.plan.item[0] else ())
    paths = tuple(Trace((f"{heading} {text} ",)) for heading, text in zip(headings, work.paths, strict=True))
    before = (f"{work.before} ",) if work.before else ()
    if dialect.answers_in_summary:
        block = Block(paths, _spaced(work.closing or work.summary), work.labels, plan)
        return render(Trace((*before, block)), dialect)
    summary, rest = (work.summary, "") if dialect.summary else ("", f" {work.summary}")
    rest += f" {work.answer}" if work.answer else ""
    block = Block(paths, _spaced(summary), work.labels, plan)
    return render(Trace((*before, block, rest) if rest else (*before, block)), dialect)


def _spaced(text: str) -> Trace:
    return Trace((f" {text} ",) if text else ())


@dataclass(frozen=True)
class DemonstrationTeacher:
    """A cold-start teacher that needs no model: `teacher(problem, prompt, sample)` returns a demonstration of the task.

    `styles` maps styles to weights, which need not sum to 1; the other arguments are those of `DemoStyle`. The response
    depends on (seed, problem, sample) alone.
    """

    task: Task
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
        defaults = {field.name: field.default for field in fields(self)}
        chosen = [key for key in ("p_right", "paths", "labels") if getattr(self, key) != defaults[key]]
        self.task.check_dialect(self.dialect)
        for style, weight in self.styles.items():
            if weight:
                self.task.check_style(style, chosen)

    @property
    def about(self) -> dict[str, Any]:
        """What its responses depend on: recorded with them."""
        keys = ("p_right", "paths", "labels", "seed")
        return {"kind": self.task.name, "styles": dict(self.styles)} | {key: getattr(self, key) for key in keys}

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        rng = random.Random(f"{self.seed}/{problem.key}/{sample}")
        (style,) = rng.choices(list(self.styles), list(self.styles.values()))
        try:
            return self.demonstrate(problem, style, rng)
        except NotDemonstrable as error:  # counted, as a response that a model's server did not give
            raise CallError("not demonstrable", str(error), permanent=True) from None

    def demonstrate(self, problem: Problem, style: str, rng: random.Random) -> str:
        """A response in one of its styles. `UserError` for a problem that it cannot answer so."""
        how = DemoStyle(style, (self.paths,), self.p_right, labels=self.labels)
        return self.task.demonstrate(problem, how, rng, self.dialect)
