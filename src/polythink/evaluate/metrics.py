"""Metrics over problems with k samples each, with bootstrap intervals, and what each metric means.

A metric is a ratio of two sums over problems (`Metric`): a mean has the denominator 1 for every problem, a share such
as "correct, given a correct path" has the number of its cases. The bootstrap resamples problems, not samples: an
interval is about other problems of the same kind, at this number of samples. It covers what it says for means, and
for shares of many cases; of a share of some 30 cases it covers about 85% (`few_cases_note`).

Axis legend: P problems, B bootstrap draws.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import comb, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from polythink.evaluate.voting import maj_at_k, normalise
from polythink.problems.tasks.table import get_task
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.trace.rollout import STOPPED

DRAWS = 2000
FEW_CASES = 60  # a share of fewer has an interval that is too narrow


# ---- names ----


@dataclass(frozen=True)
class MetricInfo:
    """What people read about a metric."""

    label: str  # "{k}" stands for the number in the key
    unit: str  # "percent" for a share between 0 and 1, otherwise what is counted; "" for a pure number
    meaning: str  # one sentence


# Key in the JSON files (the number replaced by k) -> what it means, in the order in which metrics are shown.
METRICS = {
    "mean@k": MetricInfo("mean@{k}", "percent", "Share of correct samples, k samples per problem."),
    "pass@k": MetricInfo("pass@{k}", "percent", "Share of problems with a correct sample among k."),
    "maj@k": MetricInfo("maj@{k}", "percent", "Share of problems whose most frequent answer of k is correct."),
    "greedy": MetricInfo("greedy", "percent", "Accuracy at temperature 0 (isolated paths are still sampled)."),
    "best_of_k": MetricInfo("best of {k}", "percent", "Accuracy of one of k samples, chosen by mark or by vote."),
    "parallel_ratio": MetricInfo("parallel ratio", "percent", "Share of traces with at least one well-formed block."),
    "well_formed": MetricInfo("well formed", "percent", "Share of traces that the strict rule accepts."),
    "right_path": MetricInfo("some path correct", "percent", "Of the traces with a block: share with a correct path."),
    "summary_right": MetricInfo(
        "summary correct given that", "percent", "Of the traces with a correct path: share with a correct final answer."
    ),
    "right_lines": MetricInfo("correct lines", "percent", "Share of the summary's lines that report their path truly."),
    "tokens": MetricInfo("tokens", "tokens", "Mean length of a response: all paths, and what is read again."),
    "critical_path": MetricInfo("critical path", "steps", "Mean number of sequential steps of a response."),
    "truncated": MetricInfo("truncated", "segments", "Mean number of segments per trace that were cut short."),
    "joined": MetricInfo("joined early", "paths", "Mean number of paths per trace that were stopped at the join."),
    "agreed": MetricInfo("agreed", "paths", "Mean number of paths per trace that were stopped since the paths agree."),
    "pruned": MetricInfo("pruned", "paths", "Mean number of paths per trace that a controller pruned."),
    "logprob_gap": MetricInfo(
        "log-probability gap", "nats", "Largest difference between a recorded log-probability and the trainer's."
    ),
    "logprob_gap_mean": MetricInfo("mean log-probability gap", "nats", "The mean of these differences."),
    "mismatch_kl": MetricInfo(
        "mismatch KL", "nats", "KL(sampler || trainer) per sampled token, the k3 estimate: mean of exp(d) - d - 1."
    ),
    "exact": MetricInfo("exact match", "percent", "Share of outputs that equal the reference."),
    "bleu": MetricInfo("BLEU", "percent", "Corpus BLEU by sacrebleu: n-grams shared with the reference."),
    "rouge1": MetricInfo("ROUGE-1", "percent", "Words shared with the reference, F1."),
    "rouge2": MetricInfo("ROUGE-2", "percent", "Pairs of words shared with the reference, F1."),
    "rougeL": MetricInfo("ROUGE-L", "percent", "Longest common subsequence of words with the reference, F1."),
    "loss": MetricInfo("loss", "nats", "Mean negative log-likelihood per target token under teacher forcing."),
    "valid_loss": MetricInfo("validation loss", "nats", "The same on the validation texts, during training."),
    "perplexity": MetricInfo("perplexity", "", "The exponential of the loss."),
    "word_perplexity": MetricInfo("word perplexity", "", "Perplexity per word; the end of a text counts as a word."),
}  # fmt: skip
SCORES = ("bleu", "rouge1", "rouge2", "rougeL")  # of 100, by custom without the sign %
HEADLINE = ("mean@k", "pass@k", "maj@k", "parallel_ratio")


def general_key(key: str) -> str:
    """The key in `METRICS`: `mean@8` -> `mean@k`, `best_of_4` -> `best_of_k`, `parallel.tokens@8` -> `tokens`."""
    general = re.sub(r"(?<=@)[\d.]+$|(?<=^best_of_)\d+$", "k", key)
    return general if general in METRICS else key.partition("@")[0].rpartition(".")[2]


def describe(key: str) -> MetricInfo:
    """What people read about a metric. A key that is not in `METRICS` (`parallel@8` of a study) is a share."""
    general = general_key(key)
    known = METRICS.get(general, MetricInfo(key, "percent", ""))
    number = re.search(r"\d+$", key)
    own = "{k}" in known.label or general == key  # else a metric of one method in a study
    return replace(known, label=known.label.format(k=number[0] if number else "k") if own else key)


def show(key: str, estimate: Mapping[str, float | None], sign: str = "") -> str:
    """An estimate for people, shares in percent: `46.9% [31.2, 62.5]`, `24.3 [22.0, 26.1]`; "" without a value.

    With `sign="+"` it is a difference: `+3.1 [-1.2, 7.4]`, of shares in percentage points.
    """
    share = describe(key).unit == "percent"
    known = [x for end in ("value", "low", "high") if (x := estimate.get(end)) is not None and isfinite(x)]
    form = ".0f" if any(abs(x) >= 1000 for x in known) else ".4g"  # one form for all three; .4g alone says 1.638e+04
    value, *ends = [f"{100 * x:{sign}.1f}" if share else f"{x:{sign}{form}}" for x in known] or [""]
    interval = f" [{', '.join(ends)}]" if ends else ""
    percent = share and known and not sign and general_key(key) not in SCORES
    return f"{value}{'%' if percent else ''}{interval}"


def headline(found: Mapping[str, Mapping[str, float | None]]) -> str:
    """The metrics that people look for first, in one line."""
    return ", ".join(f"{key} {show(key, value)}" for key, value in found.items() if general_key(key) in HEADLINE)


# ---- one problem ----


def mean_at_k(right: Sequence[bool]) -> float:
    """The share of correct samples."""
    return sum(right) / len(right)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The probability that k of n samples, drawn without replacement, hold one of the `right` correct ones.

    1 - C(n - right, k) / C(n, k): the unbiased estimator of Chen et al. (arXiv 2107.03374), in exact integers.
    """
    assert 1 <= k <= n
    return 1 - comb(n - right, k) / comb(n, k)


