"""A dialect: the tags and rules of one published trace format, as a production. Data, not code.

A block is written as a list of elements in text order. Each element says its tags, who writes its opening tag in the
modes whose paths are isolated (in `sequential` mode the model writes everything), what white space the runtime writes
before it, whether it repeats and how many there are. Parser, renderer, tag ids, statistics and drawing read that list.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal

from polythink.errors import UserError

TAG_KINDS = ("block_open", "block_close", "path_open", "path_close", "summary_open", "summary_close")  # COMPAT
NUMBER = "{n}"  # the place of a path's number in its tags
ID = "{id}"  # the place of an outline's number in the heading of its path
MOST_NUMBERS = 1024  # the largest inventory
Writer = Literal["model", "runtime"]

_DECLARED = re.compile(r"\s*([0-9]+(?:\s*\.\s*[0-9]+)*)\s*:")  # the number with which an outline begins: `1.2:`


@dataclass(frozen=True)
class Tag:
    """A tag that stands alone: it opens the block (before the paths) or closes it (after them)."""

    text: str
    by: Writer = "model"
    gap: str = ""  # white space before it in canonical text


@dataclass(frozen=True)
class PlanTags:
    """What the model writes before the paths: free text, then one outline per path (where `item` has tags)."""

    open: str
    close: str
    item: tuple[str, str] = ("", "")  # the tags of an outline
    gap: str = ""  # white space before each of its tags but the outlines' closing ones


@dataclass(frozen=True)
class PathTags:
    """The paths. Numbered ones hold `{n}` in their tags, and `inventory` is the number of numbers.

    `counted` says how many there are: as many as the request says (in text that is already written, as many as are
    opened), or as many as the plan has outlines. `heading` is forced after a path's opening tag; its `{id}` is the
    number with which the path's outline begins, or the path's place.
    """

    open: str
    close: str
    least: int = 1
    inventory: int = 0
    counted: Literal["request", "outlines"] = "request"
    heading: str = ""
    gap: str = ""


@dataclass(frozen=True)
class SummaryTags:
    """What the model writes after the join. `answers`: the final answer may stand in it, not only after it."""

    open: str
    close: str
    gap: str = ""
    answers: bool = False


Element = Tag | PlanTags | PathTags | SummaryTags


@dataclass(frozen=True)
class Dialect:
    """One format. `block` is the production of a block; `UserError` where it cannot be read or drawn without doubt."""

    name: str
    block: tuple[Element, ...]
    nests: bool = True  # paths and summaries may contain blocks
    # What the runtime does with a tag that is not allowed where it was sampled. "replace": by the segment's own closing
    # or opening tag (the latter is text there), and by the end token in main text.
    misplaced_tags: Literal["keep", "replace"] = "keep"
    published_check: bool = False  # the published rewards come with a checker of their own: the rule `reference`
    source: str = ""  # where the format is from

    def __post_init__(self) -> None:
        check_production(self)

    # --- the elements

    @cached_property
    def paths(self) -> PathTags:
        return next(e for e in self.block if isinstance(e, PathTags))

    @cached_property
    def plan(self) -> PlanTags | None:
        return next((e for e in self.block if isinstance(e, PlanTags)), None)

    @cached_property
    def summary(self) -> SummaryTags | None:
        return next((e for e in self.block if isinstance(e, SummaryTags)), None)

    @cached_property
    def opening(self) -> Tag | None:
        """The tag that opens a block; None where it begins with its plan or its first path."""
        return self.block[0] if isinstance(self.block[0], Tag) else None

    @cached_property
    def joining(self) -> tuple[Tag, ...]:
        """The tags between the paths and the summary."""
        return self._tags_between(self.paths, self.summary)

    @cached_property
    def closing(self) -> tuple[Tag, ...]:
        """The tags after the summary."""
        return self._tags_between(self.summary, None) if self.summary else ()

    @cached_property
    def forced_closing(self) -> int:
        """How many of the tags after the summary the runtime writes, before those that the model writes."""
        return sum(tag.by == "runtime" for tag in self.closing)

    def _tags_between(self, first: Element, last: Element | None) -> tuple[Tag, ...]:
        after = self.block[self.block.index(first) + 1 :]
        return tuple(after[: after.index(last)] if last in after else after)

    # --- what follows from them

    @cached_property
    def inventory(self) -> int:
        """How many numbers its paths may have; 0: they have none."""
        return self.paths.inventory

    @cached_property
    def runtime_forks(self) -> bool:
        """The runtime opens blocks, not the model: no tag or plan of the model's stands before the paths."""
        return self.plan is None and (self.opening is None or self.opening.by == "runtime")

    @cached_property
    def declares_paths(self) -> bool:
        """The model says by its outlines how many paths there are."""
        return self.paths.counted == "outlines"

    @cached_property
    def answers_in_summary(self) -> bool:
        return self.summary is not None and self.summary.answers

    @cached_property
    def spellings(self) -> tuple[tuple[str, str], ...]:
        """(kind, tag) of every tag: first those that stand alone, then each element's opening and closing tag.

        A numbered tag holds `{n}`. Elements may share a closing tag.
        """
        found = [
            ("block_open" if e is self.opening else "block_close", e.text) for e in self.block if isinstance(e, Tag)
        ]
        for element in self.block:
            if isinstance(element, Tag):
                continue
            kind = _ELEMENTS[type(element)]
            found += [(f"{kind}_open", element.open), (f"{kind}_close", element.close)]
            if isinstance(element, PlanTags) and element.item[0]:
                found += [("outline_open", element.item[0]), ("outline_close", element.item[1])]
        return tuple(found)

    @cached_property
    def opens_block(self) -> str:
        """The kind of the tag that a block begins with."""
        return "block_open" if self.opening else f"{_ELEMENTS[type(self.block[0])]}_open"

    @cached_property
    def _every_tag(self) -> tuple[tuple[str, str], ...]:
        """`spellings` with numbered tags once for every number, opening and closing tag in turn."""
        numbers = [
            (kind, tag.replace(NUMBER, str(n))) for n in range(1, self.inventory + 1) for kind, tag in self._path
        ]
        first = self.spellings.index(self._path[0])
        return (*self.spellings[:first], *(numbers or self._path), *self.spellings[first + 2 :])

    @cached_property
    def _path(self) -> tuple[tuple[str, str], ...]:
        return tuple((kind, tag) for kind, tag in self.spellings if kind.startswith("path_"))

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Every tag once, numbered ones for every number."""
        return tuple(dict.fromkeys(tag for _, tag in self._every_tag))

    @cached_property
    def closing_tags(self) -> tuple[str, ...]:
        """The tags that close an element or a block."""
        return tuple(dict.fromkeys(tag for kind, tag in self._every_tag if kind.endswith("_close")))

    # COMPAT: old names, until parser and engine read the production
    block_open = property(lambda self: self.opening.text if self.opening else "")
    block_close = property(lambda self: (self.joining + self.closing)[0].text if self.joining + self.closing else "")
    path_open = property(lambda self: self.paths.open)
    path_close = property(lambda self: self.paths.close)
    summary_open = property(lambda self: self.summary.open if self.summary else "")
    summary_close = property(lambda self: self.summary.close if self.summary else "")
    gap = property(lambda self: self.summary.gap if self.summary else "")
    min_paths = property(lambda self: self.paths.least)
    answer = property(lambda self: "summary" if self.answers_in_summary else "after")

    def path_tags(self, label: int = 0) -> tuple[str, str]:
        """The two tags of the path with that number (of every path, where paths have no numbers)."""
        return self.paths.open.replace(NUMBER, str(label)), self.paths.close.replace(NUMBER, str(label))

    def draw_labels(self, paths: int, rng: Random | None) -> tuple[int, ...]:
        """The numbers of a block's paths: 1..P, or with `rng` any P of the inventory; none where paths have none."""
        if not self.inventory:
            return ()
        if paths > self.inventory:
            raise UserError(
                f"{paths} paths are more than the {self.inventory} numbers of dialect {self.name}; use fewer paths, or "
                f"train with a larger inventory (dialect: {self.name.partition(':')[0]}:{paths})"
            )
        return tuple(rng.sample(range(1, self.inventory + 1), paths) if rng else range(1, paths + 1))

    def heading(self, place: int, outline: str = "") -> str:
        """The text that is forced after the opening tag of the path at that place (from 1); `outline`: its outline."""
        declared = _DECLARED.match(outline)
        return self.paths.heading.replace(ID, re.sub(r"\s", "", declared[1]) if declared else str(place))


