"""The curves of an experiment, by number of paths, by budget or by prefix: a chart per arm, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from polythink.pipeline.results_table import Column
from polythink.report.findings import Family, chart_families, family_chart, family_lines, share_chart, style_legend
from polythink.report.page import grid, legend, section, small
from polythink.report.plots import COLOURS


def curves(columns: Sequence[Column]) -> str:
    """A section for each evaluation that has curves: a chart per arm, and one with the first way of all arms."""
    by_stage: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        for name in column.results:
            by_stage.setdefault((column.stage, name), []).append(column)
    sections = []
    for (stage, name), own in by_stage.items():
        found = {", ".join(c.arms): {m: vars(estimate) for m, estimate in c.results[name].items()} for c in own}
        for family in chart_families(metric for metrics in found.values() for metric in metrics):
            drawn = {arm: svg for arm, metrics in found.items() if (svg := family_chart(family, metrics, arm))}
            content = _of_all({arm: found[arm] for arm in drawn}, family) if len(drawn) > 1 else ""
            content += style_legend(family.styles.values()) + grid(drawn.values())
            text = f"{name}. Bands: 95% intervals, over seeds where there are several."
            sections.append(section(f"{family.title}, {stage}", content + small(text)))
    return "".join(sections)


def _of_all(found: Mapping[str, Mapping[str, Mapping[str, float]]], family: Family) -> str:
    """The first way of every arm, without bands: several of them would hide the curves."""
    first = next(iter(family.styles))
    first_lines = {arm: lines[first] for arm, ms in found.items() if first in (lines := family_lines(family, ms))}
    lines = [
        replace(line, label=arm, colour=COLOURS[i % len(COLOURS)], dashed=i >= len(COLOURS), low=(), high=())
        for i, (arm, line) in enumerate(first_lines.items())
    ]
    entries = [(line.label, line.colour, line.dashed) for line in lines]
    title = f"all arms: {family.styles[first].head}"
    return legend(entries, lines=True) + grid([share_chart(title, family.along, lines)])
