"""A trace in the terminal, paths side by side: the same structure as in reports, finished or while it is sampled.

While it is sampled, the picture fits the terminal: of every path its newest lines, as many as there is room for.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
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


def draw_flow(flow: Flow, most: int | None = None) -> RenderableType:
    """Cards and forks under each other; of every text only the last `most` lines, if that is given."""
    shown = (node for node in flow if isinstance(node, Fork) or node.text or node.note)
    return Group(*(_ForkView(node, most) if isinstance(node, Fork) else _card(node, most) for node in shown))


def _card(card: Card, most: int | None) -> RenderableType:
    """The text of a card; a plan begins with that word, and a copy is one grey line."""
    if card.note:
        return Text(card.note, style="bright_black")
    head = f"{' · '.join(card.badges + card.warnings)}: " if card.kind == "plan" else ""
    return _plain(head + card.text, most)


class LiveTrace:
    """A trace while it is sampled, for `rich.live.Live`: feed it the engine's events of one request.

    `decode` turns token ids into text, with the tags.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.done = False
        self._segments: dict[int, tuple[Event, list[int]]] = {}  # by index -> its first event, its tokens
        self._forks: dict[int, int | None] = {}  # block -> the segment that ends where it begins, None: the prompt
        self._last: int | None = None  # the segment of the last event

    def on_event(self, event: Event) -> None:
        if event.kind == "done":
            self.done = True
            return
        if event.block >= 0:  # the event before a block's first one is of the segment that it follows
            self._forks.setdefault(event.block, self._last)
        _, tokens = self._segments.setdefault(event.segment, (event, []))
        self._last = event.segment
        if event.kind == "token":
            tokens.append(event.token)

    def flow(self) -> Flow:
        """The structure so far."""
        return flow_of_segments([
            {
                "kind": "main" if first.block < 0 else "path" if first.path else "summary",
                "block": first.block, "path": first.path, "label": first.label, "text": self.decode(list(tokens)),
            }
            for first, tokens in self._in_text_order()
        ])  # fmt: skip

    def _in_text_order(self) -> Iterator[tuple[Event, list[int]]]:
        """The segments in the order of the text: each block after the segment that it follows, paths by number."""
        segments, forks = dict(self._segments), dict(self._forks)  # rich draws from a thread of its own
        chains: dict[tuple[int, int], list[int]] = {}
        for index, (first, _) in segments.items():
            chains.setdefault((first.block, first.path), []).append(index)

        def blocks_after(segment: int | None) -> Iterator[int]:
            for block in (block for block, before in forks.items() if before == segment):
                for chain in sorted((c for c in chains if c[0] == block), key=lambda c: c[1] or len(segments)):
                    yield from in_chain(chain)

        def in_chain(chain: tuple[int, int]) -> Iterator[int]:
            for index in chains.get(chain, ()):
                yield index
                yield from blocks_after(index)

        return (segments[index] for index in (*blocks_after(None), *in_chain((-1, 0))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The whole trace when it is finished, or where nothing is redrawn; else what fits the terminal."""
        flow = self.flow()
        lines = None
        if console.is_terminal and not self.done:
            lines = fitted(flow, console, options.reset_height(), console.height)
        yield draw_flow(flow) if lines is None else _Lines(lines)


@contextmanager
def live_view(view: LiveTrace, console: Console | None = None) -> Iterator[Console]:
    """Show a trace while it is sampled, on the terminal's other screen; yields the console for what is printed later.

    The other screen keeps no history: nothing of a frame is left over, whatever its height, and when the terminal is
    resized the next frame starts anew. What is written to stderr meanwhile is held back, and printed afterwards.
    """
    held = io.StringIO()
    try:
        with redirect_stderr(held):
            live = Live(view, console=console, refresh_per_second=10, vertical_overflow="crop", screen=True,
                        redirect_stderr=False)  # fmt: skip
            try:
                live.start(refresh=True)
                yield live.console
            finally:  # `with live` would not stop its thread where Ctrl-C comes while it starts
                _stop(live)
    finally:
        sys.stderr.write(held.getvalue())


def _stop(live: Live) -> None:
    """Stop the view, whatever of it had been started when it was interrupted."""
    try:
        live.stop()
    except IndexError:  # the screen was up, and its render hook was not yet: rich takes that down first
        live.console.show_cursor(True)
        live.console.set_alt_screen(False)


def fitted(flow: Flow, console: Console, options: ConsoleOptions, height: int) -> list[list[Segment]]:
    """The newest part of a trace, in at most `height` lines.

    Of each segment its last lines, the same number of all, as many as fit. Where not even one line of each does, the
    earlier blocks go first; where one block is too much, its paths become a line each.
    """

    def lines(nodes: Flow, most: int) -> list[list[Segment]]:
        return console.render_lines(draw_flow(nodes, most), options, pad=False)

    for start in range(len(flow)):
        nodes = flow[start:]
        if len(lines(nodes, 1)) <= height:
            low, high = 1, height + 1  # `low` fits, `high` may be more than there is
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if len(lines(nodes, middle)) <= height else (low, middle)
            return lines(nodes, low)
    short = _one_line_each(flow[-1], options.max_width, height) if flow else []
    return [[Segment(line)] for line in short]


def _one_line_each(node: Card | Fork, width: int, height: int) -> list[str]:
    """The end of each path of a block, and of its summary, a line each; more than there is room for are counted."""
    flows = [("", [node])] if isinstance(node, Card) else [(_heading(p), p) for p in node.paths]
    flows += [("summary", node.summary)] if isinstance(node, Fork) and node.summary else []
    shown = flows if len(flows) <= height else flows[: height - 1]
    lines = []
    for name, flow in shown:
        text = " ".join(_visible(_text_of(flow)).split())
        head = f"{name}: " if name else ""
        lines.append(_last_cells(text, width, head))
    more = len(flows) - len(shown)
    return [*lines, f"and {more} more"[:width]] if more else lines


def _last_cells(text: str, width: int, head: str) -> str:
    """`head` and the end of the text, in `width` columns (wide characters take two)."""
    if cell_len(head + text) <= width:
        return head + text
    while text and cell_len(head) + 1 + cell_len(text) > width:
        text = text[max(1, (cell_len(head) + 1 + cell_len(text) - width) // 2) :]
    return set_cell_size(f"{head}\N{HORIZONTAL ELLIPSIS}{text}", width)


def _text_of(flow: Flow) -> str:
    return " ".join(n.text if isinstance(n, Card) else _text_of([c for p in n.paths for c in p]) for n in flow)


class _Lines:
    """Lines that are rendered already."""

    def __init__(self, lines: Sequence[Sequence[Segment]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            yield from line
            yield Segment.line()


class _Tail:
    """The last lines of a text, the first of them an ellipsis if there were more."""

    def __init__(self, text: str, most: int) -> None:
        self.text, self.most = text, most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        end = self.text[-(self.most + 1) * width :]  # no line is longer, so nothing before it can be shown
        lines = Text(end, overflow="fold").wrap(console, width)
        if len(lines) > self.most or len(end) < len(self.text):
            kept = lines[-self.most + 1 :] if self.most > 1 else []
            lines = [Text("\N{HORIZONTAL ELLIPSIS}"), *kept] if self.most > 1 else [_ending(lines[-1], width)]
        yield from lines


def _ending(line: Text, width: int) -> Text:
    return Text(_last_cells(line.plain.rstrip() + " ", width, "\N{HORIZONTAL ELLIPSIS}").rstrip())


class _ForkView:
    """A block: its paths as columns, as many side by side as there is room for, then the summary."""

    def __init__(self, fork: Fork, most: int | None = None) -> None:
        self.fork, self.most = fork, most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        paths = [(_heading(path), path) for path in self.fork.paths]
        abreast = max(1, min(len(paths), options.max_width // MIN_PATH_WIDTH))
        rows = [paths[i : i + abreast] for i in range(0, len(paths), abreast)]
        if self.fork.summary or not self.fork.joined_by_text:
            rows.append([(self.fork.joined_as, self.fork.summary)])
        for i, row in enumerate(rows):
            table = Table(box=box.SQUARE if i == len(rows) - 1 else JOINED, expand=True)
            for name, _ in row:
                table.add_column(name, ratio=1, overflow="fold")
            table.add_row(*(draw_flow(flow, self.most) for _, flow in row))
            shared_border = i > 0  # the row above has drawn it
            for line in console.render_lines(table, options.reset_height())[shared_border:]:
                yield from line
                yield Segment.line()


def _heading(path: Flow) -> str:
    return " · ".join(path[0].badges) if path and isinstance(path[0], Card) else ""


def _plain(text: str, most: int | None = None) -> RenderableType:
    """Text without white space around it."""
    shown = _visible(text.strip())
    return Text(shown) if most is None else _Tail(shown, most)


def _visible(text: str) -> str:
    """Control characters, which could steer the terminal, become visible."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
