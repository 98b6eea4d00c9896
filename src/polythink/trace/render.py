"""The canonical text of a trace: no white space between the tags of a block except the gaps that its dialect says."""

from __future__ import annotations

from polythink.errors import UserError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import MAX_DEPTH
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Plan, Trace


def render(trace: Trace, dialect: Dialect = PARALLEL_R1) -> str:
    """The canonical text: `parse(render(t)) == t`. `UserError` if a text part holds a tag, to be read as structure, if
    a block has too few paths or not the plan that the dialect wants, or if blocks lie deeper than `parse` reads."""
    return _render(trace, dialect)


def _render(trace: Trace, d: Dialect, opened: str = "", depth: int = 0) -> str:
    """A trace inside the element that the tag `opened` opens ("" for the outermost trace), `depth` blocks deep."""
    return "".join(_block(p, d, depth + 1) if isinstance(p, Block) else _text(p, d, opened) for p in trace.parts)


def _block(block: Block, d: Dialect, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise UserError(
            f"blocks lie more than {MAX_DEPTH} levels deep in one another; no such trace is read or written"
        )
    _check(block, d)
    text = d.opening.text if d.opening else ""
    if d.plan:
        text += _plan(block.plan, d)
    gap = d.paths.gap
    for label, path in block.numbered():
        if d.inventory and not 1 <= label <= d.inventory:
            raise UserError(f"a path has the number {label}; in dialect {d.name} numbers go from 1 to {d.inventory}")
        opened, closed = d.path_tags(label)
        text += f"{gap}{opened}{_render(path, d, opened, depth)}{closed}"
    for tag in d.joining:
        text += tag.gap + tag.text
    if d.summary:
        inside = _render(block.summary, d, d.summary.open, depth)
        text += f"{d.summary.gap}{d.summary.open}{inside}{d.summary.close}"
    for tag in d.closing:
        text += tag.gap + tag.text
    return text


def _plan(plan: Plan, d: Dialect) -> str:
    tags = d.plan
    opened, closed = tags.item
    outlines = "".join(f"{tags.gap}{opened}{_text(outline, d)}{closed}" for outline in plan.outlines)
    return f"{d.plan_gap}{tags.open}{_text(plan.goal, d)}{outlines}{tags.gap}{tags.close}"


def _check(block: Block, d: Dialect) -> None:
    """`UserError` for a block that the dialect has no place for: it would be read back as another one, or not at all.

    (That there are `least` paths is left to the parser: a block of one path is written, to be counted as malformed.)
    """
    if (block.plan is None) != (d.plan is None):
        have, want = ("no plan", "with one") if d.plan else ("a plan", "without one")
        raise UserError(f"a block has {have}; in dialect {d.name} blocks are written {want} (convert the trace first)")
    if d.declares_paths and len(block.plan.outlines) != len(block.paths):
        raise UserError(
            f"a block has {len(block.plan.outlines)} outlines and {len(block.paths)} paths; in dialect {d.name} each "
            "path has one"
        )
    if block.plan and block.plan.outlines and not d.plan.item[0]:
        raise UserError(f"a block has outlines; in dialect {d.name} a plan is one text")
    if block.summary.parts and not d.summary:
        raise UserError(f"a block has a summary; in dialect {d.name} blocks end without one (convert the trace first)")


def _text(text: str, dialect: Dialect, opened: str = "") -> str:
    if dialect.spelled.pattern.search(text):
        for token in scan(opened + text, dialect):
            if token.start >= len(opened) and token.kind not in ("text", "end"):
                raise UserError(
                    f"the text of a trace holds the tag {token.text}: parse it, or write the tag in another way"
                )
    return text
