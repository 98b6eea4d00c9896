"""Ways to answer a problem, as a table: which samples a method reads, what it makes of them, how they are sampled.

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
    is_right,
    mark_or_vote,
    mean_at_k,
    measure,
    share,
    vote,
)
from polythink.trace.modes import get_mode

if TYPE_CHECKING:  # reports read the table, which needs neither the engine's parameters nor a grader
    from polythink.engine.params import SamplingParams
    from polythink.evaluate.samples import Paths, Samples

ROOM_AT_A_JOIN = 256  # tokens for tags and a forced prefix of the summary


@dataclass(frozen=True)
class Method:
    """One way to answer."""

    heading: str
    meaning: str
    pool: Literal["parallel", "reread", "sequential", "sequential_longer"]  # the samples that it reads
    accuracy: Callable[[Sequence[Answered], int], float]  # of an answer that k samples of one problem give
    responses: Callable[[int, int], int] = lambda paths, paid: 1  # k, from P and what P paths' tokens pay for
    among_paths: bool = False  # chooses a path: an answer costs the paths of a response, without its summary
    single: bool = False  # one response whatever P is: measured once


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
    "parallel": Method("parallel", "P paths and a summary that reads them, as the mode says", "parallel", _summary),
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
    "sequential": Method(
        "sequential", "one response, as long as a response of one path may be", "sequential", _vote, single=True
    ),
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


def reduce_samples(name: str, paths: int, samples: Samples, k: int = 1) -> Result:
    """The method `name` at `paths` paths, where one answer takes k of a problem's samples.

    What a join reads again is no part of its tokens (`own_tokens`); it costs forwarded tokens and seconds.
    """
    method = METHODS[name]
    groups = by_problem(samples.rows, map(Answered, samples.rows, samples.paths))

    def cost(group: Sequence[Answered], key: str) -> list[float]:
        if method.among_paths:
            return [getattr(sample.paths, key) for sample in group]
        return [own_tokens(sample.row) if key == "tokens" else sample.row[key] for sample in group]

    def has_right_path(sample: Answered) -> bool:
        return sample.paths.block and any(sample.paths.right)

    metrics = {
        "accuracy": measure(groups, lambda group: method.accuracy(group, k)),
        "tokens": measure(groups, lambda group: k * sum(cost(group, "tokens")) / len(group)),
        "critical_path": measure(groups, lambda group: expected_max(cost(group, "critical_path"), k)),
    }
    if method.accuracy is _summary:
        metrics["right_path"] = share(groups, has_right_path, lambda sample: sample.paths.block)
        metrics["summary_right"] = share(
            groups, lambda sample: has_right_path(sample) and is_right(sample.row), has_right_path
        )
    each = [None if method.among_paths else k * x / len(samples.rows) for x in (samples.seconds, samples.forwarded)]
    return Result(name, paths, k, metrics, *each)


def own_tokens(row: dict) -> int:
    """The tokens that a response costs in a comparison: those of its text, without what a join reads again."""
    return row["tokens"] - row.get("read_again", 0)


# ---- sampling parameters ----


def with_fixed_path_temperature(params: SamplingParams) -> SamplingParams:
    """Set the temperature of paths to that of several paths, so that it does not depend on their number."""
    several = params.model_copy(update={"paths": max(2, params.paths)})
    return params.model_copy(update={"path_temperature": several.temperature_of("path")})


def with_paths(params: SamplingParams, paths: int, path_tokens: int | None = None) -> SamplingParams:
    """The same decoding with `paths` paths of `path_tokens` each; the trace's budget grows where they need more.

    Paths that are read again have room too, so that the paths of every mode have the same budgets. A
    path_position_stride stays as it is, since the model was trained with it, unless the paths would overlap.
    """
    tokens = path_tokens or params.max_path_tokens
    times = 1 + get_mode(params.mode).rereads
    block = times * paths * (tokens + 2) + params.max_summary_tokens + ROOM_AT_A_JOIN
    whole = params.max_main_tokens + max(1, params.max_blocks) * block
    changes = {"paths": paths, "max_path_tokens": tokens, "max_trace_tokens": max(params.max_trace_tokens, whole)}
    stride = max(params.stride, tokens + 2) if params.stride else 0
    return params.model_copy(update=changes | {"path_position_stride": stride})


def in_sequence(params: SamplingParams, tokens: int) -> SamplingParams:
    """One ordinary response of at most `tokens` tokens, at the temperature of paths."""
    temperature = params.temperature_of("path")
    changes = {"mode": "sequential", "temperature": temperature, "max_main_tokens": tokens, "max_trace_tokens": tokens}
    return params.model_copy(update=changes)


def read_again(params: SamplingParams, paths: int) -> SamplingParams:
    """The same `paths` paths, joined by reading their text again. Random streams are the same, so are the paths."""
    return with_paths(params.model_copy(update={"mode": "reread"}), paths)


def sequential_budget(params: SamplingParams, sequential_tokens: int | None = None, paths: int = 1) -> int:
    """Tokens of a sequential response that may be as long as main text and every block, of `paths` paths and a summary.

    Blocks are counted as in `with_paths`. `sequential_tokens` is given for one path, or None.
    """
    blocks = max(1, params.max_blocks)
    once = params.max_main_tokens + blocks * (params.max_path_tokens + params.max_summary_tokens)
    return (sequential_tokens or once) + (paths - 1) * blocks * params.max_path_tokens
