"""What `compare` and `tunnel` found, as tables and as curves with shaded intervals, from their JSON files alone.

Both name their accuracies WAY@X in `metrics`: X is a number of paths, a budget or the length of a prefix. A `Family` is
one chart of such metrics. `pipeline/curves.py` draws the same families over the seeds of an experiment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from polythink.evaluate.methods import METHODS
from polythink.evaluate.metrics import describe, show
from polythink.report.page import grid, legend, small, table
from polythink.report.plots import COLOURS, Line, Panel, chart
from polythink.report.runs import is_number

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = COLOURS
Estimates = Mapping[str, Mapping[str, float]]  # metric -> value, low, high


@dataclass(frozen=True)
class Style:
    """How a way to answer is named, explained and drawn."""

    head: str
    what: str
    colour: str
    dashed: bool = False


LINES = {  # colour of each method, and whether its line is dashed
    "parallel": (BLUE, False), "reread": (ORANGE, False), "majority_paths": (GREEN, False),
    "marked_path": (GREEN, True), "oracle": (GREY, True), "sequential": (RED, False), "sequential_longer": (RED, True),
    "sequential_tokens": (PURPLE, False), "majority_sequential": (PURPLE, True),
}  # fmt: skip
STYLES = {name: Style(m.heading, m.meaning, *LINES.get(name, (GREY, False))) for name, m in METHODS.items()}
PREFIXES = {
    "fresh": Style("fresh", "the same problems from the beginning", GREY, True),
    "any": Style("random prefix", "the control: of right and wrong traces of the same problems", BLUE),
    "wrong": Style("wrong prefix", "of wrong traces", RED),
}


def budget_style(way: str, number: int) -> Style:
    """The style of a way to spend a budget; `number` is the index of its number of paths, and picks the colour."""
    if way == "sequential":
        return Style("sequential", "one response of that many tokens, and room for its answer", GREY)
    paths, colour = int(way.removeprefix("majority").removeprefix("paths")), COLOURS[number % len(COLOURS)]
    if way.startswith("majority"):
        return Style(f"majority of {paths}", "the most frequent of the same paths' own answers", colour, True)
    if paths == 1:
        return Style("one path", "and a summary", colour)
    return Style(f"{paths} paths", "that share the budget, and a summary", colour)


# ---- families: one chart each ----


@dataclass(frozen=True)
class Family:
    """Metrics WAY@X that make one chart, a curve per way: over X, or over the metric WAY.OVER@X (a cost)."""

    title: str
    along: str
    styles: Mapping[str, Style]  # by way
    over: str = ""


def chart_families(metrics: Iterable[str]) -> list[Family]:
    """The charts of an evaluation with these metrics: of a comparison, or of a study of tunnel vision."""
    ways = dict.fromkeys(metric.partition("@")[0] for metric in metrics)
    if "parallel" in ways:
        styles = {way: style for way, style in STYLES.items() if way in ways}
        return [Family("Accuracy by number of paths", "P", styles)]
    numbers = sorted({int(found[1]) for way in ways if (found := re.fullmatch(r"paths(\d+)", way))})
    spent = {
        f"{kind}{n}": budget_style(f"{kind}{n}", i) for i, n in enumerate(numbers) for kind in ("paths", "majority")
    }
    spent["sequential"] = budget_style("sequential", 0)
    families = []
    if numbers:
        budgets = {way: style for way, style in spent.items() if way in ways}
        families.append(Family("Accuracy by budget", "tokens of all paths together", budgets))
    if "wrong_prefix" in ways:
        prefixes = {way: PREFIXES[way.removesuffix("_prefix")] for way in ("fresh", "any_prefix", "wrong_prefix")}
        families.append(Family("Recovery", "prefix: tokens, below 1 a share of the median", prefixes))
    return families


def family_lines(family: Family, found: Estimates) -> dict[str, Line]:
    """The curve of every way that has points."""
    lines: dict[str, Line] = {}
    for way, style in family.styles.items():
        points = []
        for metric, estimate in found.items():
            name, at, x = metric.partition("@")
            cost = found.get(f"{way}.{family.over}@{x}", {}).get("value")
            if name == way and at and is_number(estimate["value"]) and (not family.over or is_number(cost)):
                points.append((cost if family.over else float(x), estimate))
        if points:
            points.sort(key=lambda point: point[0])
            lines[way] = estimate_line(style, [x for x, _ in points], [estimate for _, estimate in points])
    longest = max(lines.values(), key=lambda line: len(line.steps), default=None)
    if (alone := lines.get("sequential")) and len(alone.steps) == 1 and not family.over:  # the same for every P
        n = len(longest.steps)
        lines["sequential"] = replace(
            alone, steps=longest.steps, values=[*alone.values] * n, low=[*alone.low] * n, high=[*alone.high] * n
        )
    return lines


def family_chart(family: Family, found: Estimates, title: str = "") -> str | None:
    return share_chart(title or family.title, family.along, list(family_lines(family, found).values()))


def share_chart(title: str, along: str, lines: Sequence[Line]) -> str | None:
    """Shares over some axis, which is logarithmic if it spans more than two doublings; None without lines."""
    if not lines:
        return None
    x = [x for line in lines for x in line.steps]
    return chart(lines, Panel(title, (), percent=True, exact=True, along=along, doubling=max(x) > 4 * min(x)))


def estimate_line(style: Style, along: Sequence[float], estimates: Sequence[Mapping[str, float]]) -> Line:
    values, low, high = (
        [math.nan if estimate[key] is None else estimate[key] for estimate in estimates]
        for key in ("value", "low", "high")
    )
    return Line(style.head, style.colour, along, values, low=low, high=high, dashed=style.dashed)


def style_legend(styles: Iterable[Style]) -> str:
    return legend(((style.head, style.colour, style.dashed) for style in styles), lines=True)


# ---- compare ----


def comparison_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a method per row, by number of paths."""
    order = list(METHODS)
    rows = sorted(result["methods"], key=lambda row: (row["paths"], order.index(row["method"])))
    columns = {
        "P": lambda row: row["paths"],
        "method": lambda row: METHODS[row["method"]].heading,
        "responses": lambda row: row["responses"],
        "accuracy": lambda row: show("accuracy", row["accuracy"]),
        "parallel minus this": lambda row: show("accuracy", row.get("difference") or {}, sign="+"),
        "tokens": lambda row: amount(row["tokens"]["value"]),
        "critical path": lambda row: amount(row["critical_path"]["value"]),
        "forwarded": lambda row: amount(row["forwarded"]),
        "ms": lambda row: amount(row["seconds"] and 1000 * row["seconds"]),
        **{
            describe(key).label: lambda row, key=key: show(key, row.get(key) or {})
            for key in ("right_path", "summary_right")
        },
    }
    return _tabulate(columns, rows)


