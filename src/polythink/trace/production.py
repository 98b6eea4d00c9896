"""A dialect: the tags and rules of one published trace format, as a production. Data, not code.

A block is written as a list of elements in text order. Each element says its tags, who writes its opening tag in the
modes whose paths are isolated (in `sequential` mode the model writes everything), what white space the runtime writes
before it, whether it repeats and how many there are. Parser, renderer, tag ids, statistics and drawing read that list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, NamedTuple

from polythink.errors import UserError
from polythink.trace.ambiguity import check_production
from polythink.trace.elements import ID, MOST_NUMBERS, NAMES, NUMBER, Element, PathTags, PlanTags, SummaryTags, Tag

__all__ = ["ID", "MOST_NUMBERS", "NUMBER", "Dialect", "Element", "PathTags", "PlanTags", "SummaryTags", "Tag"]

DECLARED = re.compile(r"\s*([0-9]+(?:\s*\.\s*[0-9]+)*)\s*:")  # the number with which an outline begins: `1.2:`


class Spelled(NamedTuple):
    """How the tags of a dialect are found in a text. A number is found whether or not the inventory has it.

    Numbers have no leading zeros: `<think01>` is text, as it is for a tokenizer.
    """

    pattern: re.Pattern[str]
    kinds: dict[str, str]  # tag without a number -> kind
    numbered: tuple[str, ...]  # kind of the tag whose number is in that group of the pattern
    shared: dict[str, tuple[str, ...]]  # closing tag of several elements -> these elements


def tag_pattern(tags: Iterable[str]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A pattern that finds any of these tags, and the numbered one whose number is in each of its groups."""
    longest_first = sorted(tags, key=len, reverse=True)
    number = "(0|[1-9][0-9]{0,3})"
    pattern = re.compile("|".join(re.escape(tag).replace(re.escape(NUMBER), number) for tag in longest_first))
    return pattern, tuple(tag for tag in longest_first if NUMBER in tag)


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
    def plan_gap(self) -> str:
        """White space before the plan: none where a block begins with it, since that would be text before the block."""
        return self.plan.gap if self.plan and self.opening else ""

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
            kind = NAMES[type(element)]
            found += [(f"{kind}_open", element.open), (f"{kind}_close", element.close)]
            if isinstance(element, PlanTags) and element.item[0]:
                found += [("outline_open", element.item[0]), ("outline_close", element.item[1])]
        return tuple(found)

    @cached_property
    def opens_block(self) -> str:
        """The kind of the tag that a block begins with."""
        return "block_open" if self.opening else f"{NAMES[type(self.block[0])]}_open"

    @cached_property
    def first_tag(self) -> str:
        """The tag that a block begins with; of numbered paths that of number 1."""
        return self.first_tags[0]

    @cached_property
    def first_tags(self) -> tuple[str, ...]:
        """The tags that a block may begin with: several where it begins with a path, and those have numbers."""
        if self.opening or self.plan:
            return (self.opening.text if self.opening else self.plan.open,)
        return tuple(self.path_tags(n)[0] for n in range(1, max(self.inventory, 1) + 1))

    @cached_property
    def pair(self) -> tuple[str, ...]:
        """The tag that opens a block, and the last of those after the paths, which closes it; () without one of them.

        All other tags of `Tag` elements stand alone: nothing is opened or closed by them.
        """
        after = self.joining + self.closing
        return (self.opening.text, after[-1].text) if self.opening and after else ()

    @cached_property
    def follows_paths(self) -> tuple[tuple[str, str], ...]:
        """(kind, tag) of what stands after the paths, in order: each tag, and the opening tag of the summary."""
        summary = (("summary_open", self.summary.open),) if self.summary else ()
        joining, closing = (tuple(("block_close", t.text) for t in tags) for tags in (self.joining, self.closing))
        return (*joining, *summary, *closing)

    @cached_property
    def spelled(self) -> Spelled:
        """The pattern that finds the tags, and what kind each is."""
        owners: dict[str, list[str]] = {}  # closing tag -> elements
        for kind, tag in self.spellings:
            if kind.endswith("_close"):
                owners.setdefault(tag, []).append(kind.removesuffix("_close"))
        kinds = {tag: kind for kind, tag in reversed(self.spellings)}
        pattern, numbered = tag_pattern(kinds)
        return Spelled(
            pattern,
            kinds,
            tuple(kinds[tag] for tag in numbered),
            {tag: tuple(elements) for tag, elements in owners.items() if len(elements) > 1},
        )

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

    @cached_property
    def shape(self) -> str:
        """A block with two paths as its tags, without white space: `<Path>..</Path>`."""
        text = ""
        for element in self.block:
            if isinstance(element, Tag):
                text += element.text
            elif isinstance(element, PathTags):
                text += "".join("..".join(self.path_tags(label)) for label in (1, 2))
            elif isinstance(element, PlanTags) and element.item[0]:
                text += f"{element.open}..{'..'.join(element.item) * 2}{element.close}"
            else:
                text += f"{element.open}..{element.close}"
        return text

    @cached_property
    def counting(self) -> str:
        """Who says how many paths a block has, for people."""
        least = f"at least {self.paths.least} path{'s' * (self.paths.least > 1)} per block"
        said = "one for each outline that the model writes" if self.declares_paths else "as many as asked for"
        return f"{least}, {said}"

    def heading(self, place: int, outline: str = "") -> str:
        """The text that is forced after the opening tag of the path at that place (from 1); `outline`: its outline."""
        if not self.paths.heading:
            return ""
        declared = DECLARED.match(outline)
        return self.paths.heading.replace(ID, re.sub(r"\s", "", declared[1]) if declared else str(place))
