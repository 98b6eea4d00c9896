"""Tables and curves of `compare` and `tunnel`, from results in the shape of their JSON files."""

from __future__ import annotations

import re

import pytest

from polythink.evaluate.methods import METHODS
from polythink.report.findings import (
    LINES,
    STYLES,
    budget_table,
    change,
    chart_families,
    comparison_section,
    comparison_table,
    family_lines,
    judged,
    recovery_table,
    tunnel_section,
)


def estimate(value: float | None) -> dict:
    return {key: None if value is None else value + d for key, d in (("value", 0), ("low", -0.05), ("high", 0.05))}


def method(name: str, paths: int, accuracy: float, **more) -> dict:
    costs = {"tokens": estimate(40.0 * paths), "critical_path": estimate(55.0), "seconds": 0.012, "forwarded": 80.0}
    return {"method": name, "paths": paths, "responses": 1, "accuracy": estimate(accuracy), **costs, **more}


ROWS = [
    method("sequential", 1, 0.3, difference=estimate(0.1)),
    method("parallel", 4, 0.5, summary_right=estimate(0.8)),
    method("oracle", 4, 0.7, difference=estimate(-0.2), seconds=None, forwarded=None),
    method("parallel", 1, 0.4, summary_right=estimate(None)),
]
GAINS = {"sequential@1": 0.1, "sequential@4": 0.2, "oracle@4": -0.2, "fewer@4": 0.1}
COMPARED = {
    "kind": "compare", "problems": "hard", "n": 10, "samples": 2, "paths": [1, 4], "notes": ["it is <small>"],
    "methods": ROWS,
    "metrics": {
        f"{row['method']}{ending}@{row['paths']}": row[key]
        for row in ROWS
        for key, ending in (("accuracy", ""), ("tokens", ".tokens"), ("critical_path", ".critical_path"))
    }
    | {f"gain_{name}": estimate(gain) for name, gain in GAINS.items()},
}  # fmt: skip

WAYS = {"paths1": 1, "paths4": 4, "majority4": 4, "sequential": 1}
BUDGET = [
    {"way": way, "paths": paths, "budget": budget, "accuracy": estimate(0.4), "tokens": estimate(0.9 * budget),
     "critical_path": estimate(budget / paths)}
    for budget in (16, 64, 256)
    for way, paths in WAYS.items()
]  # fmt: skip
POINTS = [
    {"given": n, "prefix": n, "problems": 9, "continuations": 18, "control_right": 0.25, "fresh": estimate(0.5),
     "any": estimate(0.4), "wrong": estimate(0.2), "difference": estimate(0.2)}
    for n in (4, 8)
]  # fmt: skip
TUNNEL = {
    "kind": "tunnel", "problems": "hard", "n": 10, "samples": 2, "notes": [], "budget": BUDGET,
    "recovery": {"traces": 40, "wrong": 30, "median": 12.0, "points": POINTS},
    "metrics": {
        **{f"{point['way']}@{point['budget']}": point["accuracy"] for point in BUDGET},
        **{f"{kind}@{p['prefix']}": p[kind.partition("_")[0]]
           for p in POINTS for kind in ("fresh", "any_prefix", "wrong_prefix")},
    },
}  # fmt: skip


def charts(html: str) -> list[str]:
    return re.findall(r'<svg role="img" aria-label="([^"]*)"', html)


def test_every_method_has_a_line_of_its_own() -> None:
    assert LINES.keys() == METHODS.keys() == STYLES.keys()
    assert len(set(LINES.values())) == len(LINES)


def test_a_comparison_is_a_table_by_number_of_paths_and_method() -> None:
    head, rows = comparison_table(COMPARED)
    assert [(row[0], row[1]) for row in rows] == [(1, "parallel"), (1, "sequential"), (4, "parallel"), (4, "oracle")]
    by_name = [dict(zip(head, row, strict=True)) for row in rows]
    assert by_name[1]["accuracy"] == "30.0% [25.0, 35.0]"
    assert by_name[1]["parallel minus this"] == "+10.0 [+5.0, +15.0]"
    assert (by_name[0]["parallel minus this"], by_name[0]["ms"]) == ("", "12.0")
    assert (by_name[3]["ms"], by_name[3]["forwarded"]) == ("", "")
    assert [row[head[-1]] for row in by_name] == ["", "", "80.0% [75.0, 85.0]", ""]


