"""Convert a trace to another dialect: the tree stays; what one format has and the other has not is moved or refused.

Numbers of paths are drawn anew. The numbers with which outlines and paths begin (`1:`) belong to the format: they are
taken off and written as the target wants them. A summary without a place is the text after its block. Plans are said
in `PLANS`. The answer is not moved here: `problems.answers.with_boxed_answer` writes it where the target looks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from random import Random

from polythink.errors import UserError, did_you_mean
from polythink.trace.dialect import Dialect
from polythink.trace.elements import ID
from polythink.trace.production import DECLARED
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Plan, Trace

PLANS = {
    "refuse": "a trace whose plan has no place, or that lacks the outlines which the target needs, is not converted",
    "drop": "a plan without a place is left out",
    "write": "a plan without a place is text before its block, and a missing outline is the beginning of its path",
}
MOST_WORDS = 16  # of an outline that is written from its path
_SENTENCE = re.compile(r"(?<=[.!?])\s")


class ConversionError(UserError):
    """Raised when a trace cannot be written in the target dialect; `reason` is a short stable key to count by."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def check_plans(plans: str) -> None:
    """`UserError` unless it is one of `PLANS`."""
    if plans not in PLANS:
        raise UserError(f"no rule {plans!r} for plans{did_you_mean(plans, PLANS)}")


def convert(
    trace: Trace,
    dialect: Dialect,
    rng: Random | None = None,
    *,
    source: Dialect | None = None,
    plans: str = "refuse",
) -> Trace:
    """The trace for `dialect`, which may number its paths: 1..P, or with `rng` by numbers drawn from the inventory.

    `source` is the dialect of the trace, whose headings are taken off its paths (None: they have none). `plans` is one
    of `PLANS`. Where outlines and headings have numbers, those of a block in path 2 begin with `2.`.
    `ConversionError` if the trace cannot be written in that dialect, with one of the reasons `tag_in_text`, `nested`,
    `too_few_paths`, `too_many_paths`, `no_plan`, `plan_lost`, `no_summary`.
    """
    check_plans(plans)
    return _Conversion(source, dialect, rng, plans).trace(trace)