def best_of_n(marked: Sequence[bool], right: Sequence[bool], n: int) -> float:
    """The expected accuracy of the first of n samples that carries its own mark, or of the first one if none does.

    The n samples are drawn without replacement and in random order: with m of N marked, a marked one is chosen with
    probability `pass_at_k(N, m, n)`, each of them equally likely.
    """
    assert 1 <= n <= len(right)
    inside = [r for r, m in zip(right, marked, strict=True) if m]
    outside = [r for r, m in zip(right, marked, strict=True) if not m]
    p_marked = pass_at_k(len(right), len(inside), n)
    return sum(p * mean_at_k(group) for p, group in ((p_marked, inside), (1 - p_marked, outside)) if group)


def expected_max(values: Sequence[float], k: int) -> float:
    """The expected maximum of k values drawn without replacement: the i-th smallest is it in C(i - 1, k - 1) draws."""
    assert 1 <= k <= len(values)
    return sum(value * comb(i, k - 1) for i, value in enumerate(sorted(values))) / comb(len(values), k)


# ---- all problems ----


@dataclass(frozen=True)
class Metric:
    """One metric, per problem: its value is sum(numerator) / sum(denominator)."""

    keys: tuple[str, ...]  # (P,)
    numerator: np.ndarray  # (P,) float64
    denominator: np.ndarray  # (P,) float64

    @property
    def value(self) -> float:
        """nan where the denominator is 0: a share of nothing."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total else float("nan")

    @cached_property
    def estimate(self) -> Estimate:
        """The value with its 95% bootstrap interval."""
        return interval(self)


def measure(
    groups: Mapping[str, Sequence[Any]],
    top: Callable[[Sequence[Any]], float],
    bottom: Callable[[Sequence[Any]], float] = lambda group: 1,
) -> Metric:
    """`top` and `bottom` of each problem's items."""
    columns = (np.array([f(group) for group in groups.values()], float) for f in (top, bottom))
    return Metric(tuple(groups), *columns)