def test_a_comparison_is_drawn_over_paths_tokens_and_critical_path() -> None:
    html = comparison_section(COMPARED)
    assert charts(html) == ["Accuracy by number of paths", "Accuracy by tokens", "Accuracy by critical path"]
    assert "it is &lt;small&gt;" in html
    assert METHODS["oracle"].meaning in html
    assert METHODS["reread"].meaning not in html, "only the methods that were compared are explained"


def test_tunnel_vision_is_drawn_by_budget_and_by_prefix() -> None:
    html = tunnel_section(TUNNEL)
    assert charts(html) == ["Accuracy by budget", "Accuracy by tokens", "Recovery"]
    head, rows = budget_table(TUNNEL)
    assert [row[1] for row in rows[:4]] == ["one path", "4 paths", "majority of 4", "sequential"]
    assert dict(zip(head, rows[0], strict=True))["tokens"] == "14.4"
    head, rows = recovery_table(TUNNEL)
    assert [row[0] for row in rows] == [4, 8]
    assert dict(zip(head, rows[0], strict=True))["random minus wrong"] == "+20.0 [+15.0, +25.0]"


@pytest.mark.parametrize(("part", "left"), [("budget", ["Recovery"]), ("recovery", ["Accuracy by budget"])])
def test_either_part_of_tunnel_vision_may_be_missing(part: str, left: list[str]) -> None:
    own = ("paths", "majority", "sequential") if part == "budget" else ("fresh", "any_prefix", "wrong_prefix")
    metrics = {name: value for name, value in TUNNEL["metrics"].items() if not name.startswith(own)}
    html = tunnel_section({**TUNNEL, part: None, "metrics": metrics})
    assert charts(html)[:1] == left
    assert (budget_table if part == "budget" else recovery_table)({**TUNNEL, part: None})[1] == []


def test_an_interval_without_ends_is_drawn_as_a_point() -> None:
    (family,) = chart_families(["parallel@1"])
    lines = family_lines(family, {"parallel@1": {"value": 0.5, "low": None, "high": None}, "gain_oracle@1": {}})
    assert lines["parallel"].values == [0.5]


def test_intervals_that_overlap_decide_nothing_and_a_paired_difference_does() -> None:
    def at(low: float, value: float, high: float) -> dict:
        return {"value": value, "low": low, "high": high}

    before = at(0.18, 0.24, 0.30)
    assert change("mean@4", before, at(0.21, 0.29, 0.37), "sft", "rl") == (
        "mean@4 24.0% [18.0, 30.0] after sft, <b>29.0% [21.0, 37.0]</b> after rl: intervals overlap"
    )
    for gain, verdict in (
        (at(0.02, 0.05, 0.08), "+5.0 points [+2.0, +8.0]"),
        (at(-0.01, 0.05, 0.1), "+5.0 points [-1.0, +10.0], no difference shown"),
    ):
        said = change("mean@4", before, at(0.21, 0.29, 0.37), "sft", "rl", gain)
        assert said.endswith(f"after rl: on the same problems {verdict}")
    for other in (at(0.31, 0.4, 0.5), at(0.01, 0.1, 0.17)):
        assert change("mean@4", before, other, "sft", "rl").endswith("the intervals do not overlap")
    assert "overlap" not in change("mean@4", before, {"value": 0.5, "low": None, "high": None}, "sft", "rl")
    assert judged("mean@4", at(-0.012, 0.031, 0.074)) == "+3.1 points [-1.2, +7.4], no difference shown"
    assert judged("mean@4", at(0.02, 0.05, 0.08)) == "+5.0 points [+2.0, +8.0]"
    assert judged("mean@4", at(-0.08, -0.05, -0.02)) == "-5.0 points [-8.0, -2.0]"
    assert judged("mean@4", {"value": 0.05, "low": None, "high": None}) == "+5.0 points"


def test_a_comparison_says_first_what_its_differences_show() -> None:
    html = comparison_section(COMPARED)
    said = re.search(r"<p>With 4 paths, parallel minus each other way: (.*?)\.</p>", html)[1]
    assert said.split("; ") == [
        "oracle -20.0 points [-25.0, -15.0]", "sequential +20.0 points [+15.0, +25.0]"
    ], "one response too, whose row is that of one path"  # fmt: skip
