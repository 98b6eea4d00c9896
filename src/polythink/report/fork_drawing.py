"""One trace as forks and joins: its structure, and a drawing of it as a standalone SVG.

`flow_of_row` and `flow_of_trace` give the structure: text cards in order, and forks whose paths and summary are such
flows themselves. `report/fork_html.py` draws the same structure for reports, `report/terminal.py` in the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from polythink.problems.tasks.table import task_of
from polythink.problems.tasks.task import Task
from polythink.report.prose import visible
from polythink.trace.dialect import DIALECTS, Dialect
from polythink.trace.rollout import STOPPED, TRUNCATIONS
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Trace

INK, RULE, RIGHT, WRONG, PLAIN = "#24292f", "#b6bcc6", "#22663f", "#95302a", "#5f6873"


@dataclass(frozen=True)
class Card:
    """The text of one segment, or of a stretch of it, without tags. `right` is None where nothing was graded.

    A plan is a stretch of the text before its block: what it says first, and a line for each outline. Of a copy, the
    paths that a join reads again, only the number of tokens is shown.
    """

    kind: str  # "problem", "main", "plan", "path", "copy" or "summary"
    text: str
    path: int = 0
    right: bool | None = None
    answer: str = ""  # that a path states itself
    finish_reason: str = ""
    of: str = ""  # what of it was graded, where that is not its answer: "operators"
    slips: tuple[tuple[int, int], ...] = ()  # where its false results stand in `text`
    tokens: int = 0  # of a copy
    bounded: bool = False  # more paths were declared than were allowed

    @property
    def colour(self) -> str:
        return {True: RIGHT, False: WRONG}.get(self.right, PLAIN)

    @property
    def badges(self) -> list[str]:
        """What it is, and whether it is right."""
        which = {"path": [f"path {self.path}"], "summary": ["summary"], "plan": ["plan"]}.get(self.kind, [])
        of = f"{self.of} " if self.of else ""
        return which + {True: [f"✓ {of}right"], False: [f"✗ {of}wrong"]}.get(self.right, [])

    @property
    def warnings(self) -> list[str]:
        """How it ended, if not by itself, and how many of its equations are false."""
        false = [f"{n} false equation{'s' if n > 1 else ''}"] if (n := len(self.slips)) else []
        false += ["more paths were declared than are allowed"] if self.bounded else []
        if self.finish_reason in STOPPED:
            return [*false, f"stopped: {STOPPED[self.finish_reason]}"]
        if self.finish_reason in TRUNCATIONS:
            return [*false, f"truncated: {self.finish_reason}"]
        return [*false, "closed by force"] if self.finish_reason == "eos" and self.kind != "main" else false

    @property
    def note(self) -> str:
        """What stands in place of a copy's text; "" for other cards."""
        if self.kind != "copy":
            return ""
        return f"{self.tokens} tokens read again" if self.tokens else "the paths are read again"


@dataclass(frozen=True)
class Fork:
    """Paths side by side, and the summary that joins them; each is a list of cards and forks."""

    paths: list[list[Card | Fork]]
    summary: list[Card | Fork]
    joined_by_text: bool = False  # the format has no summary: the text after the block reads the paths

    @property
    def joined_as(self) -> str:
        """What stands after the paths."""
        return "join" if self.joined_by_text else "summary"


Flow = Sequence[Card | Fork]


def flow_of_row(row: Mapping) -> Flow:
    """The structure of a row of samples.jsonl, its problem on top. Without segments it is one card of all its text."""
    segments = row.get("segments") or [{"kind": "main", "text": row.get("text", "")}]
    question = row.get("question") or ""
    task, flow = task_of(row), flow_of_segments(segments)
    return [Card("problem", question)] * bool(question) + (_with_slips(flow, task) if task.shows_slips else flow)


def _with_slips(nodes: Flow, task: Task) -> list[Card | Fork]:
    """The flow of a response with its false equations marked, and what of its paths is graded."""
    return [
        replace(node, paths=[_with_slips(path, task) for path in node.paths], summary=_with_slips(node.summary, task))
        if isinstance(node, Fork)
        else replace(node, slips=tuple(task.slips(node.text)), of=task.graded_part if node.right is not None else "")
        for node in nodes
    ]


