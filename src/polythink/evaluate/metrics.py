"""Metrics over problems with k samples each, and what they are worth: percentile bootstrap intervals over problems.

A metric is a ratio of two sums over problems (`Metric`): a mean has the denominator 1 for every problem, a share such
as "right, given a right path" has the number of its cases. Problems are drawn anew in the bootstrap, samples are not:
the interval speaks of other problems of the kind, at this number of samples.

Axis legend: P problems, B bootstrap draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from polythink.run.jsonl import read_jsonl, write_jsonl

DRAWS = 2000
AMOUNTS = ("tokens", "critical_path", "truncated", "loss", "perplexity", "word_perplexity")  # all others are shares


# ---- one problem ----


def mean_at_k(right: Sequence[bool]) -> float:
    """The share of right samples."""
    return sum(right) / len(right)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The probability that k samples drawn without replacement from n, of which `right` are right, hold a right one.

    1 - C(n - right, k) / C(n, k): the unbiased estimator of Chen et al. (arXiv 2107.03374), in exact integers.
    """
    assert 1 <= k <= n
    return 1 - comb(n - right, k) / comb(n, k)


def maj_at_k(votes: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """The expected accuracy of the most voted answer among k samples drawn without replacement.

    `votes` are normalised answers; None (nothing extracted) is no vote. A tie is broken at random, so it counts its
    share; where nobody votes the majority is wrong. Exact, for any k up to the number of samples: for each right
    answer and each number t of votes for it, the draws in which nothing beats t are counted.
    """
    assert 1 <= k <= len(votes)
    sizes = Counter(vote for vote in votes if vote is not None)
    correct = Counter(vote for vote, r in zip(votes, right, strict=True) if r and vote is not None)
    expected = 0.0
    for answer, n_right in correct.items():
        others = [size for other, size in sizes.items() if other != answer]
        silent = len(votes) - sum(sizes.values())
        for t in range(1, min(k, sizes[answer]) + 1):
            ways = _draws_not_above(others, silent, k - t, t)
            share = sum(count / (1 + ties) for ties, count in ways.items())
            expected += n_right / sizes[answer] * comb(sizes[answer], t) * share
    return expected / comb(len(votes), k)


def _draws_not_above(sizes: Sequence[int], silent: int, k: int, t: int) -> Counter[int]:
    """Number of ways to draw k samples from groups of `sizes` and `silent` others so that no group gets more than t,
    by how many groups get exactly t."""
    ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})  # (drawn, ties) -> ways
    for size in sizes:
        longer: Counter[tuple[int, int]] = Counter()
        for (drawn, ties), count in ways.items():
            for take in range(min(size, t, k - drawn) + 1):
                longer[drawn + take, ties + (take == t)] += count * comb(size, take)
        ways = longer
    by_ties: Counter[int] = Counter()
    for (drawn, ties), count in ways.items():
        by_ties[ties] += count * comb(silent, k - drawn)
    return by_ties


def best_of_n(marked: Sequence[bool], right: Sequence[bool], n: int) -> float:
    """The expected accuracy of the first of n chains that is marked by itself, of the first one where none is.

    The n chains are drawn without replacement and in random order from all samples: with m of N marked, a marked one
    is chosen with probability `pass_at_k(N, m, n)`, any of them equally likely.
    """
    assert 1 <= n <= len(right)
    inside = [r for r, m in zip(right, marked, strict=True) if m]
    outside = [r for r, m in zip(right, marked, strict=True) if not m]
    p_marked = pass_at_k(len(right), len(inside), n)
    return sum(p * mean_at_k(group) for p, group in ((p_marked, inside), (1 - p_marked, outside)) if group)


def expected_max(values: Sequence[float], k: int) -> float:
    """The expected largest of k values drawn without replacement: the i-th smallest is it in C(i - 1, k - 1) draws."""
    assert 1 <= k <= len(values)
    return sum(value * comb(i, k - 1) for i, value in enumerate(sorted(values))) / comb(len(values), k)


# ---- all problems ----


@dataclass(frozen=True)
class Metric:
    """One metric, problem by problem: its value is sum(numerator) / sum(denominator)."""

    keys: tuple[str, ...]  # (P,)
    numerator: np.ndarray  # (P,) float64
    denominator: np.ndarray  # (P,) float64

    @property
    def value(self) -> float:
        """nan where the denominator is 0: a share of nothing."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total else float("nan")


def measure(
    groups: Mapping[str, Sequence[Any]],
    top: Callable[[Sequence[Any]], float],
    bottom: Callable[[Sequence[Any]], float] = lambda group: 1,
) -> Metric:
    """`top` and `bottom` of each problem's items."""
    columns = (np.array([f(group) for group in groups.values()], float) for f in (top, bottom))
    return Metric(tuple(groups), *columns)


def mean_over(groups: Mapping[str, Sequence[Any]], value: Callable[[Any], float]) -> Metric:
    """The mean of each problem's items, every problem counted once."""
    return measure(groups, lambda group: sum(map(value, group)) / len(group))


def paired_difference(a: Metric, b: Metric) -> Metric:
    """a - b problem by problem, where both count every problem once: its interval is that of the paired difference."""
    assert a.keys == b.keys, "a paired difference needs the same problems in the same order"
    assert np.all(b.denominator == 1)
    assert np.all(a.denominator == 1)
    return Metric(a.keys, a.numerator - b.numerator, a.denominator)