_ELEMENTS = {PlanTags: "plan", PathTags: "path", SummaryTags: "summary"}


# ---- what is refused when a dialect is declared


def check_production(dialect: Dialect) -> None:
    """`UserError` for a production that a parser or the engine could not follow without doubt."""
    for wrong in (_wrong_order, _wrong_writer, _wrong_numbers, _wrong_tags):
        if reason := wrong(dialect):
            raise UserError(f"dialect {dialect.name!r}: {reason}")


def _wrong_order(d: Dialect) -> str:
    order = [_ELEMENTS.get(type(e), "tag") for e in d.block]
    count = Counter(order)
    if count["path"] != 1:
        return f"a block has one element for its paths, and this one has {count['path']}"
    if count["plan"] > 1 or count["summary"] > 1:
        return "a block has at most one plan and one summary"
    before, after = order[: order.index("path")], order[order.index("path") + 1 :]
    if before not in ([], ["tag"], ["plan"], ["tag", "plan"]):
        return f"before its paths a block has a tag, a plan, or a tag and then a plan, not {', '.join(before)}"
    if "plan" in after:
        return "its plan comes after its paths; a plan comes before them"
    if not after:
        return "nothing follows its paths: a summary, or a tag that the runtime writes, says that they are joined"
    return ""


def _wrong_writer(d: Dialect) -> str:
    if any(tag.by != "runtime" for tag in d.joining):
        return "a tag between its paths and its summary (or after the paths, without one) is written by the runtime: "\
               "the paths end at once, and none of them can write it"  # fmt: skip
    if [tag.by for tag in d.closing] != sorted((tag.by for tag in d.closing), reverse=True):
        return "of the tags after its summary, those that the runtime writes come before those that the model writes"
    if d.opening and d.opening.by == "runtime" and d.plan:
        return "the model writes the plan, so it also writes the tag before it"
    if d.declares_paths and not (d.plan and d.plan.item[0]):
        return "its paths are counted by outlines, so it needs a plan with tags for each outline"
    return ""


