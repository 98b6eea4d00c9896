"""What the arms of an experiment came to by number of paths, by budget, by prefix: one chart an arm, over its seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

from polythink.evaluate.metrics import Estimate
from polythink.pipeline.results_table import Column
from polythink.report.findings import ARMS, PREFIXES, Style, estimate_line, legend, share_chart, way_style
from polythink.report.page import grid, section, small
from polythink.report.plots import COLOURS, Line


@dataclass(frozen=True)
class Family:
    """Metrics WAY@X that make a chart: one curve a way, over X."""

    title: str
    along: str
    styles: Mapping[str, Style]  # by way


def chart_families(metrics: Iterable[str]) -> list[Family]:
    """The charts of an evaluation with these metrics: of a comparison, or of a look for tunnel vision."""
    names = dict.fromkeys(metric.partition("@")[0] for metric in metrics)
    if "parallel" in names:
        return [Family("Accuracy by number of paths", "P", {way: style for way, style in ARMS.items() if way in names})]
    numbers = sorted({int(found[1]) for way in names if (found := re.fullmatch(r"paths(\d+)", way))})
    ways = {f"{kind}{n}": way_style(f"{kind}{n}", i) for i, n in enumerate(numbers) for kind in ("paths", "majority")}
    budgets = {way: style for way, style in {**ways, "sequential": way_style("sequential", 0)}.items() if way in names}
    prefixes = {way: PREFIXES[way.removesuffix("_prefix")] for way in ("fresh", "any_prefix", "wrong_prefix")}
    found = [Family("Accuracy by budget", "tokens of all paths together", budgets)] if numbers else []
    return found + (
        [Family("Recovery", "prefix: tokens, below 1 a share of the median", prefixes)]
        if "wrong_prefix" in names
        else []
    )


def curves(columns: Sequence[Column]) -> str:
    """A section for each evaluation that has curves: a chart an arm, and the first way of all arms in one."""
    by_stage: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        for name in column.results:
            by_stage.setdefault((column.stage, name), []).append(column)
    sections = []
    for (stage, name), own in by_stage.items():
        for family in chart_families(metric for column in own for metric in column.results[name]):
            series = {", ".join(column.arms): series_of(column.results[name], family) for column in own}
            series = {arm: ways for arm, ways in series.items() if ways}
            charts = [_of_one(arm, ways, family) for arm, ways in series.items()]
            content = legend(family.styles.values()) + grid(charts)
            if len(series) > 1:
                content = _of_all(series, family) + content
            said = f"{name}. Bands: 95% intervals, over seeds where there are several."
            sections.append(section(f"{family.title}, {stage}", content + small(said)))
    return "".join(sections)


Points = list[tuple[float, Estimate]]


def series_of(results: Mapping[str, Estimate], family: Family) -> dict[str, Points]:
    """The points of every way of the family, by X."""
    found: dict[str, Points] = {way: [] for way in family.styles}
    for metric, estimate in results.items():
        way, at, x = metric.partition("@")
        if at and way in found and not isnan(estimate.value):
            found[way].append((float(x), estimate))
    ways = {way: sorted(points, key=lambda point: point[0]) for way, points in found.items() if points}
    longest = max(ways.values(), key=len, default=[])
    # one sequential response is the same whatever P
    return {way: [(x, points[0][1]) for x, _ in longest] if way == "sequential" and len(points) == 1 else points
            for way, points in ways.items()}  # fmt: skip


def _of_one(arm: str, ways: Mapping[str, Points], family: Family) -> str | None:
    return share_chart(arm, family.along, [_line(family.styles[way], points) for way, points in ways.items()])


def _of_all(series: Mapping[str, Mapping[str, Points]], family: Family) -> str:
    """The first way of every arm, without bands: seven of them would hide the curves."""
    first = next(iter(family.styles))
    styles = {
        arm: Style(arm, "", COLOURS[i % len(COLOURS)], dashed=i >= len(COLOURS))
        for i, arm in enumerate(arm for arm, ways in series.items() if first in ways)
    }
    lines = [replace(_line(style, series[arm][first]), low=(), high=()) for arm, style in styles.items()]
    title = f"all arms: {family.styles[first].head}"
    return legend(styles.values()) + grid([share_chart(title, family.along, lines)])


def _line(style: Style, points: Points) -> Line:
    return estimate_line(style, [x for x, _ in points], [vars(estimate) for _, estimate in points])
