"""Ways to answer a problem, as a table: which samples a method reads, and what it makes of them.

P is the number of paths of the parallel response that a method is compared with. Ties count their expected share. The
samples of a problem are one pool: the accuracy of k of them is the exact expectation over draws without replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from polythink.evaluate.metrics import (
    Metric,
    by_problem,
    expected_max,
    interval,
    is_right,
    mark_or_vote,
    mean_at_k,
    measure,
    paired_difference,
    vote,
)

if TYPE_CHECKING:  # the table is read without the engine's parameters
    from polythink.evaluate.study import Samples
    from polythink.evaluate.votes import Paths


@dataclass(frozen=True)
class Method:
    """One way to answer."""

    heading: str
    meaning: str
    pool: Literal["parallel", "reread", "sequential", "sequential_longer"]  # the samples that it reads
    accuracy: Callable[[Sequence[Answered], int], float]  # of an answer that k samples of one problem give
    responses: Callable[[int, int], int] = lambda paths, paid: 1  # k, from P and what P paths' tokens pay for
    among_paths: bool = False  # chooses a path: an answer costs the paths of a response, without its summary


class Answered(NamedTuple):
    """One graded sample: its row of samples.jsonl, and the paths of its first block."""

    row: dict
    paths: Paths


def _summary(group: Sequence[Answered], k: int) -> float:
    return mean_at_k([is_right(sample.row) for sample in group])


def _path(value: Callable[[Paths], float]) -> Callable[[Sequence[Answered], int], float]:
    return lambda group, k: sum(value(sample.paths) for sample in group) / len(group)


def _vote(group: Sequence[Answered], k: int) -> float:
    return vote([sample.row for sample in group], k)


def _mark_or_vote(group: Sequence[Answered], k: int) -> float:
    return mark_or_vote([sample.row for sample in group], k)


METHODS = {
    "parallel": Method("parallel", "P paths and a summary that reads their own keys and values", "parallel", _summary),
    "reread": Method("re-prefill", "the same paths as flat text, read again, and a new summary", "reread", _summary),
    "majority_paths": Method(
        "majority of the paths", "the most frequent of the same paths' own answers", "parallel",
        _path(lambda paths: paths.majority), among_paths=True,
    ),
    "marked_path": Method(
        "marked path", "one of the same paths that marks itself as correct", "parallel",
        _path(lambda paths: paths.by_mark), among_paths=True,
    ),
    "oracle": Method(
        "oracle", "correct if any of the same paths is", "parallel",
        _path(lambda paths: float(any(paths.right))), among_paths=True,
    ),
    "sequential": Method("sequential", "one response, as long as a response of one path may be", "sequential", _vote),
    "sequential_longer": Method(
        "sequential, P times as long", "one response with the path budget of all P paths", "sequential_longer", _vote
    ),
    "sequential_tokens": Method(
        "sequential, same tokens", "as many responses as the parallel one's tokens pay for, one chosen by mark or vote",
        "sequential", _mark_or_vote, lambda paths, paid: paid,
    ),
    "majority_sequential": Method(
        "majority of P sequential", "the most frequent answer of P independent responses", "sequential", _vote,
        lambda paths, paid: paths,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One method at one number of paths: what an answer is worth and what it costs."""

    method: str
    paths: int  # P
    responses: int  # drawn for one answer
    metrics: dict[str, Metric]  # accuracy, tokens, critical_path; with a summary right_path and summary_right
    seconds: float | None  # per answer; None for a choice among the paths of another method's responses
    forwarded: float | None  # tokens run through the model per answer, prompts included

    def row(self, parallel: Result | None) -> dict:
        """A row of compare.json. `difference` is the accuracy of as many parallel paths minus this one, paired."""
        found = dict(self.metrics)
        if parallel not in (None, self):
            found["difference"] = paired_difference(parallel.metrics["accuracy"], self.metrics["accuracy"])
        facts = {key: getattr(self, key) for key in ("method", "paths", "responses", "seconds", "forwarded")}
        return facts | {key: vars(interval(metric)) for key, metric in found.items()}


def reduce_samples(name: str, paths: int, samples: Samples, k: int = 1) -> Result:
    """The method `name` at `paths` paths, where one answer takes k of a problem's samples."""
    method = METHODS[name]
    groups = by_problem(samples.rows, map(Answered, samples.rows, samples.paths))

    def cost(group: Sequence[Answered], key: str) -> list[float]:
        return [getattr(sample.paths, key) if method.among_paths else sample.row[key] for sample in group]

    def has_right_path(sample: Answered) -> bool:
        return sample.paths.block and any(sample.paths.right)

    metrics = {
        "accuracy": measure(groups, lambda g: method.accuracy(g, k)),
        "tokens": measure(groups, lambda g: k * sum(cost(g, "tokens")) / len(g)),
        "critical_path": measure(groups, lambda g: expected_max(cost(g, "critical_path"), k)),
    }
    if method.accuracy is _summary:
        with_path = {key: list(filter(has_right_path, group)) for key, group in groups.items()}
        metrics["right_path"] = measure(
            groups, lambda g: sum(map(has_right_path, g)), lambda g: sum(sample.paths.block for sample in g)
        )
        metrics["summary_right"] = measure(with_path, lambda g: sum(is_right(sample.row) for sample in g), len)
    each = [None if method.among_paths else k * x / len(samples.rows) for x in (samples.seconds, samples.forwarded)]
    return Result(name, paths, k, metrics, *each)
