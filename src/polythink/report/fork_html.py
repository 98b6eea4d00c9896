"""A trace drawn as HTML: cards under each other, the paths of a block side by side where there is room.

A block knows its number of paths, the page knows its width: with room for all of them the paths hang between two bars,
as forks and joins. With less they wrap into rows inside a frame, in reading order. No path is ever cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from polythink.report.fork_drawing import Card, Flow, Fork

LANE = 118  # pixels that a path needs
MOST_ABREAST = 8  # a page has no room for more paths between two bars

_BOXED = re.compile(r"\\boxed\s*\{")

_CSS = """
.trace { overflow-x: auto; padding: 2px; font-size: 13px; }
.flow { display: flex; flex-direction: column; align-items: center; min-width: 0; max-width: 100%; }
.card { border: 1px solid var(--rule); border-radius: 6px; background: var(--card); padding: 5px 10px;
  max-width: min(46em, 100%); min-width: 0; }
.card pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 17em; overflow-y: auto;
  font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.card .badges { font-size: 11px; color: var(--soft); margin-bottom: 2px; display: flex; flex-wrap: wrap; gap: 0 8px; }
.card .badges b { font-weight: 600; }
.card.problem { background: var(--problem); }
.card.plan { border-style: dashed; }
.again { font-size: 11px; color: var(--soft); }
.card.right { border-color: var(--right); border-top-width: 3px; } .card.right .badges b { color: var(--right); }
.card.wrong { border-color: var(--wrong); border-top-width: 3px; } .card.wrong .badges b { color: var(--wrong); }
.card .badges .warning { background: var(--warning-ground); color: var(--warning); border-radius: 3px; padding: 0 5px; }
.card s { background: var(--warning-ground); color: var(--warning); text-decoration-thickness: 2px; }
.card .boxed { border: 1px solid var(--ink); border-radius: 2px; padding: 0 4px; font-weight: 600; }
.stem { width: 2px; height: 14px; background: var(--rule); flex: none; }
.fork { container-type: inline-size; align-self: stretch; }
.lanes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 128px), 1fr)); gap: 8px;
  border: 2px solid var(--rule); border-radius: 8px; padding: 8px; }
.lane { position: relative; display: flex; flex-direction: column; align-items: stretch; min-width: 0; }
.lane > .flow { align-items: stretch; } .lane > .flow > .stem { align-self: center; }
.lane > .stem, .lane > .rest { display: none; }
"""
_ABREAST = """
@container (min-width: {width}px) {{
  .n{n} > .lanes {{ display: flex; justify-content: center; gap: 0; border: 0; border-radius: 0; padding: 0; }}
  .n{n} > .lanes > .lane {{ align-items: center; padding: 0 7px; min-width: {lane}px; }}
  .n{n} > .lanes > .lane > .flow {{ align-items: center; }}
  .n{n} > .lanes > .lane:has(> .flow > .fork) {{ flex: 1 1 45%; }}
  .n{n} > .lanes > .lane > .flow:has(> .fork) {{ align-self: stretch; }}
  .n{n} > .lanes > .lane::before, .n{n} > .lanes > .lane::after {{ content: ""; position: absolute; left: 0; right: 0;
    height: 2px; background: var(--rule); }}
  .n{n} > .lanes > .lane::before {{ top: 0; }} .n{n} > .lanes > .lane::after {{ bottom: 0; }}
  .n{n} > .lanes > .lane:first-child::before, .n{n} > .lanes > .lane:first-child::after {{ left: calc(50% - 1px); }}
  .n{n} > .lanes > .lane:last-child::before, .n{n} > .lanes > .lane:last-child::after {{ right: calc(50% - 1px); }}
  .n{n} > .lanes > .lane > .stem {{ display: block; }}
  .n{n} > .lanes > .lane > .rest {{ display: block; flex: 1; min-height: 14px; width: 2px; background: var(--rule); }}
}}
"""
TRACE_CSS = _CSS + "".join(_ABREAST.format(n=n, lane=LANE, width=n * LANE) for n in range(1, MOST_ABREAST + 1))
_STEM = '<div class="stem"></div>'


def trace_html(flow: Flow) -> str:
    """The drawing as an HTML fragment; needs `TRACE_CSS` once on the page."""
    return f'<div class="trace">{_flow(flow)}</div>'


def _flow(nodes: Flow) -> str:
    inner = _STEM.join(_card(n) if isinstance(n, Card) else _fork(n) for n in nodes)
    lead = _STEM if nodes and isinstance(nodes[0], Fork) else ""
    return f'<div class="flow">{lead}{inner}</div>'


def _fork(fork: Fork) -> str:
    paths = "".join(f'<div class="lane">{_STEM}{_flow(p)}<div class="rest"></div></div>' for p in fork.paths)
    summary = _STEM + _flow(fork.summary) if fork.summary else ""
    return f'<div class="fork n{len(fork.paths)}"><div class="lanes">{paths}</div></div>{summary}'


def _card(card: Card) -> str:
    if card.note:
        return f'<div class="again">{escape(card.note)}</div>'
    graded = {True: " right", False: " wrong"}.get(card.right, "")
    badges = "".join(f"<b>{escape(badge)}</b>" for badge in card.badges)
    badges += "".join(f'<span class="warning">{escape(warning)}</span>' for warning in card.warnings)
    head = f'<div class="badges">{badges}</div>' if badges else ""
    return (
        f'<div class="card {card.kind}{graded}">{head}<pre>{text_html(card.text, card.slips) or "&nbsp;"}</pre></div>'
    )


def text_html(text: str, slips: Sequence[tuple[int, int]] = ()) -> str:
    r"""The text with false results struck through, and what stands in `\boxed{}` in a box."""
    marks = [(start, end, start, end, "<s>", "</s>") for start, end in slips]
    boxes = [(*box, '<span class="boxed">', "</span>") for box in _boxes(text)]
    done, pieces = 0, []
    for start, end, inner, inner_end, opening, closing in sorted([*boxes, *marks]):
        if start >= done:  # not inside the one before
            pieces += [escape(text[done:start]), opening, escape(text[inner:inner_end].strip()), closing]
            done = end
    return "".join(pieces) + escape(text[done:])


def _boxes(text: str) -> Iterator[tuple[int, int, int, int]]:
    r"""Start and end of every closed `\boxed{...}`, and of what is in its braces."""
    for found in _BOXED.finditer(text):
        depth = 1
        for i in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0) if text[i - 1] != "\\" else 0
            if not depth:
                yield found.start(), i + 1, found.end(), i
                break
