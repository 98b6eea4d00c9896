"""The parts of an HTML page: one self-contained file (no network requests), its sections, its style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from polythink.report.fork_drawing import TRACE_CSS
from polythink.run.table import html_table


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML document; everything it needs is inside."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_CSS}{TRACE_CSS}</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def commands_block(commands: Sequence[str]) -> str:
    return f'<pre class="command">{escape(chr(10).join(commands))}</pre>' if commands else ""


def grid(charts: Iterable[str | None]) -> str:
    """Charts side by side; None is left out."""
    return '<div class="charts">' + "".join(f"<figure>{svg}</figure>" for svg in charts if svg) + "</div>"


def legend(entries: Iterable[tuple[str, str, bool]], lines: bool = False) -> str:
    """Names after a patch of their colour, or after a piece of their line: (name, colour, dashed)."""
    spans = (
        f'<span><i class="{"dashed" if dashed else ""}" style="color:{colour}"></i>{escape(name)}</span>'
        for name, colour, dashed in entries
    )
    return f'<p class="legend{" lines" if lines else ""}">{"".join(spans)}</p>'


def table(content: tuple[list[str], list[list]], caption: str = "") -> str:
    return f'<div class="wide">{html_table(*content, caption)}</div>'


def small(text: str) -> str:
    return f'<p class="soft small">{escape(text)}</p>'


_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #24292f;
  background: #fff; max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 8px; }
section { margin-top: 34px; border-top: 1px solid #e5e7eb; padding-top: 18px; }
p { margin: 6px 0; } .soft { color: #6b7280; } .small { font-size: 13px; }
.small b { font-weight: 600; color: #4b5563; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
pre.command { background: #f6f7f9; border-radius: 6px; padding: 8px 12px; margin: 10px 0 0; overflow-x: auto; }
details { margin-top: 8px; } details summary { cursor: pointer; color: #4b5563; font-size: 14px; }
details pre { background: #f6f7f9; border-radius: 6px; padding: 10px 12px; overflow-x: auto; }
.pipeline { list-style: none; display: flex; flex-wrap: wrap; gap: 8px 24px; padding: 0; margin: 20px 0 0; }
.pipeline li { position: relative; border: 1px solid #d9dde3; border-radius: 6px; padding: 4px 10px; }
.pipeline li b { display: block; font-size: 13.5px; } .pipeline li span { font-size: 11.5px; color: #6b7280; }
.pipeline li:not(:last-child)::after { content: "→"; position: absolute; right: -20px; top: 11px; color: #9aa1ab; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: #6b7280; font-size: 13px; padding-bottom: 6px; }
caption span { display: block; max-width: 1030px; }
th, td { text-align: left; padding: 5px 9px; vertical-align: top; border-bottom: 1px solid #edeff2; }
thead th { font-size: 12.5px; font-weight: 600; color: #4b5563; border-bottom: 1px solid #c9ced6;
  vertical-align: bottom; }
th.number, td.number { text-align: right; }
td.number { color: #8a93a0; font-size: 11.5px; } td.number::first-line { color: #24292f; font-size: 14px; }
.note { background: #fdf6e3; border-left: 3px solid #d8a73a; padding: 6px 12px; font-size: 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px 20px;
  margin-top: 10px; }
.charts figure { margin: 0; } .charts svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; }
.legend i { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; background: currentColor; }
.legend.lines i { height: 0; background: none; border-top: 3px solid; border-radius: 0; width: 24px; }
.legend.lines i.dashed { border-top-style: dashed; }
.wide td.number { white-space: pre; } h3 { font-size: 15px; margin: 14px 0 4px; }
.sample { border: 1px solid #e5e7eb; border-radius: 8px; background: #fafbfc; padding: 12px 14px; margin: 14px 0; }
.sample .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-bottom: 12px; }
.sample .head .soft { font-size: 13px; }
.verdict { font-size: 12.5px; font-weight: 600; border-radius: 4px; padding: 1px 8px; background: #eceef1; }
.verdict.right { background: #e2f2e8; color: #22663f; } .verdict.wrong { background: #f9e5e3; color: #95302a; }
@media print { details { display: none; } section { break-inside: avoid; } }
"""
