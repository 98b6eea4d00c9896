"""The canonical text of a trace: no white space between the tags of a block except the dialect's gap."""

from __future__ import annotations

from polythink.errors import UserError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import MAX_DEPTH, scan
from polythink.trace.tree import Block, Trace


def render(trace: Trace, dialect: Dialect = PARALLEL_R1) -> str:
    """The canonical text: `parse(render(t)) == t`. `UserError` if a text part holds a tag, to be read as structure, or
    if blocks lie deeper in one another than `parse` reads them."""
    return _render(trace, dialect)


def _render(trace: Trace, d: Dialect, opened: str = "", depth: int = 0) -> str:
    """A trace inside the element that the tag `opened` opens ("" for the outermost trace), `depth` blocks deep."""
    return "".join(_block(p, d, depth + 1) if isinstance(p, Block) else _text(p, d, opened) for p in trace.parts)


def _block(block: Block, d: Dialect, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise UserError(
            f"blocks lie more than {MAX_DEPTH} levels deep in one another; no such trace is read or written"
        )
    paths = ""
    for label, path in block.numbered():
        if d.inventory and not 1 <= label <= d.inventory:
            raise UserError(f"a path has the number {label}; in dialect {d.name} numbers go from 1 to {d.inventory}")
        opened, closed = d.path_tags(label)
        paths += f"{opened}{_render(path, d, opened, depth)}{closed}"
    summary = f"{d.summary_open}{_render(block.summary, d, d.summary_open, depth)}{d.summary_close}"
    return f"{d.block_open}{paths}{d.block_close}{d.gap}{summary}"


def _text(text: str, dialect: Dialect, opened: str) -> str:
    for token in scan(opened + text, dialect):
        if token.start >= len(opened) and token.kind not in ("text", "end"):
            raise UserError(
                f"the text of a trace holds the tag {token.text}: parse it, or write the tag in another way"
            )
    return text
