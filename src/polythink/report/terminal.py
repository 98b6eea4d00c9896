"""A trace in the terminal, paths side by side."""

from __future__ import annotations

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from polythink.trace.tree import Block, Trace

MIN_PATH_WIDTH = 28  # columns; where less is left for each path, the paths of a block go below one another


# like box.SQUARE, but what is below hangs on the bottom line
JOINED = box.Box("┌─┬┐\n│ ││\n├─┼┤\n│ ││\n├─┼┤\n├─┼┤\n│ ││\n├─┴┤\n")


def draw(trace: Trace) -> RenderableType:
    """A trace for the terminal: its text, and each block as a fork."""
    parts = (part for part in trace.parts if isinstance(part, Block) or part.strip())
    return Group(*(_Fork(part) if isinstance(part, Block) else _plain(part) for part in parts))


class _Fork:
    """A block as it is drawn: its paths as columns, as many side by side as there is room for, then the summary."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        paths = [(f"path {label or i}", path) for i, (label, path) in enumerate(self.block.numbered(), start=1)]
        abreast = max(1, min(len(paths), options.max_width // MIN_PATH_WIDTH))
        rows = [paths[i : i + abreast] for i in range(0, len(paths), abreast)] + [[("summary", self.block.summary)]]
        for i, row in enumerate(rows):
            table = Table(box=box.SQUARE if i == len(rows) - 1 else JOINED, expand=True)
            for name, _ in row:
                table.add_column(name, ratio=1, overflow="fold")
            table.add_row(*(draw(trace) for _, trace in row))
            shared_border = i > 0  # the row above has drawn it
            for line in console.render_lines(table, options.reset_height())[shared_border:]:
                yield from line
                yield Segment.line()


def _plain(text: str) -> Text:
    """Text without white space around it; control characters, which could steer the terminal, become visible."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text.strip()))
