"""A trace drawn as HTML: cards under each other, the paths of a block side by side where there is room.

A block knows its number of paths, the page knows its width: with room for all of them the paths hang between two bars,
as forks and joins. With less they wrap into rows inside a frame, in reading order. Paths of prose need wide columns:
theirs stay side by side at every width, and scroll sideways where there are more than fit.
"""

from __future__ import annotations

from html import escape

from polythink.report.fork_drawing import Card, Flow, Fork
from polythink.report.prose import PROSE_CSS, is_prose, words_html

LANE = 118  # pixels that a path needs
MOST_ABREAST = 8  # a page has no room for more paths between two bars
COLUMN = 200  # pixels that a path of prose needs
COLUMNS = 5  # of them that a wide page has room for
PHONE, PHONE_COLUMN = 600, 270  # pixels: a container up to the one has columns of the other

_CSS = """
.trace { overflow-x: auto; padding: 2px; font-size: 13px; }
.flow { display: flex; flex-direction: column; align-items: center; min-width: 0; max-width: 100%; }
.card { border: 1px solid var(--rule); border-radius: 6px; background: var(--card); padding: 5px 10px;
  max-width: min(46em, 100%); min-width: 0; }
.card .badges { font-size: 11px; color: var(--soft); margin-bottom: 2px; display: flex; flex-wrap: wrap; gap: 0 8px; }
.card .badges b { font-weight: 600; }
.card.problem { background: var(--problem); }
.card.plan { border-style: dashed; }
.again { font-size: 11px; color: var(--soft); }
.card.right { border-color: var(--right); border-top-width: 3px; } .card.right .badges b { color: var(--right); }
.card.wrong { border-color: var(--wrong); border-top-width: 3px; } .card.wrong .badges b { color: var(--wrong); }
.card .badges .warning { background: var(--warning-ground); color: var(--warning); border-radius: 3px; padding: 0 5px; }
.stem { width: 2px; height: 14px; background: var(--rule); flex: none; }
.fork { container-type: inline-size; align-self: stretch; }
.lanes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 128px), 1fr)); gap: 8px;
  border: 2px solid var(--rule); border-radius: 8px; padding: 8px; }
.lane { position: relative; display: flex; flex-direction: column; align-items: stretch; min-width: 0; }
.lane > .flow { align-items: stretch; } .lane > .flow > .stem { align-self: center; }
.lane > .stem, .lane > .rest { display: none; }
"""
_BARS = """
{lanes} {{ display: flex; justify-content: {justify}; overflow-x: {overflow}; gap: 0; border: 0; border-radius: 0;
  padding: 0; }}
{lanes} > .lane {{ align-items: {align}; padding: 0 7px; {size} }}
{lanes} > .lane > .flow {{ align-items: {align}; }}
{lanes} > .lane > .stem, {lanes} > .lane > .rest {{ align-self: center; }}
{lanes} > .lane:has(> .flow > .fork) {{ flex: {nested}; }}
{lanes} > .lane > .flow:has(> .fork) {{ align-self: stretch; }}
{lanes} > .lane::before, {lanes} > .lane::after {{ content: ""; position: absolute; left: 0; right: 0;
  height: 2px; background: var(--rule); }}
{lanes} > .lane::before {{ top: 0; }} {lanes} > .lane::after {{ bottom: 0; }}
{lanes} > .lane:first-child::before, {lanes} > .lane:first-child::after {{ left: calc(50% - 1px); }}
{lanes} > .lane:last-child::before, {lanes} > .lane:last-child::after {{ right: calc(50% - 1px); }}
{lanes} > .lane > .stem {{ display: block; }}
{lanes} > .lane > .rest {{ display: block; flex: 1; min-height: 14px; width: 2px; background: var(--rule); }}
"""
_PROSE = """
.trace.prose > .flow > .flow { align-self: stretch; }
.trace.prose > .flow > .card, .trace.prose > .flow > .flow > .card { width: min(46em, 100%); }
.fork.prose > .lanes > .lane > .flow > .card { width: 100%; align-self: center; }
.fork > .hint { display: none; position: sticky; left: 0; margin: 0 0 6px; text-align: center; font-size: 12px;
  color: var(--soft); }
.prose > .lanes { scrollbar-width: thin; padding-bottom: 4px; }
.trace.prose > .flow > .card.problem::before { content: "problem"; font-size: 11px; color: var(--soft); }
"""


