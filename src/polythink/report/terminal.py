"""A trace in the terminal, paths side by side: the same structure as in reports, finished or while it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from polythink.report.fork_drawing import Card, Flow, Fork, flow_of_segments, flow_of_trace
from polythink.trace.tree import Trace

if TYPE_CHECKING:
    from polythink.engine.params import Event

MIN_PATH_WIDTH = 28  # columns; with less room per path, the paths of a block are stacked

# like box.SQUARE, but connected to the box below
JOINED = box.Box("┌─┬┐\n│ ││\n├─┼┤\n│ ││\n├─┼┤\n├─┼┤\n│ ││\n├─┴┤\n")


def draw(trace: Trace) -> RenderableType:
    """A parsed trace for the terminal: its text, and each block as a fork."""
    return draw_flow(flow_of_trace(trace))


def draw_flow(flow: Flow) -> RenderableType:
    shown = (node for node in flow if isinstance(node, Fork) or node.text)
    return Group(*(_ForkView(node) if isinstance(node, Fork) else _plain(node.text) for node in shown))


class LiveTrace:
    """A trace while it is sampled, for `rich.live.Live`: feed it the engine's events of one request.

    `decode` turns token ids into text; `tags` are the token ids that are not shown.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], tags: Collection[int]) -> None:
        self.decode, self.tags = decode, frozenset(tags)
        self._segments: dict[int, tuple[Event, list[int]]] = {}  # by index -> its first event, its tokens

    def on_event(self, event: Event) -> None:
        if event.kind == "done":
            return
        _, tokens = self._segments.setdefault(event.segment, (event, []))
        if event.kind == "token" and event.token not in self.tags:
            tokens.append(event.token)

    def flow(self) -> Flow:
        """The structure so far. The order in which segments are opened is text order: blocks are not nested here."""
        return flow_of_segments([
            {
                "kind": "main" if first.block < 0 else "path" if first.path else "summary",
                "block": first.block, "path": first.path, "label": first.label, "text": self.decode(list(tokens)),
            }
            for first, tokens in list(self._segments.values())  # rich draws from a thread of its own
        ])  # fmt: skip

    def __rich__(self) -> RenderableType:
        return draw_flow(self.flow())


class _ForkView:
    """A block: its paths as columns, as many side by side as there is room for, then the summary."""

    def __init__(self, fork: Fork) -> None:
        self.fork = fork

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        paths = [(_heading(path), path) for path in self.fork.paths]
        abreast = max(1, min(len(paths), options.max_width // MIN_PATH_WIDTH))
        rows = [paths[i : i + abreast] for i in range(0, len(paths), abreast)] + [[("summary", self.fork.summary)]]
        for i, row in enumerate(rows):
            table = Table(box=box.SQUARE if i == len(rows) - 1 else JOINED, expand=True)
            for name, _ in row:
                table.add_column(name, ratio=1, overflow="fold")
            table.add_row(*(draw_flow(flow) for _, flow in row))
            shared_border = i > 0  # the row above has drawn it
            for line in console.render_lines(table, options.reset_height())[shared_border:]:
                yield from line
                yield Segment.line()


def _heading(path: Flow) -> str:
    return " · ".join(path[0].badges) if path and isinstance(path[0], Card) else ""


def _plain(text: str) -> Text:
    """Text without white space around it; control characters, which could steer the terminal, become visible."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text.strip()))
