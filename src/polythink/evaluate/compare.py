"""Parallel paths compared with everything else that the same model could do with the same tokens.

Every method of `methods.METHODS` answers the same problems, for each number of paths P. Methods share what they read:
the P paths are drawn once, and all sequential responses of a problem are one pool. What is measured of the paths of a
response is that of its first block; a response without a block counts as its own only path. Seconds are those of one
pass, one method after another: they are no benchmark.

Writes, under `out`: compare.json, measures.jsonl (every metric per problem), samples-POOL-P.jsonl; with a `name`
compare-NAME.json and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Unpack

from polythink.engine.params import SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.evaluate.config import CompareConfig, asked_of, numbers_of_paths
from polythink.evaluate.methods import (
    METHODS,
    Result,
    in_sequence,
    own_tokens,
    read_again,
    reduce_samples,
    sequential_budget,
    with_fixed_path_temperature,
    with_paths,
)
from polythink.evaluate.metrics import Metric, by_problem, mean_over, paired_difference
from polythink.evaluate.samples import Samples, fork_end
from polythink.evaluate.study import Problems, Study, StudyOptions, hashed, open_study
from polythink.problems.prompts import Prompt, get_prompt
from polythink.trace.modes import get_mode
from polythink.trace.rollout import Rollout

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel


def compare(
    backend: RolloutBackend | LanguageModel, problems: Problems, options: CompareConfig, **how: Unpack[StudyOptions]
) -> dict:
    """Draw and measure every method, and return what compare.json holds. Other arguments as in `evaluate`.

    Random streams are named by (seed, problem, sample, segment): responses of different P share their first paths,
    where these have the same numbers, so methods differ by less than independent ones would. `UserError` before
    anything is drawn for more paths than the dialect has numbers or the model can join.
    """
    alone = get_prompt(options.sequential_prompt)
    question = {"also": [alone], "options": asked_of(options, CompareConfig), "sequential_prompt": hashed(alone)}
    with open_study(backend, problems, "compare", **how, **question) as study:
        if study.finished:
            return study.finished
        numbers, left_out = numbers_of_paths(options.paths, study.params.mode, study.backend.dialect)
        params = with_fixed_path_temperature(study.params)
        for note in left_out:
            study.note(note)
        parallel = _parallel(study, params, options.samples, numbers)
        sequential, longer, paid = _sequential(study, params, options, alone, parallel)
        again = _reread(study, params, options.samples, parallel)
        pools = {"parallel": parallel, "reread": again, "sequential": sequential, "sequential_longer": longer}
        results = [
            reduce_samples(name, 1 if method.single else paths, samples, method.responses(paths, paid[paths]))
            for paths in numbers
            for name, method in METHODS.items()
            if (samples := pools[method.pool].get(paths))
            and not (method.single and paths > numbers[0])
            and not (name == "marked_path" and None in (found.marked for found in samples.paths))
        ]
        metrics = _metrics(results)
        return study.conclude(
            metrics,
            samples=options.samples,
            sequential_tokens=sequential_budget(params, options.sequential_tokens),
            paths=numbers,
            methods=[_row(result, metrics.get(f"gain_{result.method}@{result.paths}")) for result in results],
        )


def _row(result: Result, difference: Metric | None) -> dict:
    """A row of compare.json. `difference` is the accuracy of as many parallel paths minus this one, paired."""
    facts = {key: getattr(result, key) for key in ("method", "paths", "responses", "seconds", "forwarded")}
    found = result.metrics | ({"difference": difference} if difference else {})
    return facts | {key: vars(metric.estimate) for key, metric in found.items()}


def _metrics(results: Sequence[Result]) -> dict[str, Metric]:
    """METHOD@P is an accuracy, METHOD.tokens@P and so on its costs and other shares.

    gain_METHOD@P is the accuracy of P parallel paths minus that of the method, paired; gain_fewer@P minus that of the
    next smaller number of paths.
    """
    parallel = {result.paths: result for result in results if result.method == "parallel"}
    found = {
        f"{result.method}{'' if key == 'accuracy' else '.' + key}@{result.paths}": metric
        for result in results
        for key, metric in result.metrics.items()
    }

    def gain(paths: int, other: Result) -> Metric:
        return paired_difference(parallel[paths].metrics["accuracy"], other.metrics["accuracy"])

    for result in results:
        if result.method != "parallel":
            rivals = parallel if METHODS[result.method].single else (result.paths,)
            found |= {f"gain_{result.method}@{paths}": gain(paths, result) for paths in rivals}
    return found | {f"gain_fewer@{more}": gain(more, parallel[fewer]) for fewer, more in pairwise(sorted(parallel))}


# ---- the pools ----

Pool = dict[int, Samples]  # by number of paths


def _parallel(study: Study, params: SamplingParams, samples: int, numbers: Sequence[int]) -> Pool:
    """Parallel responses. The most paths first: a model that cannot join them is refused before anything is drawn."""
    found = {}
    for paths in reversed(numbers):
        found[paths] = study.draw(study.requests(samples), with_paths(params, paths), f"{paths} paths")
        study.write_rows("samples", found[paths].rows, f"parallel-{paths}")
    return found


def _reread(study: Study, params: SamplingParams, samples: int, parallel: Pool) -> Pool:
    """The same paths with summaries that read their text again, where that fits the context.

    Nothing in a mode that reads paths again by itself: that is what its parallel responses are.
    """
    found: Pool = {}
    for paths, drawn in sorted(parallel.items()):
        again = read_again(params, paths)
        if get_mode(params.mode).rereads:
            continue
        if any(r.layout(again.mode).position.max() >= study.backend.context for r in drawn.rollouts):
            study.note(f"the texts of {paths} paths are longer than the context: they were not read again")
            continue
        found[paths] = study.draw(study.requests(samples), again, f"{paths} paths reread")
        study.write_rows("samples", found[paths].rows, f"reread-{paths}")
        _note_other_paths(study, drawn, found[paths], paths)
    return found


def _note_other_paths(study: Study, drawn: Samples, again: Samples, paths: int) -> None:
    """Say where the paths that were read again are not those that were joined: rounding may change a token."""

    def first_block(rollout: Rollout) -> list[list[int]]:
        return [segment.tokens for segment in rollout.segments[: fork_end(rollout)]]

    pairs = zip(drawn.rollouts, again.rollouts, strict=True)
    if other := sum(first_block(a) != first_block(b) for a, b in pairs):
        study.note(f"{other} of {len(drawn.rollouts)} responses of {paths} paths have other paths when read again")


def _sequential(
    study: Study, params: SamplingParams, options: CompareConfig, prompt: Prompt, parallel: Pool
) -> tuple[Pool, Pool, dict[int, int]]:
    """Sequential responses of one path's budget, those of P paths' budget, and how many of the former P paths pay for.

    The former are one pool for every P, as large as the largest method needs. The latter are drawn where some of that
    pool were cut.
    """

    def draw(paths: int, end: int, start: int = 0) -> Samples:
        tokens = sequential_budget(params, options.sequential_tokens, paths)
        requests = study.requests(end, prompt, start)
        return study.draw(requests, in_sequence(params, tokens), f"sequential, {tokens} tokens")

    size = max(options.samples, *parallel)
    pool = draw(1, size)
    each = sum(map(own_tokens, pool.rows)) / len(pool.rows)
    tokens = {paths: mean_over(by_problem(s.rows), own_tokens) for paths, s in parallel.items()}
    paid = {paths: max(1, int(metric.value / each)) for paths, metric in tokens.items()}
    if max(paid.values()) > size:
        pool += draw(1, max(paid.values()), size)
    study.write_rows("samples", pool.rows, "sequential")
    wide = sorted(paths for paths in parallel if paths > 1 and any(row["truncated"] for row in pool.rows))
    longer = {paths: draw(paths, options.samples) for paths in wide}
    for paths, samples in longer.items():
        study.write_rows("samples", samples.rows, f"sequential_longer-{paths}")
    return dict.fromkeys(parallel, pool), longer, paid
