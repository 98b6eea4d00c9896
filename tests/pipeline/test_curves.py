"""The curves of an experiment: which metrics make a chart, which points a curve has, what the page shows."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from polythink.evaluate.metrics import Estimate
from polythink.pipeline.curves import curves
from polythink.pipeline.results_table import Column
from polythink.report.findings import chart_families, family_lines

DRAWN = True  # by `helpers.charts`: its charts are drawn
NOTHING = Estimate(math.nan, math.nan, math.nan)


def at(value: float, spread: float = 0.1) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def column(arm: str, stage: str, **metrics: Estimate) -> Column:
    results = {"hard": {name.replace("_at_", "@"): estimate for name, estimate in metrics.items()}}
    return Column((arm,), stage, "sft", -1, (0, 1), 1.0, results, {}, {})


COMPARED = {
    "parallel_at_8": at(0.6), "parallel_at_1": at(0.3), "parallel_at_4": at(0.5), "oracle_at_1": at(0.3),
    "oracle_at_4": at(0.7), "oracle_at_8": NOTHING, "sequential_at_1": at(0.35), "parallel.tokens_at_4": at(90.0),
    "gain_oracle_at_4": at(-0.2),
}  # fmt: skip


def test_a_comparison_is_drawn_by_number_of_paths() -> None:
    found = {name: vars(estimate) for name, estimate in column("a", "compare", **COMPARED).results["hard"].items()}
    (family,) = chart_families(found)
    assert list(family.styles) == ["parallel", "oracle", "sequential"]
    lines = family_lines(family, found)
    assert (lines["parallel"].steps, lines["parallel"].values) == ([1, 4, 8], [0.3, 0.5, 0.6])
    assert lines["parallel"].low == pytest.approx([0.2, 0.4, 0.5])
    assert lines["oracle"].steps == [1, 4], "a share of nothing is no point"
    assert (lines["sequential"].steps, lines["sequential"].values) == ([1, 4, 8], [0.35] * 3), "the same for every P"
    by_tokens = family_lines(replace(family, over="tokens"), found)
    assert {way: line.steps for way, line in by_tokens.items()} == {"parallel": [90.0]}, "only where the cost is known"


def test_tunnel_vision_is_drawn_by_budget_and_by_prefix() -> None:
    metrics = ["paths1@16", "paths4@16", "majority4@16", "sequential@16", "fresh@4", "any_prefix@4", "wrong_prefix@4"]
    budget, prefix = chart_families(metrics)
    assert list(budget.styles) == ["paths1", "paths4", "majority4", "sequential"]
    assert budget.styles["paths4"].colour == budget.styles["majority4"].colour != budget.styles["paths1"].colour
    assert list(prefix.styles) == ["fresh", "any_prefix", "wrong_prefix"]
    assert chart_families(["paths1@16"])[0].title == "Accuracy by budget"
    assert chart_families(["mean@8", "pass@8"]) == []


def test_every_arm_has_a_chart_and_all_of_them_one() -> None:
    html = curves([column("a", "compare", **COMPARED), column("b", "compare", **COMPARED)])
    assert re.findall(r'<svg role="img" aria-label="([^"]*)"', html) == ["all arms: parallel", "a", "b"]
    assert "Accuracy by number of paths, compare" in html
    alone = curves([column("a", "compare", **COMPARED)])
    assert re.findall(r'aria-label="([^"]*)"', alone) == ["a"]
    assert curves([column("a", "eval", mean_at_8=at(0.5))]) == ""


def test_an_arm_without_points_has_no_chart() -> None:
    full, bare = column("a", "compare", **COMPARED), column("b", "compare", other_at_1=at(0.5))
    for columns in ([full, bare], [bare, full]):
        assert re.findall(r'aria-label="([^"]*)"', curves(columns)) == ["a"]
