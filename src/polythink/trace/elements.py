"""The elements of a production: what a block is made of, in text order (see `trace.production`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NUMBER = "{n}"  # the place of a path's number in its tags
ID = "{id}"  # the place of an outline's number in the heading of its path
MOST_NUMBERS = 1024  # the largest inventory
Writer = Literal["model", "runtime"]


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
NAMES = {Tag: "tag", PlanTags: "plan", PathTags: "path", SummaryTags: "summary"}