def flow_of_segments(segments: Sequence[Mapping]) -> list[Card | Fork]:
    """`segments` in text order: those of the outermost text are cards, what lies between them are forks."""
    return _flow_of(segments, (-1, 0), _dialects_of(segments))


def _dialects_of(segments: Sequence[Mapping]) -> list[Dialect]:
    """All dialects, first the one of which the segments hold the most different tags: a row does not name its own."""
    text = "".join(segment.get("text", "") for segment in segments)
    found = {d.name: len({t.kind for t in scan(text, d)}) if "<" in text else 0 for d in DIALECTS.values()}
    return sorted(DIALECTS.values(), key=lambda d: -found[d.name])


def _flow_of(segments: Sequence[Mapping], own: tuple[int, int], dialects: Sequence[Dialect]) -> list[Card | Fork]:
    nodes: list[Card | Fork] = []
    for is_own, group in groupby(segments, key=lambda s: _chain(s) == own):
        run = list(group)
        nodes += [card for segment in run for card in _cards(segment, dialects)] if is_own else [_fork(run, dialects)]
    return [n for n in nodes if isinstance(n, Fork) or n.text or n.badges or n.warnings or n.note]


def _fork(segments: Sequence[Mapping], dialects: Sequence[Dialect]) -> Fork:
    block, chains = _chain(segments[0])[0], {}
    number = 0
    for segment in segments:
        inside, path = _chain(segment)
        number = path if inside == block else number  # a nested block belongs to the path that is open
        chains.setdefault(number, []).append(segment)
    flows = {path: _flow_of(own, (block, path), dialects) for path, own in chains.items()}
    return Fork([nodes for path, nodes in flows.items() if path], flows.get(0, []), not dialects[0].summary)


def _chain(segment: Mapping) -> tuple[int, int]:
    return segment.get("block", -1), segment.get("path", 0)


def _cards(segment: Mapping, dialects: Sequence[Dialect]) -> list[Card]:
    """A segment as cards: a plan in it has one of its own. What joins paths without a summary is no card."""
    kind, number = segment.get("kind", "main"), segment.get("label") or segment.get("path", 0)
    if kind == "copy":
        return [Card(kind, "", tokens=segment.get("tokens", 0))]
    found = _stretches(segment.get("text", ""), dialects)
    cards = [Card("plan", text) if is_plan else Card(kind, text, number) for is_plan, text in found]
    cards[0] = replace(cards[0], right=segment.get("right"), answer=str(segment.get("answer") or ""))
    cards[-1] = replace(cards[-1], finish_reason=segment.get("finish_reason", ""), bounded=bool(segment.get("bounded")))
    joins = kind == "summary" and not dialects[0].summary
    return [card for card in cards if not (joins and not card.text and not card.warnings)]


def _stretches(text: str, dialects: Sequence[Dialect]) -> list[tuple[bool, str]]:
    """(is it a plan, text) in turn, without tags of any dialect; the first dialect says where plans are."""
    found = [[False, ""]]
    for token in scan(text, dialects[0]):
        if token.kind in ("plan_open", "plan_close"):
            found.append([token.kind == "plan_open", ""])
        else:
            found[-1][1] += {"text": token.text, "outline_open": "\n"}.get(token.kind, " ")
    stretches = []
    for is_plan, own in found:
        for dialect in dialects[1:]:  # the tags of one dialect are not text in another
            own = "".join(t.text if t.kind == "text" else " " for t in scan(own, dialect))
        own = "\n".join(line.strip() for line in own.splitlines() if line.strip()) if is_plan else own.strip()
        stretches.append((is_plan, own))
    if len(stretches) > 1 and not stretches[-1][1]:
        stretches.pop()
    return stretches


def flow_of_trace(trace: Trace, kind: str = "main", path: int = 0) -> list[Card | Fork]:
    """The structure of a parsed trace."""
    nodes: list[Card | Fork] = []
    for part in trace.parts:
        if isinstance(part, Block):
            paths = [flow_of_trace(own, "path", n or i) for i, (n, own) in enumerate(part.numbered(), start=1)]
            if part.plan:
                said = (part.plan.goal.strip(), *map(str.strip, part.plan.outlines))
                nodes.append(Card("plan", "\n".join(filter(None, said))))
            summary = flow_of_trace(part.summary, "summary") if part.summary.parts else []
            nodes.append(Fork(paths, summary, joined_by_text=not summary))
        elif part.strip():
            nodes.append(Card(kind, part.strip(), path))
    unnamed = kind != "main" and not (nodes and isinstance(nodes[0], Card))
    return [Card(kind, "", path), *nodes] if unnamed else nodes  # every path and summary begins with its name