def share(
    groups: Mapping[str, Sequence[Any]], top: Callable[[Any], float], bottom: Callable[[Any], float] = lambda item: 1
) -> Metric:
    """The sum of `top` over all items, divided by that of `bottom`: by default the mean of all items."""
    return measure(groups, lambda group: sum(map(top, group)), lambda group: sum(map(bottom, group)))


def mean_over(groups: Mapping[str, Sequence[Any]], value: Callable[[Any], float]) -> Metric:
    """The mean of each problem's items, every problem counted once."""
    return measure(groups, lambda group: sum(map(value, group)) / len(group))


def paired_difference(a: Metric, b: Metric) -> Metric:
    """a - b per problem, where both count every problem once; its interval is that of the paired difference."""
    assert a.keys == b.keys, "a paired difference needs the same problems in the same order"
    assert np.all(b.denominator == 1)
    assert np.all(a.denominator == 1)
    return Metric(a.keys, a.numerator - b.numerator, a.denominator)


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


def interval(metric: Metric, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """95% percentile bootstrap over problems. A seed resamples the same problems for every metric of P problems."""
    return _percentiles(metric.value, _bootstrap(metric, draws, seed))


def difference(a: Metric, b: Metric) -> Estimate:
    """The paired difference a - b of metrics on the same problems; each draw resamples the same problems for both."""
    assert a.keys == b.keys, "a paired difference needs the same problems in the same order"
    return _percentiles(a.value - b.value, _bootstrap(a) - _bootstrap(b))


def _bootstrap(metric: Metric, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(B,) the metric over problems drawn with replacement; nan where a draw holds no case of the metric."""
    n = len(metric.keys)
    chosen_BP = np.random.default_rng(seed).integers(0, n, size=(draws, n))
    top, bottom = metric.numerator[chosen_BP].sum(1), metric.denominator[chosen_BP].sum(1)
    return np.divide(top, bottom, out=np.full(draws, np.nan), where=bottom > 0)


def _percentiles(value: float, drawn: np.ndarray) -> Estimate:
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


def few_cases_note(found: Mapping[str, Metric]) -> str | None:
    """What is said of shares of few cases, whose number differs from problem to problem; None without any."""
    cases = {name: int(m.denominator.sum()) for name, m in found.items() if np.ptp(m.denominator) > 0}
    few = [f"{name} ({n})" for name, n in cases.items() if n < FEW_CASES]
    if not few:
        return None
    shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return f"shares of fewer than {FEW_CASES} cases, whose intervals are too narrow (95% is about 85%): {shown}"


# ---- from rows of samples.jsonl ----


def compute_metrics(
    rows: Sequence[dict], best_of: Sequence[int] = (), wanted: Iterable[str] = METRICS
) -> dict[str, Metric]:
    """Every metric of graded samples (rows of samples.jsonl) that is `wanted`, in the order of `METRICS`.

    Every problem has the same number k of samples. Each n of `best_of` adds `best_of_n`: by the samples' own marks (a
    row's `marked`, True or False), or by majority where the task has no marks.
    """
    groups = by_problem(rows)
    sizes = {len(group) for group in groups.values()}
    assert len(sizes) == 1, f"problems have different numbers of samples: {sorted(sizes)}"
    (k,) = sizes
    amounts = ["right_lines"] * all("right_lines" in row for row in rows) + ["tokens", "critical_path", "truncated"]
    amounts += [reason for reason in STOPPED if any(row.get(reason) for row in rows)]
    found = {
        f"mean@{k}": partial(measure, groups, lambda group: mean_at_k(list(map(is_right, group)))),
        f"pass@{k}": partial(measure, groups, lambda group: pass_at_k(k, sum(map(is_right, group)), k)),
        f"maj@{k}": partial(measure, groups, lambda group: vote(group, k)),
        **{f"best_of_{n}": partial(measure, groups, lambda group, n=n: mark_or_vote(group, n)) for n in best_of},
        "parallel_ratio": partial(share, groups, lambda row: row["complete_blocks"] > 0),
        "well_formed": partial(share, groups, lambda row: row["well_formed"]),
        "right_path": partial(share, groups, _has_right_path, lambda row: row["blocks"] > 0),
        "summary_right": partial(share, groups, lambda row: _has_right_path(row) and is_right(row), _has_right_path),
        **{key: partial(share, groups, lambda row, key=key: row[key]) for key in amounts},
    }
    wanted = set(wanted)
    return {key: measured() for key, measured in found.items() if general_key(key) in wanted}


def by_problem(rows: Sequence[dict], items: Iterable[Any] | None = None) -> dict[str, list[Any]]:
    """`items`, one per row (the rows themselves if None), by their row's problem, in order of appearance."""
    groups: dict[str, list[Any]] = {}
    for row, item in zip(rows, rows if items is None else items, strict=True):
        groups.setdefault(row["problem"], []).append(item)
    return groups


def is_right(row: dict) -> bool:
    return row["verdict"] == "right"


def vote(group: Sequence[dict], k: int) -> float:
    """maj@k of one problem's rows."""
    task = get_task(group[0].get("checker"))
    votes, right = [normalise(row["extracted"], task) for row in group], list(map(is_right, group))
    return maj_at_k(votes, right, k, task.by_value)


def mark_or_vote(group: Sequence[dict], k: int) -> float:
    """Best of k of one problem's rows by their own marks, or by vote where the task has none."""
    marks = [row.get("marked") for row in group]
    return vote(group, k) if None in marks else best_of_n(marks, list(map(is_right, group)), k)


def _has_right_path(row: dict) -> bool:
    return any(segment.get("right") for segment in row["segments"])


# ---- as a file ----


def write_measures(path: Path, found: Mapping[str, Metric]) -> None:
    """Write one row per problem, {problem, metrics: {name: [numerator, denominator]}}, to compare runs with."""
    rows: dict[str, dict[str, list[float]]] = {}
    for name, measure in found.items():
        for key, *sums in zip(measure.keys, measure.numerator.tolist(), measure.denominator.tolist(), strict=True):
            rows.setdefault(key, {})[name] = sums
    write_jsonl(path, ({"problem": key, "metrics": metrics} for key, metrics in rows.items()))


def read_measures(path: Path) -> dict[str, Metric]:
    """Read what `write_measures` wrote; a metric may have been measured on some of the problems only."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in read_jsonl(path):
        for name, sums in row["metrics"].items():
            found.setdefault(name, {})[row["problem"]] = sums
    return {name: Metric(tuple(by_key), *np.array(list(by_key.values()), float).T) for name, by_key in found.items()}
