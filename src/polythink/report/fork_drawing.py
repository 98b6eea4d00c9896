"""Drawings of one trace as forks and joins, from a row of samples.jsonl: HTML for the report, a standalone SVG.

Both are made from the same nested structure (`flow`): text cards in order, and forks whose paths and summary are such
flows themselves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

from polythink.run.folder import write_text
from polythink.trace.dialect import DIALECTS
from polythink.trace.parse import scan
from polythink.trace.rollout import TRUNCATIONS

INK, SOFT, RULE, RIGHT, WRONG, PLAIN = "#24292f", "#6b7280", "#b6bcc6", "#2e7d52", "#b8403a", "#8a93a0"


@dataclass(frozen=True)
class Card:
    """A stretch of text of one segment, tags left out. `right` is None where there is nothing to judge."""

    kind: str  # "problem", "main", "path" or "summary"
    text: str
    path: int = 0
    right: bool | None = None
    finish_reason: str = ""

    @property
    def colour(self) -> str:
        return {True: RIGHT, False: WRONG}.get(self.right, PLAIN)

    @property
    def badges(self) -> list[str]:
        """What to say beside the text: which path, right or wrong, and how it ended if not by itself."""
        said = [f"path {self.path}"] if self.kind == "path" else ["summary"] if self.kind == "summary" else []
        said += {True: ["✓ right"], False: ["✗ wrong"]}.get(self.right, [])
        said += [f"cut: {self.finish_reason}"] if self.finish_reason in TRUNCATIONS else []
        said += ["closed by force"] if self.finish_reason == "eos" and self.kind != "main" else []
        return said


@dataclass(frozen=True)
class Fork:
    """Paths side by side, and the summary that joins them; each is a list of cards and forks."""

    paths: list[list[Card | Fork]] = field(default_factory=list)
    summary: list[Card | Fork] = field(default_factory=list)


def flow(row: dict) -> list[Card | Fork]:
    """The structure of a sample, its problem on top. A row without segments is one card of its whole text."""
    segments = row.get("segments") or [{"kind": "main", "text": row.get("text", "")}]
    problem = [Card("problem", row["question"])] if row.get("question") else []
    return problem + _flow(segments, (-1, 0))


def _flow(segments: Sequence[dict], own: tuple[int, int]) -> list[Card | Fork]:
    """`segments` in text order; those of the chain `own` are its text, whatever lies between them is a fork."""
    nodes: list[Card | Fork] = []
    for is_own, group in groupby(segments, key=lambda s: _chain(s) == own):
        run = list(group)
        nodes += [_card(segment) for segment in run] if is_own else [_fork(run)]
    return [node for node in nodes if isinstance(node, Fork) or node.text or node.badges]


def _fork(segments: list[dict]) -> Fork:
    block, arms = _chain(segments[0])[0], {}
    number = 0
    for segment in segments:
        inside, path = _chain(segment)
        number = path if inside == block else number  # a nested block belongs to the path that is open
        arms.setdefault(number, []).append(segment)
    drawn = {path: _flow(arm, (block, path)) for path, arm in arms.items()}
    return Fork([nodes for path, nodes in drawn.items() if path], drawn.get(0, []))


def _chain(segment: dict) -> tuple[int, int]:
    return segment.get("block", -1), segment.get("path", 0)


def _card(segment: dict) -> Card:
    text = segment.get("text", "")
    for dialect in DIALECTS.values():  # a row does not say its own; the tags of one are no text in another
        text = "".join(t.text if t.kind == "text" else " " for t in scan(text, dialect))
    return Card(
        segment.get("kind", "main"),
        text.strip(),
        segment.get("label") or segment.get("path", 0),
        segment.get("right"),
        segment.get("finish_reason", ""),
    )


# ---- HTML ----

TRACE_CSS = f"""
.trace {{ overflow-x: auto; padding: 2px; font-size: 13px; }}
.flow {{ display: flex; flex-direction: column; align-items: center; }}
.card {{ border: 1px solid {RULE}; border-radius: 6px; background: #fff; padding: 5px 10px; max-width: 46em; }}
.card pre {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 17em; overflow-y: auto;
  font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
.card .badges {{ font-size: 11px; color: {SOFT}; margin-bottom: 2px; display: flex; gap: 8px; }}
.card .badges b {{ font-weight: 600; }}
.card.problem {{ background: #eef1f4; }}
.card.right {{ border-color: {RIGHT}; border-top-width: 3px; }} .card.right .badges b {{ color: {RIGHT}; }}
.card.wrong {{ border-color: {WRONG}; border-top-width: 3px; }} .card.wrong .badges b {{ color: {WRONG}; }}
.card .badges .cut {{ background: #fdf0d5; color: #8a5a00; border-radius: 3px; padding: 0 5px; }}
.stem {{ width: 2px; height: 14px; background: {RULE}; flex: none; }}
.fork {{ display: flex; align-self: stretch; justify-content: center; }}
.arm {{ position: relative; display: flex; flex-direction: column; align-items: center; padding: 0 7px;
  min-width: 9em; }}
.arm::before, .arm::after {{ content: ""; position: absolute; left: 0; right: 0; height: 2px; background: {RULE}; }}
.arm::before {{ top: 0; }} .arm::after {{ bottom: 0; }}
.arm:first-child::before, .arm:first-child::after {{ left: calc(50% - 1px); }}
.arm:last-child::before, .arm:last-child::after {{ right: calc(50% - 1px); }}
.arm > .rest {{ flex: 1; min-height: 14px; width: 2px; background: {RULE}; }}
"""


def trace_html(row: dict) -> str:
    """The drawing as an HTML fragment; needs `TRACE_CSS` once on the page."""
    return f'<div class="trace">{_html_flow(flow(row))}</div>'


def _html_flow(nodes: Sequence[Card | Fork]) -> str:
    stem = '<div class="stem"></div>'
    drawn = stem.join(_html_card(n) if isinstance(n, Card) else _html_fork(n) for n in nodes)
    lead = stem if nodes and isinstance(nodes[0], Fork) else ""
    return f'<div class="flow">{lead}{drawn}</div>'


def _html_fork(fork: Fork) -> str:
    stem, rest = '<div class="stem"></div>', '<div class="rest"></div>'
    arms = "".join(f'<div class="arm">{stem}{_html_flow(path)}{rest}</div>' for path in fork.paths)
    summary = stem + _html_flow(fork.summary) if fork.summary else ""
    return f'<div class="fork">{arms}</div>{summary}'


def _html_card(card: Card) -> str:
    judged = {True: " right", False: " wrong"}.get(card.right, "")
    cut = "".join(f'<span class="cut">{escape(b)}</span>' for b in card.badges if b.startswith(("cut", "closed")))
    said = "".join(f"<b>{escape(b)}</b>" for b in card.badges if not b.startswith(("cut", "closed")))
    badges = f'<div class="badges">{said}{cut}</div>' if card.badges else ""
    return f'<div class="card {card.kind}{judged}">{badges}<pre>{escape(card.text) or "&nbsp;"}</pre></div>'


# ---- SVG ----

LINE, CHARACTER, PAD, GAP, STEM = 18, 7.9, 9, 16, 16  # pixels: line height, width of a monospace character, ...


@dataclass(frozen=True)
class Box:
    """Drawn SVG with its size; `x` and `y` are added by whoever places it. Lines enter and leave at its middle."""

    width: float
    height: float
    svg: str

    def at(self, x: float, y: float) -> str:
        return f'<g transform="translate({x:g},{y:g})">{self.svg}</g>'


def trace_svg(row: dict, columns: int = 44) -> str:
    """A standalone SVG picture of a sample, text wrapped at `columns` characters."""
    box = _stack(flow(row), columns)
    width, height = box.width + 2 * PAD, box.height + 2 * PAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="A trace drawn as forks and joins">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#fff"/>\n{box.at(PAD, PAD)}\n</svg>\n'
    )


def write_trace_svg(path: str | Path, row: dict, columns: int = 44) -> None:
    """Write `trace_svg` to a file."""
    write_text(path, trace_svg(row, columns))


def _stack(nodes: Sequence[Card | Fork], columns: int) -> Box:
    """Nodes under each other, joined by stems."""
    boxes = [_card_box(n, columns) if isinstance(n, Card) else _fork_box(n, columns) for n in nodes]
    width = max((box.width for box in boxes), default=0)
    parts, y = [], 0.0
    for i, box in enumerate(boxes):
        if i:
            parts.append(_line(width / 2, y, width / 2, y + STEM))
            y += STEM
        parts.append(box.at((width - box.width) / 2, y))
        y += box.height
    return Box(width, y, "".join(parts))


def _fork_box(fork: Fork, columns: int) -> Box:
    """Paths side by side between two bars, and the summary below."""
    if not fork.paths:
        return _stack(fork.summary, columns)
    arms = [_stack(path, columns) for path in fork.paths]
    width = sum(arm.width for arm in arms) + GAP * (len(arms) - 1)
    tallest = max(arm.height for arm in arms)
    bottom = tallest + 2 * STEM
    parts, middles, x = [], [], 0.0
    for arm in arms:
        middle = x + arm.width / 2
        middles.append(middle)
        parts += [_line(middle, 0, middle, STEM), _line(middle, STEM + arm.height, middle, bottom)]
        parts.append(arm.at(x, STEM))
        x += arm.width + GAP
    bars = [_line(middles[0], y, middles[-1], y) for y in (0, bottom)]
    above = Box(width, bottom, "".join([*bars, *parts]))
    if not fork.summary:
        return above
    summary = _stack(fork.summary, columns)
    total = max(width, summary.width)
    stem = _line(total / 2, bottom, total / 2, bottom + STEM)
    placed = above.at((total - width) / 2, 0) + stem + summary.at((total - summary.width) / 2, bottom + STEM)
    return Box(total, bottom + STEM + summary.height, placed)


def _card_box(card: Card, columns: int) -> Box:
    lines = [line for part in card.text.splitlines() for line in textwrap.wrap(part, columns) or [""]] or [""]
    head = " · ".join(card.badges)
    width = max(len(head) * 7.9, *(len(line) * CHARACTER for line in lines)) + 2 * PAD
    top = 14 if head else 0
    height = top + len(lines) * LINE + PAD
    text = "".join(
        f'<text x="{PAD}" y="{top + (i + 1) * LINE}" xml:space="preserve">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    frame = f'fill="{"#eef1f4" if card.kind == "problem" else "#fff"}" stroke="{card.colour}" stroke-width="1.4"'
    label = f'<text x="{PAD}" y="15" font-size="11" fill="{card.colour}" {_SANS}>{escape(head)}</text>' if head else ""
    return Box(
        width,
        height,
        f'<rect width="{width:g}" height="{height:g}" rx="5" {frame}/>{label}<g font-size="13" fill="{INK}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace">{text}</g>',
    )


_SANS = 'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-weight="600"'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{RULE}" stroke-width="2" stroke-linecap="square"/>'
