"""A trace as the output items of a response: main text before a join, each path, each summary, and then the answer.

Paths that run at once are items that grow at once. As in `linear.py`, what may turn out as reasoning or as content is
held until that is known; an item of main text is therefore told whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polythink.engine.params import Event, SamplingParams
from polythink.serve.finished import Shown
from polythink.serve.growing import Spelling, Text
from polythink.serve.linear import Kind, Phases, Piece

ItemKind = Literal["main", "path", "summary", "message"]


@dataclass(eq=False)
class Item:
    """`index`: its place in the output. `cut`: why a path was truncated, if it was."""

    kind: ItemKind
    index: int
    path: int = 0
    label: int = 0
    text: str = ""
    cut: str = ""
    closed: bool = False
    events: list[Event] = field(default_factory=list)  # of the sampled tokens of a message


@dataclass(frozen=True)
class Change:
    """An item opens, grows by a text, or is closed."""

    kind: Literal["open", "grow", "close"]
    item: Item
    text: str = ""
    events: tuple[Event, ...] = ()


class Items:
    """The items of one trace; `add` takes its events in order and returns what changes."""

    def __init__(self, spelling: Spelling, params: SamplingParams) -> None:
        self._phases = Phases(spelling, params, abreast=True)
        self.items: list[Item] = []
        self._open: dict[Text | None, Item] = {}  # by element; None: the message

    def add(self, event: Event, text: str = "") -> list[Change]:
        told = self._phases.add(event, text)
        changes = [change for kind, pieces in told for piece in pieces for change in self._take(kind, piece)]
        return changes + (self.finish(None) if event.kind == "done" else [])

    def finish(self, element: Text | None) -> list[Change]:
        """Close the item of an element, if it is open; None: the message."""
        item = self._open.pop(element, None)
        if item is None:
            return []
        item.closed, item.cut = True, element.cut if element is not None and item.kind == "path" else ""
        return [Change("close", item)]

    def open(self, element: Text | None = None) -> list[Change]:
        """Open the item of an element; None: the message."""
        if element in self._open:
            return []
        kind = "message" if element is None else "main" if not element.block else "path" if element.path else "summary"
        item = Item(kind, len(self.items), element.path if element else 0, element.label if element else 0)
        self.items.append(item)
        self._open[element] = item
        return [Change("open", item)]

    def _take(self, kind: Kind, piece: Piece) -> list[Change]:
        element = None if kind == "content" else piece.element
        begins = bool(piece.text) or (element is not None and element.path > 0 and not piece.last)
        changes = self.open(element) if begins else []
        if piece.text:
            item = self._open[element]
            text = piece.shown(bool(item.text), kind == "reasoning" and bool(item.text))
            item.text += text
            changes.append(Change("grow", item, text))
        if kind == "content":
            changes = self._with_events(changes, piece)
        elif piece.last or not (piece.text or piece.tail or element.block):  # a block follows main text
            changes += self.finish(element)
        return changes

    def _with_events(self, changes: list[Change], piece: Piece) -> list[Change]:
        """The events of a piece of content go with its text; of white space before any, with nothing."""
        item = self._open.get(None)
        if item is None or not piece.events:
            return changes
        item.events += piece.events
        rest = [change for change in changes if change.kind != "grow"]
        return [*rest, Change("grow", item, "".join(c.text for c in changes if c.kind == "grow"), piece.events)]


def items_of(found: Shown) -> list[Item]:
    """The items of a finished trace, from the twin's reading of it."""
    items = [Item(e.kind, i, e.path, e.label, e.text, e.cut, True) for i, e in enumerate(found.elements)]
    return items + ([Item("message", len(items), text=found.content, closed=True)] if found.content else [])
