"""The parts of an HTML page: one self-contained file (no network requests), its sections, its style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import quote

from polythink.report.filters import FILTER_CSS, POLICY, SCRIPT, identifier
from polythink.report.fork_html import TRACE_CSS
from polythink.report.prose import visible
from polythink.report.theme import theme_css, var
from polythink.run.table import html_table

MANY_COLUMNS = 3  # a table with more scrolls on a phone, and says so


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML document; everything it needs is inside, and a browser is told to load nothing else."""
    content = "\n".join(filter(None, body))
    script = f"<script>{SCRIPT}</script>\n" if 'class="filtered"' in content else ""
    return visible(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{theme_css()}{_CSS}{TRACE_CSS}{FILTER_CSS}</style>\n</head>\n<body>\n"
        f"{content}\n{script}</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def commands_block(commands: Sequence[str]) -> str:
    return f'<pre class="command">{escape(chr(10).join(commands))}</pre>' if commands else ""


def grid(charts: Iterable[str | None]) -> str:
    """Charts side by side; None is left out."""
    return '<div class="charts">' + "".join(f"<figure>{svg}</figure>" for svg in charts if svg) + "</div>"


def switched(name: str, views: Mapping[str, str]) -> str:
    """Several views of which one is shown, chosen by its name; needs no script. A single view stands alone."""
    if len(views) < 2:
        return "".join(views.values())
    slug = identifier(name)
    inputs = "".join(
        f'<input class="filter on-{i}" type="radio" name="{slug}" id="{slug}-{i}"{" checked" * (not i)}>'
        f'<label for="{slug}-{i}">{escape(view)}</label>'
        for i, view in enumerate(views)
    )
    shown = "".join(f'<div class="view-{i}">{content}</div>' for i, content in enumerate(views.values()))
    return f'<div class="switched">{inputs}{shown}</div>'


def legend(entries: Iterable[tuple[str, str, bool]], lines: bool = False) -> str:
    """Names after a patch of their colour, or after a piece of their line: (name, colour, dashed)."""
    spans = (
        f'<span><i class="{"dashed" if dashed else ""}" style="color:{var(colour)}"></i>{escape(name)}</span>'
        for name, colour, dashed in entries
    )
    return f'<p class="legend{" lines" if lines else ""}">{"".join(spans)}</p>'


def table(content: tuple[list[str], list[list]], caption: str = "") -> str:
    return wide(html_table(*content, caption), len(content[0]))


def wide(table_html: str, columns: int) -> str:
    """A table that scrolls within its own width; its first column stays, and on a phone a line says that it scrolls."""
    return f'<div class="wide{" many" if columns > MANY_COLUMNS else ""}" tabindex="0">{table_html}</div>'


def folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def link(target: str, shown: str) -> str:
    """A link to a file beside the page."""
    return f'<a href="{escape(quote(target))}">{escape(shown)}</a>'


def counted(n: int, noun: str) -> str:
    """`1 sample`, `4 samples`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def small(text: str) -> str:
    return f'<p class="soft small">{escape(text)}</p>'


_CSS = """
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: var(--ink);
  background: var(--ground); max-width: 1128px; margin: 0 auto; padding: 28px 24px 60px; overflow-wrap: break-word; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 8px; }
h3 { font-size: 15px; margin: 14px 0 4px; }
section { margin-top: 34px; border-top: 1px solid var(--line); padding-top: 18px; }
a { color: var(--series-1); }
p { margin: 6px 0; } .soft { color: var(--soft); } .small { font-size: 13px; }
.small b { font-weight: 600; color: var(--strong); }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
pre.command, details pre { background: var(--panel); border-radius: 6px; padding: 8px 12px; overflow-x: auto; }
pre.command { margin: 10px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 8px; } details summary { cursor: pointer; color: var(--strong); font-size: 14px; }
.pipeline { list-style: none; display: flex; flex-wrap: wrap; gap: 8px; padding: 0; margin: 20px 0 0;
  counter-reset: stage; }
.pipeline li { border: 1px solid var(--rule); border-radius: 6px; padding: 4px 10px; counter-increment: stage; }
.pipeline li b { display: block; font-size: 13.5px; } .pipeline li span { font-size: 11.5px; color: var(--soft); }
.pipeline li b::before { content: counter(stage) ". "; color: var(--soft); font-weight: 400; }
.wide { overflow-x: auto; margin: 10px 0; background:
  linear-gradient(to left, var(--ground) 40%, transparent) right / 40px 100% no-repeat local,
  linear-gradient(to left, var(--rule), transparent) right / 12px 100% no-repeat; } /* a shadow where more follows */
.wide td:not(.number) { min-width: 7em; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding-bottom: 6px; }
caption span { display: block; max-width: min(1030px, calc(100vw - 60px)); position: sticky; left: 0; }
th, td { text-align: left; padding: 5px 6px; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--ground); }
thead th { font-size: 12.5px; font-weight: 600; color: var(--strong); border-bottom: 1px solid var(--rule);
  vertical-align: bottom; }
th.number, td.number { text-align: right; }
td.number { color: var(--soft); font-size: 11.5px; white-space: pre; }
td.number::first-line { color: var(--ink); font-size: 14px; }
.note { background: var(--warning-ground); border-left: 3px solid var(--warning); padding: 6px 12px; font-size: 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px 20px;
  margin-top: 10px; }
.charts figure { margin: 0; } .charts svg { width: 100%; height: auto; display: block; }
.switched > .on-0:not(:checked) ~ .view-0, .switched > .on-1:not(:checked) ~ .view-1 { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; }
.legend i { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; background: currentColor; }
.legend.lines i { height: 0; background: none; border-top: 3px solid; border-radius: 0; width: 24px; }
.legend.lines i.dashed { border-top-style: dashed; }
.sample { border: 1px solid var(--line); border-radius: 8px; background: var(--panel); padding: 12px 14px;
  margin: 14px 0; }
.sample .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-bottom: 12px; }
.sample .head .soft { font-size: 13px; }
.sample table th { width: 1%; }
.verdict { font-size: 12.5px; font-weight: 600; border-radius: 4px; padding: 1px 8px; background: var(--problem); }
.verdict.right { background: var(--right-ground); color: var(--right); }
.verdict.wrong { background: var(--wrong-ground); color: var(--wrong); }
@media (max-width: 640px) {
  body { padding: 16px 14px 40px; } .sample { padding: 10px 8px; }
  .wide.many::before { content: "⇆ more columns: scroll sideways"; display: block; position: sticky; left: 0;
    font-size: 12px; color: var(--soft); }
}
@media print { details, .filters, .find { display: none; } section { break-inside: avoid; } }
"""