def _wrong_numbers(d: Dialect) -> str:
    p, texts = d.paths, [text for kind, text in d.spellings if not kind.startswith("path")]
    if (NUMBER in p.open) != bool(p.inventory) or (NUMBER in p.close and not p.inventory):
        return f"paths with an inventory of numbers hold {NUMBER} in their opening tag, and only they do"
    if not 0 <= p.inventory <= MOST_NUMBERS:
        return f"an inventory is a number of paths from 0 to {MOST_NUMBERS}, not {p.inventory}"
    if p.least < 1:
        return f"a block has at least one path, not {p.least}"
    if any(NUMBER in text for text in texts):
        return f"only the tags of paths hold {NUMBER}"
    return ""


def _wrong_tags(d: Dialect) -> str:
    """Tags that cannot be told apart. Elements may share a closing tag: it closes whichever is open."""
    own = {kind: text for kind, text in d.spellings if not kind.startswith("block")}
    alone = [text for kind, text in d.spellings if kind.startswith("block")]
    opening = [text for kind, text in own.items() if kind.endswith("_open")]
    closing = {text for kind, text in own.items() if kind.endswith("_close")}
    for text in (*alone, *own.values()):
        if not text or text != text.strip() or re.search(r"\s{2}|\n", text):
            return f"the tag {text!r} is empty, or has white space at an end; a tag is one token, such as <Path>"
    if d.plan and bool(d.plan.item[0]) != bool(d.plan.item[1]):
        return "an outline has an opening and a closing tag, or none at all"
    patterns = [re.compile(re.escape(text).replace(re.escape(NUMBER), "[0-9]+")) for text in opening]
    for text in (*alone, *opening, *closing):
        spelled = text.replace(NUMBER, "1")
        same = sum(bool(pattern.fullmatch(spelled)) for pattern in patterns) + alone.count(text)
        if same + (text in closing) > 1:
            return f"two of its elements cannot be told apart: both have the tag {text}"
    return ""
