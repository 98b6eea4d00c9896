"""What `compare` and `tunnel` found, as tables and as curves with shaded intervals, from their JSON files alone.

Both name their accuracies WAY@X in `metrics`: X is a number of paths, a budget or the length of a prefix. A `Family` is
one chart of such metrics. `pipeline/curves.py` draws the same families over the seeds of an experiment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from polythink.evaluate.methods import METHODS
from polythink.evaluate.metrics import METRICS, describe, show
from polythink.report.page import counted, grid, legend, small, table
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

OTHER_WAYS = {  # to spend a budget without several paths
    "sequential": Style("sequential", "one response of that many tokens, and room for its answer", GREY),
}


def budget_style(way: str, number: int) -> Style:
    """The style of a way to spend a budget; `number` is the index of its number of paths, and picks the colour."""
    if way in OTHER_WAYS:
        return OTHER_WAYS[way]
    kind, paths = re.fullmatch(r"(paths|majority)(\d+)", way).groups()
    colour = COLOURS[number % len(COLOURS)]
    if kind == "majority":
        return Style(f"majority of {paths}", "the most frequent of the same paths' own answers", colour, True)
    if paths == "1":
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
        return [Family("Accuracy by number of paths", "P", {way: STYLES[way] for way in STYLES if way in ways})]
    families = []
    if numbers := sorted({int(found[1]) for way in ways if (found := re.fullmatch(r"paths(\d+)", way))}):
        spent = [(f"{kind}{n}", i) for i, n in enumerate(numbers) for kind in ("paths", "majority")]
        styles = {way: budget_style(way, i) for way, i in [*spent, ("sequential", 0)] if way in ways}
        families.append(Family("Accuracy by budget", "tokens of all paths together", styles))
    if "wrong_prefix" in ways:
        styles = {kind if kind == "fresh" else f"{kind}_prefix": style for kind, style in PREFIXES.items()}
        families.append(Family("Recovery", "prefix: tokens, below 1 a share of the median", styles))
    return families


def family_lines(family: Family, found: Estimates) -> dict[str, Line]:
    """The curve of every way that has points."""
    points: dict[str, list[tuple[float, Mapping[str, float]]]] = {}
    for metric, estimate in found.items():
        way, at, number = metric.partition("@")
        if way in family.styles and at and is_number(estimate["value"]):
            x = found.get(f"{way}.{family.over}@{number}", {}).get("value") if family.over else float(number)
            points.setdefault(way, []).extend([(x, estimate)] if is_number(x) else ())
    alone = points.get("sequential", ())
    if len(alone) == 1 and not family.over:  # the same for every P
        points["sequential"] = [(x, alone[0][1]) for x, _ in max(points.values(), key=len)]
    return {way: _line(style, points[way]) for way, style in family.styles.items() if points.get(way)}


def _line(style: Style, points: Iterable[tuple[float, Mapping[str, float]]]) -> Line:
    x, estimates = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    values, low, high = (
        [math.nan if estimate[key] is None else estimate[key] for estimate in estimates]
        for key in ("value", "low", "high")
    )
    return Line(style.head, style.colour, list(x), values, low=low, high=high, dashed=style.dashed)


def family_chart(family: Family, found: Estimates, title: str = "") -> str | None:
    return share_chart(title or family.title, family.along, list(family_lines(family, found).values()))


def share_chart(title: str, along: str, lines: Sequence[Line]) -> str | None:
    """Shares over some axis, which is logarithmic if it spans more than two doublings; None without lines."""
    if not lines:
        return None
    x = [x for line in lines for x in line.steps]
    return chart(lines, Panel(title, (), percent=True, exact=True, along=along, doubling=max(x) > 4 * min(x)))


def style_legend(styles: Iterable[Style]) -> str:
    return legend(((style.head, style.colour, style.dashed) for style in styles), lines=True)


def charts_section(styles: Iterable[Style], families: Iterable[Family], found: Estimates) -> str:
    """A legend and the charts below it."""
    return style_legend(styles) + grid(family_chart(family, found) for family in families)


# ---- compare ----


def comparison_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a method per row, by number of paths."""
    order = list(METHODS)
    head = ["P", "method", "responses", "accuracy", "parallel minus this", "tokens", "critical path", "forwarded", "ms"]
    given = ("right_path", "summary_right")
    rows = [
        [
            row["paths"], METHODS[row["method"]].heading, row["responses"], show("accuracy", row["accuracy"]),
            show("accuracy", row.get("difference") or {}, sign="+"), amount(row["tokens"]["value"]),
            amount(row["critical_path"]["value"]), amount(row["forwarded"]),
            amount(row["seconds"] and 1000 * row["seconds"]), *(show(key, row.get(key) or {}) for key in given),
        ]
        for row in sorted(result["methods"], key=lambda row: (row["paths"], order.index(row["method"])))
    ]  # fmt: skip
    return [*head, *(METRICS[key].label for key in given)], rows


def comparison_section(result: Mapping) -> str:
    """One problem set's comparison as HTML: conditions, curves, table, legend."""
    (family,) = chart_families(result["metrics"])
    charts = [
        family,
        replace(family, title="Accuracy by tokens", along="tokens per answer", over="tokens"),
        replace(family, title="Accuracy by critical path", along="sequential steps per answer", over="critical_path"),
    ]
    sizes = f"{counted(result['n'], 'problem')}, {counted(result['samples'], 'parallel response')} each"
    conditions = (
        f"{sizes}. Bands and brackets: 95% intervals by "
        "bootstrap over problems, differences on the same problems. Responses, tokens and critical path are per "
        "answer; forwarded are the tokens run through the model for it, the prompt and what is read again included. "
        "Milliseconds come from one pass over many answers at once, and are not a benchmark. Methods without them "
        "choose among the paths of the parallel responses. "
    )
    return (
        f"<h3>{escape(result['problems'])}</h3>{notes(result)}{_comparison_headline(result)}"
        f"{charts_section(family.styles.values(), charts, result['metrics'])}"
        f"{table(comparison_table(result))}{small(f'{conditions}{explain(family.styles)}.')}"
    )