# ---- SVG ----

LINE, CHARACTER, PAD, GAP, STEM = 18, 7.9, 9, 16, 16  # pixels: line height, width of a monospace character, ...
_MONO = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"'
_SANS = 'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-weight="600"'


@dataclass(frozen=True)
class Box:
    """A piece of SVG with its size in pixels. Lines enter and leave at the middle of its width."""

    width: float
    height: float
    svg: str

    def at(self, x: float, y: float) -> str:
        return f'<g transform="translate({x:g},{y:g})">{self.svg}</g>'


def trace_svg(flow: Flow, columns: int = 44) -> str:
    """The drawing as a standalone SVG file, text wrapped at `columns` characters."""
    box = _flow_box(flow, columns)
    width, height = box.width + 2 * PAD, box.height + 2 * PAD
    return visible(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="A trace drawn as forks and joins">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#fff"/>\n{box.at(PAD, PAD)}\n</svg>\n'
    )


def _flow_box(flow: Flow, columns: int) -> Box:
    """Cards and forks under each other, joined by stems; the summary of a fork stands under its paths."""
    boxes = []
    for node in flow:
        boxes += [_card_box(node, columns)] if isinstance(node, Card) else _fork_boxes(node, columns)
    boxes = [box for box in boxes if box.width]
    width = max((box.width for box in boxes), default=0)
    parts, y = [], 0.0
    for i, box in enumerate(boxes):
        if i:
            parts.append(_line(width / 2, y, width / 2, y + STEM))
            y += STEM
        parts.append(box.at((width - box.width) / 2, y))
        y += box.height
    return Box(width, y, "".join(parts))


def _fork_boxes(fork: Fork, columns: int) -> list[Box]:
    """Paths side by side between two bars, and the summary."""
    paths = [_flow_box(path, columns) for path in fork.paths]
    bottom = max((path.height for path in paths), default=0) + 2 * STEM
    parts, middles, x = [], [], 0.0
    for path in paths:
        middles.append(x + path.width / 2)
        parts += [_line(middles[-1], 0, middles[-1], STEM), _line(middles[-1], STEM + path.height, middles[-1], bottom)]
        parts.append(path.at(x, STEM))
        x += path.width + GAP
    parts += [_line(middles[0], y, middles[-1], y) for y in (0, bottom) if middles]
    return [Box(max(0, x - GAP), bottom, "".join(parts)), _flow_box(fork.summary, columns)]


def _card_box(card: Card, columns: int) -> Box:
    lines = [line for part in card.text.splitlines() for line in textwrap.wrap(part, columns) or [""]] or [""]
    head = card.note or " · ".join(card.badges + card.warnings)
    if card.note:
        note = f'<text x="0" y="12" font-size="11" fill="{PLAIN}" {_SANS}>{escape(head)}</text>'
        return Box(len(head) * 6.2, 16, note)
    width = max(len(head), *map(len, lines)) * CHARACTER + 2 * PAD
    top = 14 if head else 0
    height = top + len(lines) * LINE + PAD
    text = "".join(
        f'<text x="{PAD}" y="{top + i * LINE}" xml:space="preserve">{escape(line)}</text>'
        for i, line in enumerate(lines, start=1)
    )
    label = f'<text x="{PAD}" y="15" font-size="11" fill="{card.colour}" {_SANS}>{escape(head)}</text>' if head else ""
    frame = f'fill="{"#eef1f4" if card.kind == "problem" else "#fff"}" stroke="{card.colour}" stroke-width="1.4"'
    svg = f'<rect width="{width:g}" height="{height:g}" rx="5" {frame}/>{label}<g font-size="13" fill="{INK}" {_MONO}>'
    return Box(width, height, f"{svg}{text}</g>")


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{RULE}" stroke-width="2" stroke-linecap="square"/>'