def comparison_section(result: Mapping) -> str:
    """One problem set's comparison as HTML: conditions, curves, table, legend."""
    (family,) = chart_families(result["metrics"])
    charts = [
        family,
        replace(family, title="Accuracy by tokens", along="tokens per answer", over="tokens"),
        replace(family, title="Accuracy by critical path", along="sequential steps per answer", over="critical_path"),
    ]
    conditions = (
        f"{result['n']} problems, {result['samples']} parallel responses each. Bands and brackets: 95% intervals by "
        "bootstrap over problems, differences on the same problems. Responses, tokens and critical path are per "
        "answer; forwarded are the tokens run through the model for it, the prompt and what is read again included. "
        "Milliseconds come from one pass over many answers at once, and are not a benchmark. Methods without them "
        "choose among the paths of the parallel responses. "
    )
    meaning = "; ".join(f"{style.head}: {style.what}" for style in family.styles.values())
    return (
        f"<h3>{escape(result['problems'])}</h3>{notes(result)}{style_legend(family.styles.values())}"
        f"{grid(family_chart(one, result['metrics']) for one in charts)}"
        f"{table(comparison_table(result))}{small(f'{conditions}{meaning}.')}"
    )


# ---- tunnel ----


def budget_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a budget and a way to spend it per row."""
    columns = {
        "budget": lambda point: point["budget"],
        "spent on": lambda point: budget_style(point["way"], 0).head,
        "accuracy": lambda point: show("accuracy", point["accuracy"]),
        "tokens": lambda point: amount(point["tokens"]["value"]),
        "critical path": lambda point: amount(point["critical_path"]["value"]),
    }
    return _tabulate(columns, result["budget"] or ())


def recovery_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a length of prefix per row."""
    columns = {
        "prefix": lambda point: point["prefix"],
        "problems": lambda point: point["problems"],
        "continuations": lambda point: point["continuations"],
        **{s.head: lambda point, kind=kind: show("accuracy", point[kind]) for kind, s in PREFIXES.items()},
        "random minus wrong": lambda point: show("accuracy", point["difference"], sign="+"),
        "right traces among random": lambda point: f"{100 * point['control_right']:.1f}%",
    }
    return _tabulate(columns, (result["recovery"] or {}).get("points", ()))


def tunnel_section(result: Mapping) -> str:
    """One problem set's tunnel vision as HTML: both parts, each with its curves and its table."""
    budget, recovery = result["budget"] or (), result["recovery"]
    costs = {f"{point['way']}.tokens@{point['budget']}": point["tokens"] for point in budget}
    families = {family.title: family for family in chart_families(result["metrics"])}
    parts = [f"<h3>{escape(result['problems'])}</h3>", notes(result)]
    if budget:
        family = families["Accuracy by budget"]
        charts = [family, replace(family, title="Accuracy by tokens", along="tokens used", over="tokens")]
        text = f"{result['n']} problems, {result['samples']} responses each. All paths together share the budget."
        parts += [style_legend(family.styles.values())]
        parts += [grid(family_chart(one, {**result["metrics"], **costs}) for one in charts)]
        parts += [table(budget_table(result)), small(text)]
    if recovery:
        family = families["Recovery"]
        text = (
            f"{recovery['traces']} traces of one path, {recovery['wrong']} of them wrong, median length "
            f"{recovery['median']:g} tokens; a trace is graded by its path's own answer. "
            + "; ".join(f"{style.head}: {style.what}" for style in PREFIXES.values())
            + ". All three on the same problems; only traces longer than the prefix are taken. "
            "Brackets: 95% intervals by bootstrap over these problems."
        )
        parts += [style_legend(PREFIXES.values()), grid([family_chart(family, result["metrics"])])]
        parts += [table(recovery_table(result)), small(text)]
    return "".join(parts)


# ---- common parts ----


def _tabulate(
    columns: Mapping[str, Callable[[Mapping], object]], rows: Iterable[Mapping]
) -> tuple[list[str], list[list]]:
    return list(columns), [[cell(row) for cell in columns.values()] for row in rows]


def notes(result: Mapping) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in result.get("notes", ()))


def amount(value: float | None) -> str:
    return f"{value:.1f}" if is_number(value) else ""