def _trace_css() -> str:
    """The style sheet: blocks wrap, unless their container has room for all paths, or they are of prose."""
    narrow = {"justify": "center", "overflow": "visible", "align": "center", "nested": "1 1 45%"}
    abreast = (
        f"@container (min-width: {n * LANE}px) {{"
        + _BARS.format(lanes=f".n{n} > .lanes", size=f"min-width: {LANE}px;", **narrow)
        + "}\n"
        for n in range(1, MOST_ABREAST + 1)
    )
    phone = f".fork.prose > .lanes > .lane {{ flex-basis: min(84cqw, {PHONE_COLUMN}px); }}"
    prose = _BARS.format(
        lanes=".fork.prose > .lanes", justify="flex-start", overflow="auto", align="stretch",
        size=f"flex: 1 0 {COLUMN}px;",
        nested=f"1 0 min(100%, {2 * COLUMN + 40}px)",
    )  # fmt: skip
    prose += f"@container (max-width: {PHONE}px) {{ {phone} }}\n"
    rooms = {n: max(n * COLUMN - 1, PHONE if n > 2 else 2 * PHONE_COLUMN - 1) for n in range(2, COLUMNS + 1)}
    shown = "> .hint { display: block; }"
    hints = (f"@container (max-width: {room}px) {{ .fork.n{n} {shown} }}\n" for n, room in rooms.items())
    return "".join([PROSE_CSS, _CSS, *abreast, prose, _PROSE, *hints, f".fork.many {shown}\n"])


TRACE_CSS = _trace_css()
_STEM = '<div class="stem"></div>'


def trace_html(flow: Flow) -> str:
    """The drawing as an HTML fragment; needs `TRACE_CSS` once on the page."""
    prose = " prose" if _has_prose(flow) else ""
    return f'<div class="trace{prose}">{_flow(flow)}</div>'


def _has_prose(flow: Flow) -> bool:
    return any(is_prose(n.text) if isinstance(n, Card) else any(map(_has_prose, (*n.paths, n.summary))) for n in flow)


def _flow(nodes: Flow, abreast: int = 1) -> str:
    inner = _STEM.join(_card(n, abreast) if isinstance(n, Card) else _fork(n) for n in nodes)
    lead = _STEM if nodes and isinstance(nodes[0], Fork) else ""
    return f'<div class="flow">{lead}{inner}</div>'


def _fork(fork: Fork) -> str:
    number, prose = len(fork.paths), any(map(_has_prose, fork.paths))
    abreast = min(number, COLUMNS if prose else MOST_ABREAST)
    paths = "".join(f'<div class="lane">{_STEM}{_flow(p, abreast)}<div class="rest"></div></div>' for p in fork.paths)
    summary = _STEM + _flow(fork.summary) if fork.summary else ""
    sort = (" prose" + " many" * (number > COLUMNS)) if prose else ""
    hint = f'<p class="hint">⇆ {number} paths: scroll sideways</p>' if prose and number > 1 else ""
    focus = ' tabindex="0"' if hint else ""
    return f'<div class="fork n{number}{sort}">{hint}<div class="lanes"{focus}>{paths}</div></div>{summary}'


def _card(card: Card, abreast: int = 1) -> str:
    if card.note:
        return f'<div class="again">{escape(card.note)}</div>'
    graded = {True: " right", False: " wrong"}.get(card.right, "")
    shown = card.badges
    if card.answer and is_prose(card.text):  # where it is not seen at once
        answer = card.answer if len(card.answer) <= 40 else f"{card.answer[:39]}…"
        shown = [*shown[:-1], f"{shown[-1]}: {answer}"] if card.right is not None else [*shown, f"answer {answer}"]
    badges = "".join(f"<b>{escape(badge)}</b>" for badge in shown)
    badges += "".join(f'<span class="warning">{escape(warning)}</span>' for warning in card.warnings)
    head = f'<div class="badges">{badges}</div>' if badges else ""
    return f'<div class="card {card.kind}{graded}">{head}{words_html(card.text, card.slips, abreast)}</div>'
