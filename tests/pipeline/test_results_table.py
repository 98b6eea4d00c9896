"""The table: its statistics against independent statements of them, and its layout."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polythink.evaluate.metrics import compute_metrics, interval
from polythink.pipeline.results_table import (
    T_95,
    Evaluated,
    columns,
    headlines,
    make_table,
    over_seeds,
    read_table,
    table_rows,
)
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl


@pytest.mark.parametrize("df", [*range(1, 31), 31, 60, 200])
def test_the_t_quantiles_leave_two_and_a_half_percent_above(df: int) -> None:
    values = [0.0] * df + [1.0]
    scale = 1 / math.sqrt(df + 1) / math.sqrt(df + 1)  # standard error of these values
    quantile = (over_seeds(values).high - over_seeds(values).value) / scale
    assert len(T_95) == 30
    x = np.linspace(0, quantile, 20_001)  # density of Student's t, integrated by Simpson's rule
    density = (
        math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2))
        / math.sqrt(df * math.pi)
        * (1 + x**2 / df) ** (-(df + 1) / 2)
    )
    weights = np.ones_like(x)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    assert 0.5 + (weights @ density) * (x[1] - x[0]) / 3 == pytest.approx(0.975, abs=2e-5)


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert over_seeds([0.5]).value == 0.5
    assert math.isnan(over_seeds([0.5]).low)


def samples(right: np.ndarray, tokens: float = 10.0) -> list[dict]:
    """Rows for right (P, K)."""
    return [
        {
            "problem": f"p{p}", "verdict": "right" if r else "wrong", "extracted": "1" if r else f"{p}{k}",
            "well_formed": True, "blocks": 0, "complete_blocks": 0, "tokens": tokens, "critical_path": tokens,
            "truncated": 0, "segments": [],
        }
        for p, row in enumerate(right)
        for k, r in enumerate(row)
    ]  # fmt: skip


def evaluated(
    folder: Path, arm: str, seed: int, right: np.ndarray, position: int = -1, **sets: np.ndarray
) -> Evaluated:
    folder = folder / f"{arm}{seed}{position}"
    for name, grid in {"easy": right, **sets}.items():
        rows = samples(grid)
        write_jsonl(folder / f"samples-{name}.jsonl", rows)
        metrics = {m: vars(interval(measure)) for m, measure in compute_metrics(rows).items()}
        write_json(folder / f"eval-{name}.json", {"n": len(grid), "metrics": metrics})
    write_json(folder / "result.json", {"evaluations": dict.fromkeys(["easy", *sets])})
    return Evaluated(arm, seed, position, f"eval{position}", "rl", folder, 100.0 + seed)


def grid(share: float, seed: int, problems: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((problems, 4)) < share


def test_the_caption_says_where_a_set_was_measured_with_how_many_problems(tmp_path) -> None:
    found = [
        evaluated(tmp_path, "a", 0, grid(0.3, 0), -2, hard=grid(0.3, 1)),
        evaluated(tmp_path, "a", 0, grid(0.3, 0, 10)),
    ]
    text = make_table("t", "a", found).caption
    assert "easy (40 in eval-2; 10 in eval-1), hard (40)" in text


def test_one_seed_takes_the_intervals_of_the_evaluation_and_pairs_problems(tmp_path) -> None:
    base = grid(0.3, 0)
    better = base.copy()
    better[:10] = True  # better on the first ten problems, the same on all others
    first, other = columns([evaluated(tmp_path, "a", 0, base), evaluated(tmp_path, "b", 0, better)], "a")
    own = interval(compute_metrics(samples(base))["mean@4"])
    assert vars(first.results["easy"]["mean@4"]) == vars(own)
    assert first.differences == {"easy": {}}
    difference = other.differences["easy"]["mean@4"]
    assert difference.value == pytest.approx(better.mean() - base.mean())
    gain = (better.astype(float) - base).mean(1)  # independent: bootstrap the gains themselves
    draws = gain[np.random.default_rng(1).integers(0, 40, (4000, 40))].mean(1)
    assert [difference.low, difference.high] == pytest.approx(list(np.quantile(draws, [0.025, 0.975])), abs=0.02)
    assert other.differences["easy"]["tokens"].value == 0
    assert "right_path" not in first.results["easy"], "a share of nothing has no value"


def test_several_seeds_take_t_intervals_and_pair_seeds(tmp_path) -> None:
    shares = {"a": (0.2, 0.3, 0.4), "b": (0.35, 0.4, 0.6)}
    runs = [evaluated(tmp_path, arm, s, grid(share, s)) for arm in "ab" for s, share in enumerate(shares[arm])]
    first, other = columns(runs, "a")
    means = {arm: np.array([grid(share, s).mean() for s, share in enumerate(shares[arm])]) for arm in "ab"}
    estimate = first.results["easy"]["mean@4"]
    assert estimate.value == pytest.approx(means["a"].mean())
    assert estimate.high - estimate.value == pytest.approx(4.3027 * means["a"].std(ddof=1) / math.sqrt(3))
    gaps = means["b"] - means["a"]
    difference = other.differences["easy"]["mean@4"]
    assert difference.value == pytest.approx(gaps.mean())
    assert difference.value - difference.low == pytest.approx(4.3027 * gaps.std(ddof=1) / math.sqrt(3))
    assert (first.seconds, first.seeds) == (101.0, (0, 1, 2))


def test_no_interval_of_a_share_leaves_the_possible(tmp_path) -> None:
    runs = [evaluated(tmp_path, "a", s, grid(share, s)) for s, share in enumerate((0.05, 0.6))]
    estimate = columns(runs, "a")[0].results["easy"]["mean@4"]
    assert (estimate.low, estimate.high) == (0, 1)


def test_problem_sets_stand_in_the_order_of_the_recipe(tmp_path) -> None:
    run = evaluated(tmp_path, "a", 0, grid(0.5, 0), zebra=grid(0.5, 1), also=grid(0.5, 2))
    assert list(run.sets) == ["easy", "zebra", "also"]


def test_a_missing_seed_is_left_out_of_the_pairs(tmp_path) -> None:
    runs = [evaluated(tmp_path, arm, s, grid(0.3, s)) for arm, s in (("a", 0), ("a", 1), ("b", 1))]
    _, other = columns(runs, "a")
    assert other.seeds == (1,)
    assert other.differences["easy"]["mean@4"].value == 0
    alone = other.results["easy"]["mean@4"]
    assert alone.low < alone.value < alone.high, "one evaluation has its interval over problems"
    assert table_rows(columns(runs, "a"))[0][2:] == ["a, after rl", "b, after rl (1 of 2 seeds)"]


def test_the_caption_and_the_headline_say_where_seeds_are_missing(tmp_path) -> None:
    runs = [evaluated(tmp_path, arm, s, grid(0.3, s), -2) for arm in "ab" for s in range(3)]
    runs += [evaluated(tmp_path, arm, 0, grid(share, 0)) for arm, share in (("a", 0.2), ("b", 0.7))]
    table = make_table("t", "a", runs)
    assert "3 unless the column's title says fewer" in table.caption
    assert "in a column of one seed" in table.caption
    assert headlines(table.columns)[0].endswith("(mean@4, one seed).")
    table.write(tmp_path)
    assert read_table(tmp_path).columns[-1].paired == (0,)
    whole = make_table("t", "a", [run for run in runs if run.position == -2])
    assert "Mean over 3 seeds. Brackets: 95% t interval over seeds" in whole.caption


def test_the_gain_is_over_the_first_evaluation_of_the_same_arm(tmp_path) -> None:
    before, after = grid(0.3, 0), grid(0.5, 0)
    runs = [evaluated(tmp_path, "a", 0, before, position=-2), evaluated(tmp_path, "a", 0, after)]
    early, late = columns(runs, "a")
    assert early.gains == {"easy": {}}
    assert late.gains["easy"]["mean@4"].value == pytest.approx(after.mean() - before.mean())
    assert late.gains["easy"]["mean@4"].low > 0
    labels = [row[1] for row in table_rows([early, late])[1]]
    assert labels[:4] == ["mean@4", "gain", "pass@4", "gain"]


def test_an_accuracy_of_one_sample_has_its_difference_too(tmp_path) -> None:
    runs = [evaluated(tmp_path, arm, 0, grid(share, 0)) for arm, share in (("a", 0.2), ("b", 0.7))]
    for run, value in zip(runs, (0.25, 0.5), strict=True):
        name = run.folder / "eval-easy.json"
        more = {key: {"value": value, "low": None, "high": None} for key in ("greedy", "best_of_4")}
        found = json.loads(name.read_text())
        write_json(name, found | {"metrics": more | found["metrics"]})
        write_jsonl(run.folder / "greedy-easy.jsonl", samples(grid(value, 0)[:, :1]))
    labels = [row[1] for row in make_table("t", "a", runs).rows]
    assert labels[labels.index("greedy") + 1] == labels[labels.index("best_of_4") + 1] == "difference"
    assert "difference" not in labels[labels.index("tokens") :]


def test_without_the_first_arm_or_the_same_problems_there_is_no_difference(tmp_path) -> None:
    (alone,) = columns([evaluated(tmp_path, "b", 0, grid(0.3, 0))], "a")
    assert alone.differences["easy"] == {}
    runs = [evaluated(tmp_path, "a", 0, grid(0.3, 0)), evaluated(tmp_path, "c", 0, grid(0.3, 0, problems=30))]
    assert columns(runs, "a")[1].differences["easy"] == {}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"problem_hash": "a1"}, {"problem_hash": "a1"}, True),
        ({"problem_hash": "a1"}, {"problem_hash": "b2"}, False),
        ({"provenance": {"problems": "v1/easy.jsonl"}}, {"provenance": {"problems": "v1/easy.jsonl"}}, True),
        ({"provenance": {"problems": "v1/easy.jsonl"}}, {"provenance": {"problems": "v2/easy.jsonl"}}, False),
        ({"provenance": {"problems": "e", "limit": 40}}, {"provenance": {"problems": "e", "limit": None}}, False),
        ({}, {"n": 30}, False),  # of an older version
    ],
)
def test_only_the_same_problems_have_a_difference(tmp_path, seeds, one, other, same) -> None:
    """Two sets may have one name in the table: that of their file, or one set under two limits."""
    runs = [evaluated(tmp_path, arm, seed, grid(0.3, seed)) for arm in "ab" for seed in seeds]
    for run in runs:
        file = run.folder / "eval-easy.json"
        write_json(file, json.loads(file.read_text()) | {"problems": "easy"} | (one if run.arm == "a" else other))
    table = make_table("t", "a", runs)
    assert ("mean@4" in table.columns[1].differences["easy"]) == same
    assert ("Not the same problems in every evaluation: easy;" in table.caption) == (not same)
    assert ("difference" in [row[1] for row in table.rows]) == same


def test_a_gain_over_several_seeds_is_of_the_same_problems_or_none(tmp_path) -> None:
    runs = [evaluated(tmp_path, "a", seed, grid(0.3, seed, 10), position=-2) for seed in (0, 1)]
    runs += [evaluated(tmp_path, "a", seed, grid(0.5, seed)) for seed in (0, 1)]
    assert columns(runs, "a")[1].gains["easy"] == {}


def test_arms_that_share_an_evaluation_share_its_column(tmp_path) -> None:
    shared = evaluated(tmp_path, "a", 0, grid(0.1, 0), position=-2)
    also = Evaluated("b", 0, -2, shared.stage, "sft", shared.folder, 5.0)
    runs = [shared, evaluated(tmp_path, "a", 0, grid(0.2, 1)), also, evaluated(tmp_path, "b", 0, grid(0.3, 2))]
    found = columns(runs, "a")
    assert [(c.arms, c.position) for c in found] == [(("a", "b"), -2), (("a",), -1), (("b",), -1)]
    head, _ = table_rows(found)
    assert head == ["problems", "metric", "all arms, after rl", "a, after rl", "b, after rl"]


def test_evaluations_of_the_same_model_are_told_apart_by_name(tmp_path) -> None:
    runs = [evaluated(tmp_path, "a", 0, grid(0.2, 0), position=p) for p in (-2, -1)]
    assert table_rows(columns(runs, "a"))[0][2:] == ["a, after rl (eval-2)", "a, after rl (eval-1)"]


def test_the_three_files_say_the_same(tmp_path) -> None:
    runs = [
        evaluated(tmp_path, arm, 0, grid(share, 0), hard=grid(share / 2, 1)) for arm, share in (("a", 0.3), ("b", 0.5))
    ]
    make_table("trial", "a", runs, ("mean@4", "tokens")).write(tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[:2] for row in cells[2:]] == [
        ["easy", "mean@4"], ["", "difference"], ["", "tokens"],
        ["hard", "mean@4"], ["", "difference"], ["", "tokens"], ["", "seconds"],
    ]  # fmt: skip
    value = 100 * grid(0.3, 0).mean()
    assert cells[2][2].startswith(f"{value:.1f}% [")
    assert cells[3][2] == ""
    assert cells[3][3].startswith("+")
    assert cells[4][2].startswith("10 [")
    assert "One seed" in lines[-1]
    assert "easy (40), hard (40)" in lines[-1]
    data = json.loads((tmp_path / "table.json").read_text())
    assert data["columns"][0]["results"]["easy"]["mean@4"]["value"] == pytest.approx(value / 100)
    assert "pass@4" in data["columns"][1]["differences"]["hard"]
    page = (tmp_path / "table.html").read_text()
    assert cells[2][2] in page
    assert html.escape(lines[-1]) in page


def test_a_wanted_metric_that_nobody_measured_is_named(tmp_path) -> None:
    table = make_table("trial", "a", [evaluated(tmp_path, "a", 0, grid(0.3, 0))], ("mean@4", "mean@9"))
    assert [row[1] for row in table.rows] == ["mean@4", "seconds"]
    assert table.caption.endswith("Asked for and not measured: mean@9.")


def test_an_experiment_without_results_says_so() -> None:
    assert "Nothing was evaluated" in make_table("trial", "a", []).markdown


def test_the_table_has_the_name_of_its_experiment_and_not_of_a_problem_set(tmp_path) -> None:
    runs = [evaluated(tmp_path, "a", 0, grid(0.3, 0), hard=grid(0.1, 1))]
    make_table("mine <1>", "a", runs).write(tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["name"] == "mine <1>"
    page = (tmp_path / "table.html").read_text()
    assert "<title>mine &lt;1&gt;</title>" in page
    assert "<h1>mine &lt;1&gt;</h1>" in page


def test_a_written_table_can_be_read_again(tmp_path) -> None:
    runs = [evaluated(tmp_path, arm, s, grid(0.3, s)) for arm in "ab" for s in (0, 1)]
    table = make_table("mine", "a", runs, ("mean@4",))
    table.write(tmp_path)
    again = read_table(tmp_path)
    assert (again.html, again.headline_html) == (table.html, table.headline_html)
    assert again.columns[1].differences["easy"]["mean@4"].high == pytest.approx(
        table.columns[1].differences["easy"]["mean@4"].high
    )
    older = json.loads((tmp_path / "table.json").read_text())
    write_json(tmp_path / "table.json", {key: older[key] for key in ("name", "caption", "seeds", "columns")})
    assert "pass@4" in [row[1] for row in read_table(tmp_path).rows]


def test_the_headline_says_whether_a_difference_shows(tmp_path) -> None:
    runs = [evaluated(tmp_path, arm, 0, grid(share, 0)) for arm, share in (("a", 0.2), ("b", 0.7), ("c", 0.21))]
    (line,) = headlines(make_table("mine", "a", runs).columns)
    assert re.fullmatch(
        r"easy, difference to the first arm: b \+\d+\.\d points \[\+[^]]*\] \(mean@4\); "
        r"c [+-]?\d+\.\d points \[[^]]*\](, no difference shown)? \(mean@4\)\.",
        line,
    )
    same = [evaluated(tmp_path / "same", arm, 0, grid(0.4, seed)) for arm, seed in (("a", 0), ("b", 1))]
    assert "no difference shown" in headlines(make_table("mine", "a", same).columns)[0]


def test_the_gap_of_reinforcement_learning_stands_below_the_metrics(tmp_path) -> None:
    found = []
    for arm, gaps in {"exact": (1e-5, 3e-5), "published": (2.0, 1.5), "untrained": (None, None)}.items():
        for seed, gap in enumerate(gaps):
            one = evaluated(tmp_path, arm, seed, grid(0.5, seed))
            found.append(replace(one, gap=gap, mismatch_kl=gap and gap / 10))
    table = make_table("modes", "exact", found)
    by_metric = {row[1]: row[2:] for row in table.rows}
    assert by_metric["logprob_gap"] == ["3e-05", "2", ""], "the largest of all seeds"
    assert by_metric["mismatch_kl"] == ["2e-06", "0.17", ""], "the mean over the seeds"
    table.write(tmp_path)
    assert read_table(tmp_path).rows == table.rows
    assert [column.gap for column in read_table(tmp_path).columns] == [3e-5, 2.0, None]
    without = make_table("none", "untrained", [one for one in found if one.arm == "untrained"])
    assert not {"logprob_gap", "mismatch_kl"} & {row[1] for row in without.rows}
