"""Tables as Markdown and as HTML, from the same columns and rows."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table whose columns line up as plain text too; columns of numbers are aligned to the right."""
    cells = [
        [_text(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        for row in (columns, *_checked(columns, rows))
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    right = [_numeric([row[i] for row in cells[1:]]) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])]) + "\n"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """The same table as an HTML fragment."""
    cells = [[_text(cell) for cell in row] for row in _checked(columns, rows)]
    right = [_numeric([row[i] for row in cells]) for i in range(len(columns))]

    def line(tag: str, row: Sequence[str]) -> str:
        styled = (f'<{tag} class="number">' if r else f"<{tag}>" for r in right)
        return "<tr>" + "".join(f"{s}{html.escape(c)}</{tag}>" for s, c in zip(styled, row, strict=True)) + "</tr>"

    caption = f"<caption><span>{html.escape(caption)}</span></caption>\n" if caption else ""
    body = "\n".join(line("td", row) for row in cells)
    return f"<table>\n{caption}<thead>{line('th', columns)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"


def _checked(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    rows = list(rows)
    for row in rows:
        assert len(row) == len(columns), f"{len(row)} cells under {len(columns)} columns: {row}"
    return rows


def _text(cell: Any) -> str:
    """None and nan are empty cells; floats get three significant digits, at most three after the point."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float):
        digits = 3 if abs(cell) <= 1 else 2 if abs(cell) < 10 else 1 if abs(cell) < 100 else 0
        return f"{cell:.{digits}f}"
    return str(cell)


def _numeric(cells: Sequence[str]) -> bool:
    """Whether every cell that is not empty starts with a digit after its sign."""
    filled = [cell.lstrip("+-±. ") for cell in cells if cell]
    return bool(filled) and all(cell[:1].isdigit() for cell in filled)
