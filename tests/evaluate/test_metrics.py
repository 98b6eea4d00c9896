"""Metrics against enumeration: every subset, every order, every way to break a tie; intervals against their claim."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest

from polythink.evaluate.metrics import (
    HEADLINE,
    METRICS,
    Metric,
    best_of_n,
    compute_metrics,
    describe,
    difference,
    expected_max,
    headline,
    interval,
    maj_at_k,
    mean_at_k,
    normalise,
    pass_at_k,
    read_measures,
    show,
    write_measures,
)
from polythink.problems.tasks.countdown import COUNTDOWN
from polythink.problems.tasks.math import MATH


def mean(values) -> float:
    values = list(values)
    return float(Fraction(sum(values), len(values)))


def test_mean_at_k():
    assert mean_at_k([True, False, False, True]) == 0.5


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_mean_over_all_subsets(n):
    for right in range(n + 1):
        samples = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            expected = mean(any(subset) for subset in combinations(samples, k))
            assert pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_exact_for_many_samples():
    assert pass_at_k(1000, 1, 1) == pytest.approx(1 / 1000)
    assert pass_at_k(1000, 0, 500) == 0
    assert pass_at_k(1000, 501, 500) == 1


def vote(samples: list[tuple[str | None, bool]]) -> Fraction:
    """By definition: the most voted answer, ties broken at random, wrong where nobody votes."""
    counts: dict[str, int] = {}
    for answer, _ in samples:
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
    tops = [answer for answer, count in counts.items() if count == max(counts.values())]
    right = [any(r for a, r in samples if a == answer) for answer in tops]
    return Fraction(sum(right), len(right)) if tops else Fraction(0)


def test_maj_at_k_is_the_mean_vote_over_all_subsets():
    rng = random.Random(0)
    for _ in range(150):
        n = rng.randint(1, 7)
        votes = [rng.choice(["1", "2", "3", "4", None]) for _ in range(n)]
        good = set(rng.sample(["1", "2", "3", "4"], rng.randint(0, 2)))  # two spellings may both be right
        samples = [(v, v in good) for v in votes]
        for k in range(1, n + 1):
            expected = float(
                sum(map(vote, combinations(samples, k)), Fraction(0)) / len(list(combinations(samples, k)))
            )
            assert maj_at_k(votes, [r for _, r in samples], k, by_value=False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "right", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 1),
        (["7", "8"], [True, False], 1 / 2),  # a tie counts its share
        (["7", "8", "9"], [True, False, False], 1 / 3),
        (["7", None, None, None], [True, False, False, False], 1),  # unparsed answers are no votes
        ([None, None], [False, False], 0),
        (["7", "8", "8"], [True, False, False], 0),
    ],
)
def test_maj_at_all_samples(votes, right, expected):
    assert maj_at_k(votes, right, len(votes)) == pytest.approx(expected)


def test_best_of_n_is_the_mean_over_all_ordered_draws():
    rng = random.Random(1)
    for _ in range(60):
        n = rng.randint(1, 6)
        samples = [(rng.random() < 0.4, rng.random() < 0.5) for _ in range(n)]  # (marked, right)

        def choose(draw):
            return next((right for marked, right in draw if marked), draw[0][1])

        for k in range(1, n + 1):
            expected = mean(choose(draw) for draw in permutations(samples, k))
            got = best_of_n([m for m, _ in samples], [r for _, r in samples], k)
            assert got == pytest.approx(expected, abs=1e-12)


def per_problem(values, weights=None) -> Metric:
    values = np.array(values, float)
    weights = np.ones_like(values) if weights is None else np.array(weights, float)
    return Metric(tuple(map(str, range(len(values)))), values, weights)


def test_interval_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, 400)
    estimate = interval(per_problem(values), draws=4000)
    error = values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        estimate = interval(per_problem(rng.random(80) < 0.3), draws=500, seed=seed)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.985


def test_interval_is_seeded_and_degenerate_cases_say_so():
    measure = per_problem([0, 1, 1, 0, 1])
    assert interval(measure, seed=3) == interval(measure, seed=3)
    assert interval(measure, seed=3, draws=20) != interval(measure, seed=4, draws=20)
    always = interval(per_problem([1, 1, 1]))
    assert (always.value, always.low, always.high) == (1, 1, 1)
    nothing = interval(per_problem([0, 0], [0, 0]))
    assert all(np.isnan([nothing.value, nothing.low, nothing.high]))


def test_a_share_is_the_ratio_of_sums():
    # 1 of 1, 1 of 3, and a problem without any case
    estimate = interval(per_problem([1, 1, 0], [1, 3, 0]))
    assert estimate.value == 0.5
    assert 0 < estimate.low <= 0.5 <= estimate.high <= 1


def test_paired_difference_is_narrower_than_the_two_intervals():
    rng = np.random.default_rng(2)
    hard = rng.random(200)
    a, b = per_problem(hard + 0.1 + rng.normal(0, 0.02, 200)), per_problem(hard)
    paired = difference(a, b)
    assert paired.value == pytest.approx(0.1, abs=0.01)
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < (interval(b).high - interval(b).low) / 5
    assert difference(a, a) == type(paired)(0, 0, 0)
    with pytest.raises(AssertionError, match="same problems"):
        difference(a, per_problem(hard[:5]))


def row(problem: str, verdict: str, extracted: str | None = None, **more) -> dict:
    plain = {"complete_blocks": 0, "blocks": 0, "well_formed": True, "tokens": 4, "critical_path": 4, "truncated": 0}
    return {"problem": problem, "verdict": verdict, "extracted": extracted, "segments": [], **plain, **more}


def block_row(problem: str, verdict: str, extracted: str, paths: list[bool | None], **more) -> dict:
    segments = [{"kind": "path", "right": right} for right in paths]
    block = {"complete_blocks": 1, "blocks": 1, "tokens": 10, "critical_path": 6, "segments": segments}
    return row(problem, verdict, extracted, **{**block, **more})


def test_measures_of_a_set_by_hand():
    rows = [
        block_row("p", "right", "7", [True, False]),
        block_row("p", "wrong", "8", [True, True], well_formed=False),
        row("p", "wrong", "8"),
        row("p", "right", " $7$. "),
        row("q", "unparsed"),
        row("q", "timeout"),
        block_row("q", "wrong", "1", [False, None], truncated=2),
        row("q", "right", "2"),
    ]
    found = {name: measure.value for name, measure in compute_metrics(rows, best_of=[2]).items()}
    assert found == pytest.approx(
        {
            "mean@4": 3 / 8,
            "pass@4": 1,
            "maj@4": (1 / 2 + 1 / 2) / 2,
            # p: 7 7 8 8: every pair is right in expectation 1/2; q: of the 6 pairs {2, -} x2 are right, {2, 1} half
            "best_of_2": (1 / 2 + 2.5 / 6) / 2,
            "parallel_ratio": 3 / 8,
            "well_formed": 7 / 8,
            "right_path": 2 / 3,
            "summary_right": 1 / 2,
            "tokens": 50 / 8,
            "critical_path": 38 / 8,
            "truncated": 2 / 8,
        }
    )


def test_best_of_goes_by_the_chains_own_mark_where_there_is_one():
    rows = [
        row("p", "right", "7", marked=True),
        row("p", "wrong", "8", marked=False),
        row("p", "wrong", "8", marked=False),
    ]
    assert compute_metrics(rows, best_of=[3])["best_of_3"].value == 1  # the majority would be wrong
    assert compute_metrics(rows, best_of=[2])["best_of_2"].value == pytest.approx(2 / 3)


def test_votes_are_compared_without_layout():
    assert normalise(" $1,2$. ", MATH) == normalise("1,2", MATH)
    assert normalise(None, MATH) is None
    assert normalise("  ", MATH) is None
    assert normalise("  8  / 4 ", COUNTDOWN) == "8 / 4"


def test_every_problem_has_the_same_number_of_samples():
    with pytest.raises(AssertionError, match="different numbers of samples"):
        compute_metrics([row("p", "right"), row("p", "right"), row("q", "right")])


def test_the_longest_of_k_is_the_mean_over_all_subsets():
    values = [3, 1, 4, 1, 5]
    for k in range(1, 6):
        assert expected_max(values, k) == pytest.approx(mean(max(subset) for subset in combinations(values, k)))


def test_metrics_survive_their_file(tmp_path):
    found = {
        "a@2": Metric(("p", "q"), np.array([0.5, 1.0]), np.ones(2)),
        "b@0.1": Metric(("q",), np.array([2.0]), np.array([3.0])),
    }
    write_measures(tmp_path / "m.jsonl", found)
    again = read_measures(tmp_path / "m.jsonl")
    assert list(again) == list(found)
    for name, metric in found.items():
        assert again[name].keys == metric.keys
        assert interval(again[name]) == interval(metric)


# ---- names ----


def test_every_metric_of_an_evaluation_is_explained():
    rows = [block_row("p", "right", "7", [True], marked=True, right_lines=1.0)]
    for key in compute_metrics(rows, best_of=[1]):
        assert describe(key).meaning, key
    assert all(info.label and info.meaning.endswith(".") for info in METRICS.values())
    assert set(HEADLINE) <= set(METRICS)


@pytest.mark.parametrize(
    ("key", "label", "unit"),
    [
        ("mean@8", "mean@8", "percent"),
        ("best_of_4", "best of 4", "percent"),
        ("critical_path", "critical path", "steps"),
        ("parallel.tokens@8", "parallel.tokens@8", "tokens"),
        ("parallel@8", "parallel@8", "percent"),
        ("sequential_tokens@8", "sequential_tokens@8", "percent"),
        ("gain_any_prefix@0.5", "gain_any_prefix@0.5", "percent"),
        ("loss", "loss", "nats"),
        ("mean@k", "mean@k", "percent"),
    ],
)
def test_a_key_has_a_label_and_a_unit(key, label, unit):
    assert (describe(key).label, describe(key).unit) == (label, unit)


def test_people_read_shares_in_percent():
    nan = float("nan")
    assert show("mean@8", {"value": 0.4688, "low": 0.312, "high": 0.625}) == "46.9% [31.2, 62.5]"
    assert show("tokens", {"value": 24.31, "low": 22.0, "high": 26.125}) == "24.31 [22, 26.12]"
    assert show("tokens", {"value": 16384.3, "low": 15912.1, "high": 17012.9}) == "16384 [15912, 17013]"
    assert show("tokens", {"value": 1004.0, "low": 992.25, "high": 1015.0}, "+") == "+1004 [+992, +1015]"
    assert show("critical_path", {"value": 9999.96}) == "10000"
    assert show("right_path", {"value": nan, "low": nan, "high": nan}) == ""
    assert show("right_path", {"value": 0.5, "low": None, "high": None}) == "50.0%"
    found = {"mean@2": {"value": 1.0, "low": 1.0, "high": 1.0}, "tokens": {"value": 3.0, "low": 3.0, "high": 3.0}}
    assert headline(found) == "mean@2 100.0% [100.0, 100.0]"