@dataclass
class _Conversion:
    source: Dialect | None
    target: Dialect
    rng: Random | None
    plans: str

    def trace(self, trace: Trace, number: str = "") -> Trace:
        """`number`: that of the path in which the trace stands, with a point, for the outlines of its blocks."""
        parts: list[str | Block] = []
        for part in trace.parts:
            if isinstance(part, str):
                _put(parts, self.text(part))
                continue
            said, block, rest = self.block(part, number)
            for each in (said, block, *rest.parts):
                _put(parts, each)
        return Trace(tuple(parts))

    def text(self, text: str) -> str:
        if tag := next((t.text for t in scan(text, self.target) if t.kind not in ("text", "end")), None):
            raise self.error(f"the text {tag}", ": it is a tag there", "tag_in_text")
        return text

    def error(self, what: str, why: str, reason: str) -> ConversionError:
        return ConversionError(f"{what} cannot be written in dialect {self.target.name}{why}", reason)

    def block(self, block: Block, number: str) -> tuple[str, Block, Trace]:
        """The text before a block, the block, and what follows it instead of its summary."""
        target = self.target
        self.check(block)
        bare = [self.bare(block, place) for place in range(len(block.paths))]
        said, plan = self.plan(block.plan, bare, number)
        paths = []
        for place, path in enumerate(bare):
            outline = plan.outlines[place] if plan and place < len(plan.outlines) else ""
            heading = target.heading(place + 1, outline)
            stays = path is not block.paths[place] and heading == self.heading(block, place)
            inside = self.trace(block.paths[place] if stays else path, f"{number}{place + 1}.")
            paths.append(inside if stays else _headed(inside, heading))
        summary = self.trace(block.summary, number)
        labels = target.draw_labels(len(paths), self.rng)
        new = Block(tuple(paths), summary if target.summary else Trace(), labels, plan)
        return said, new, Trace() if target.summary else _on_a_new_line(summary)

    def check(self, block: Block) -> None:
        target, paths = self.target, len(block.paths)
        if paths < target.paths.least:
            why = f", whose blocks have at least {target.paths.least}"
            raise self.error(f"a block of {paths} paths", why, "too_few_paths")
        inner = (*block.paths, block.summary) if target.summary else block.paths
        if not target.nests and any(trace.blocks for trace in inner):
            raise self.error("a block inside a block", ", where blocks do not nest", "nested")
        if target.inventory and paths > target.inventory:
            why = f": it has {target.inventory} numbers"
            raise self.error(f"a block of {paths} paths", why, "too_many_paths")
        if target.summary and self.source and not self.source.summary:
            raise self.error("a block without a summary", ", whose blocks have one", "no_summary")

    # --- plans

    def plan(self, plan: Plan | None, paths: list[Trace], number: str) -> tuple[str, Plan | None]:
        """What is written before the block in place of its plan, and the plan of the new block."""
        target, found = self.target, plan or Plan()
        holds = bool(target.plan and target.plan.item[0])
        lost = Plan("" if target.plan else found.goal, () if holds else found.outlines)
        if lost != Plan() and self.plans == "refuse":
            why = ", which has no place for it: drop it, or write it before the block (plans: drop, write)"
            raise self.error("a plan", why, "plan_lost")
        said = [lost.goal.strip(), *(outline.strip() for outline in lost.outlines)] if self.plans == "write" else []
        text = "".join(f"{self.text(line)}\n" for line in said if line)
        if not target.plan:
            return text, None
        outlines = tuple(self.text(outline) for outline in found.outlines) if holds else ()
        missing = target.declares_paths and len(outlines) != len(paths)
        if missing:
            outlines = tuple(self.outline(path, place) for place, path in enumerate(paths, start=1))
        if missing or not self.source or self.source.paths.heading != target.paths.heading:
            outlines = tuple(self.numbered(outline, f"{number}{i}") for i, outline in enumerate(outlines, start=1))
        return text, Plan(self.text(found.goal), outlines)

    def outline(self, path: Trace, place: int) -> str:
        """An outline from the beginning of its path: the first line, or sentence, or words."""
        if self.plans != "write":
            why = ", where each path has an outline: write them from the paths (plans: write)"
            raise self.error("a block without outlines", why, "no_plan")
        first = next((part for part in path.parts[:1] if isinstance(part, str)), "")
        line = DECLARED.sub("", first.strip().partition("\n")[0], count=1).strip()
        if not line:
            raise self.error(f"path {place}, which begins with no text,", ": it needs an outline there", "no_plan")
        if len(line.split()) > MOST_WORDS:
            line = _SENTENCE.split(line, maxsplit=1)[0]
        return " ".join(line.split()[:MOST_WORDS])

    def numbered(self, outline: str, number: str) -> str:
        """The outline as another format has it: with a number if its paths show one, or else without."""
        begins = DECLARED.match(outline)
        if ID in self.target.paths.heading:
            return outline if begins else f"{number}: {outline.lstrip()}"
        return outline[begins.end() :].lstrip() if begins else outline

    # --- headings

    def heading(self, block: Block, place: int) -> str:
        """The heading that the source forces at the beginning of that path."""
        outlines = block.plan.outlines if block.plan else ()
        return self.source.heading(place + 1, outlines[place] if place < len(outlines) else "") if self.source else ""

    def bare(self, block: Block, place: int) -> Trace:
        """The path without its heading, and without the one space after it; the path itself if it has none."""
        path, heading = block.paths[place], self.heading(block, place)
        first = path.parts[0] if path.parts and isinstance(path.parts[0], str) else ""
        if not heading or not first.startswith(heading):
            return path
        rest = first[len(heading) :].removeprefix(" ")
        return replace(path, parts=(rest, *path.parts[1:]) if rest else path.parts[1:])


def _put(parts: list[str | Block], part: str | Block) -> None:
    """Append a part. Texts that meet become one, on two lines."""
    before = parts[-1] if parts else None
    if isinstance(before, str) and isinstance(part, str):
        touch = not part or part[0].isspace() or before[-1].isspace()
        parts[-1] = before + ("" if touch else "\n") + part
    elif part:
        parts.append(part)


def _on_a_new_line(trace: Trace) -> Trace:
    """What was a summary, as text after a block."""
    first = trace.parts[0] if trace.parts else None
    apart = isinstance(first, str) and not first[0].isspace()
    return Trace((f"\n{first}", *trace.parts[1:])) if apart else trace


def _headed(path: Trace, heading: str) -> Trace:
    """The path with a heading, and a space before text on the same line, which `_Conversion.bare` takes off again."""
    if not heading:
        return path
    first, rest = (path.parts[0], path.parts[1:]) if path.parts and isinstance(path.parts[0], str) else ("", path.parts)
    return Trace((heading + (" " if first and not first.startswith("\n") else "") + first, *rest))