# ---- tunnel ----


def budget_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a budget and a way to spend it per row."""
    rows = [
        [point["budget"], budget_style(point["way"], 0).head, show("accuracy", point["accuracy"]),
         *(amount(point[key]["value"]) for key in ("tokens", "critical_path"))]
        for point in result["budget"] or ()
    ]  # fmt: skip
    return ["budget", "spent on", "accuracy", "tokens", "critical path"], rows


def recovery_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a length of prefix per row."""
    facts = ("prefix", "problems", "continuations")
    rows = [
        [*(point[key] for key in facts), *(show("accuracy", point[kind]) for kind in PREFIXES),
         show("accuracy", point["difference"], sign="+"), f"{100 * point['control_right']:.1f}%"]
        for point in (result["recovery"] or {}).get("points", ())
    ]  # fmt: skip
    styles = (style.head for style in PREFIXES.values())
    return [*facts, *styles, "random minus wrong", "right traces among random"], rows


def tunnel_section(result: Mapping) -> str:
    """One problem set's tunnel vision as HTML: both parts, each with its curves and its table."""
    budget, recovery, metrics = result["budget"] or (), result["recovery"], result["metrics"]
    families = {family.title: family for family in chart_families(metrics)}
    parts = [f"<h3>{escape(result['problems'])}</h3>", notes(result)]
    if budget:
        family = families["Accuracy by budget"]
        charts = [family, replace(family, title="Accuracy by tokens", along="tokens used", over="tokens")]
        costs = {f"{point['way']}.tokens@{point['budget']}": point["tokens"] for point in budget}
        sizes = f"{counted(result['n'], 'problem')}, {counted(result['samples'], 'response')} each"
        text = f"{sizes}. All paths together share the budget."
        parts.append(charts_section(family.styles.values(), charts, {**metrics, **costs}))
        parts += [table(budget_table(result)), small(text)]
    if recovery:
        text = (
            f"{recovery['traces']} traces of one path, {recovery['wrong']} of them wrong, median length "
            f"{recovery['median']:g} tokens; a trace is graded by its path's own answer. {explain(PREFIXES)}. "
            "All three on the same problems; only traces longer than the prefix are taken. "
            "Brackets: 95% intervals by bootstrap over these problems."
        )
        parts.append(charts_section(PREFIXES.values(), [families["Recovery"]], metrics))
        parts += [table(recovery_table(result)), small(text)]
    return "".join(parts)


# ---- what the intervals allow to say ----


def change(key: str, before: Mapping, after: Mapping, first: str, last: str, gain: Mapping | None = None) -> str:
    """From the first evaluation to the last as HTML, and what this shows.

    `gain` is the paired difference, where it is known. Without it the intervals are compared; that they overlap does
    not say that there is no difference.
    """
    name = METRICS[key].label if key in METRICS else key
    said = f"{name} {show(key, before)} after {first}, <b>{show(key, after)}</b> after {last}"
    if gain:
        return f"{said}: on the same problems {judged(key, gain)}"
    if not _with_intervals(before, after):
        return said
    return f"{said}: {'the intervals do not overlap' if apart(before, after) else 'intervals overlap'}"


def apart(one: Mapping, other: Mapping) -> bool:
    """Whether two estimates have intervals, and these do not overlap."""
    return _with_intervals(one, other) and (one["high"] < other["low"] or other["high"] < one["low"])


def _with_intervals(*estimates: Mapping) -> bool:
    return all(is_number(estimate.get(end)) for estimate in estimates for end in ("low", "high"))


def judged(key: str, difference: Mapping) -> str:
    """A difference with its interval in words: `+3.1 points [-1.2, 7.4], no difference shown`."""
    value, _, ends = show(key, difference, sign="+").partition(" ")
    unit = " points" if describe(key).unit == "percent" else ""
    verdict = ", no difference shown" if _with_intervals(difference) and not shown(difference) else ""
    return f"{value}{unit} {ends}".strip() + verdict


def shown(difference: Mapping) -> bool:
    """Whether a difference has an interval, and 0 is not in it."""
    return _with_intervals(difference) and (difference["low"] > 0 or difference["high"] < 0)


def _comparison_headline(result: Mapping) -> str:
    """Parallel against every other way at the largest number of paths, differences on the same problems."""
    most = max((row["paths"] for row in result["methods"]), default=0)
    gains = {name: result["metrics"].get(f"gain_{name}@{most}") for name in METHODS}  # a row at 1 path may hold for all
    said = "; ".join(f"{METHODS[name].heading} {judged('accuracy', gain)}" for name, gain in gains.items() if gain)
    return f"<p>With {counted(most, 'path')}, parallel minus each other way: {escape(said)}.</p>" if said else ""


# ---- common parts ----


def explain(styles: Mapping[str, Style]) -> str:
    return "; ".join(f"{style.head}: {style.what}" for style in styles.values())


def notes(result: Mapping) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in result.get("notes", ()))


def amount(value: float | None) -> str:
    return f"{value:.1f}" if is_number(value) else ""