def pool(runs: Sequence[Metric]) -> Metric:
    """The same metric over several runs (seeds) on the same problems: their samples count together."""
    assert all(run.keys == runs[0].keys for run in runs), "runs can be pooled on the same problems only"
    return Metric(runs[0].keys, sum(r.numerator for r in runs), sum(r.denominator for r in runs))


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


def interval(measure: Metric, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Percentile bootstrap over problems. The same seed draws the same problems for every measure of P problems."""
    return _percentiles(measure.value, _bootstrap(measure, draws, seed), level)


def difference(a: Metric, b: Metric, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The paired difference a - b, both measured on the same problems; each draw takes the same ones of both."""
    assert a.keys == b.keys, "a paired difference needs the same problems in the same order"
    return _percentiles(a.value - b.value, _bootstrap(a, draws, seed) - _bootstrap(b, draws, seed), level)


def _bootstrap(measure: Metric, draws: int, seed: int) -> np.ndarray:
    """(B,) the metric over problems drawn with replacement; nan where a draw holds no case of it."""
    n = len(measure.keys)
    chosen_BP = np.random.default_rng(seed).integers(0, n, size=(draws, n))
    top, bottom = measure.numerator[chosen_BP].sum(1), measure.denominator[chosen_BP].sum(1)
    return np.divide(top, bottom, out=np.full(draws, np.nan), where=bottom > 0)


def _percentiles(value: float, drawn: np.ndarray, level: float) -> Estimate:
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


# ---- from rows of samples.jsonl ----


def compute_metrics(rows: Sequence[dict], best_of: Sequence[int] = ()) -> dict[str, Metric]:
    """Every metric of a set of graded samples (rows of samples.jsonl), in the order in which they are shown.

    k is the number of samples that every problem has. `best_of` asks for `best_of_n` lines for chains that carry a
    mark of their own (a row's `marked`, True or False), and for the majority of n where they carry none.
    """
    groups = by_problem(rows)
    sizes = {len(group) for group in groups.values()}
    assert len(sizes) == 1, f"problems have different numbers of samples: {sorted(sizes)}"
    (k,) = sizes
    found: dict[str, Metric] = {}

    def add(name: str, *sums: Callable[[Sequence[dict]], float]) -> None:
        found[name] = measure(groups, *sums)

    def mean_of(name: str, value: Callable[[dict], float]) -> None:
        add(name, lambda g: sum(value(row) for row in g), len)

    add(f"mean@{k}", lambda g: mean_at_k(_right(g)))
    add(f"pass@{k}", lambda g: pass_at_k(k, sum(_right(g)), k))
    add(f"maj@{k}", lambda g: maj_at_k(_votes(g), _right(g), k))
    for n in best_of:
        add(f"best_of_{n}", lambda g, n=n: _best_of(g, n))
    mean_of("parallel_ratio", lambda row: row["complete_blocks"] > 0)
    mean_of("well_formed", lambda row: row["well_formed"])
    add("right_path", lambda g: sum(map(_has_right_path, g)), lambda g: sum(row["blocks"] > 0 for row in g))
    add(
        "summary_right",
        lambda g: sum(_has_right_path(row) and _is_right(row) for row in g),
        lambda g: sum(map(_has_right_path, g)),
    )
    shown = ("right_lines",) if all("right_lines" in row for row in rows) else ()
    for name in (*shown, "tokens", "critical_path", "truncated"):
        mean_of(name, lambda row, name=name: row[name])
    return found


def by_problem(rows: Sequence[dict], items: Iterable[Any] | None = None) -> dict[str, list[Any]]:
    """`items`, one a row (the rows themselves if None), by their row's problem, in order of appearance."""
    groups: dict[str, list[Any]] = {}
    for row, item in zip(rows, rows if items is None else items, strict=True):
        groups.setdefault(row["problem"], []).append(item)
    return groups


def normalise(answer: str | None) -> str | None:
    """The form in which extracted answers are compared as votes: without white space, `$` and a final point."""
    if answer is None:
        return None
    return "".join(answer.split()).replace("$", "").rstrip(".") or None


def _is_right(row: dict) -> bool:
    return row["verdict"] == "right"


def _right(group: Sequence[dict]) -> list[bool]:
    return [_is_right(row) for row in group]


def _votes(group: Sequence[dict]) -> list[str | None]:
    return [normalise(row["extracted"]) for row in group]


def _best_of(group: Sequence[dict], n: int) -> float:
    marks = [row.get("marked") for row in group]
    if None in marks:
        return maj_at_k(_votes(group), _right(group), n)
    return best_of_n(marks, _right(group), n)


def _has_right_path(row: dict) -> bool:
    return any(segment.get("right") for segment in row["segments"])


# ---- as a file ----


def write_measures(path: Path, found: Mapping[str, Metric]) -> None:
    """A row a problem: {problem, metrics: {name: [numerator, denominator]}}, for differences between runs."""
    rows: dict[str, dict[str, list[float]]] = {}
    for name, measure in found.items():
        for key, *sums in zip(measure.keys, measure.numerator.tolist(), measure.denominator.tolist(), strict=True):
            rows.setdefault(key, {})[name] = sums
    write_jsonl(path, ({"problem": key, "metrics": metrics} for key, metrics in rows.items()))


def read_measures(path: Path) -> dict[str, Metric]:
    """What `write_measures` wrote; a metric need not have been measured on every problem."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in read_jsonl(path):
        for name, sums in row["metrics"].items():
            found.setdefault(name, {})[row["problem"]] = sums
    return {name: Metric(tuple(by_key), *np.array(list(by_key.values()), float).T) for name, by_key in found.items()}
