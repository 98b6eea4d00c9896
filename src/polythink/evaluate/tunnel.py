"""Tunnel vision: does a path that began badly find back, and are more tokens better spent on one path or on several?

    budget     accuracy against the token budget: one path of T tokens, and P paths of T / P each, all with a summary;
               beside them the majority of the P paths and, where a prompt for it is named, one sequential response of T
    recovery   wrong traces are cut to a prefix and continued, with what is left of the full budget. The control that
               the published experiment (ParaThinker, arXiv 2509.04475) lacks: prefixes of traces of the same problems,
               chosen among right and wrong ones. And the fresh rate: the same problems from the beginning

A wrong prefix comes from a problem that the model gets wrong: without the control its low rate says as much about hard
problems as about bad beginnings. Every problem with a wrong trace that is long enough gives equally many continuations
to the wrong prefixes, to the control and to the fresh rate, so that all three speak of the same problems.

Writes, under `out`: tunnel.json, measures.jsonl, and recovery.jsonl, a row a continuation (-NAME with a `name`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from polythink.engine.params import Request, SamplingParams
from polythink.engine.sampling import stream_key
from polythink.errors import UserError
from polythink.evaluate.methods import Arm, chosen, from_paths, summarised
from polythink.evaluate.metrics import Metric, by_problem, interval, mean_over, paired_difference
from polythink.evaluate.run import make_requests
from polythink.evaluate.study import (
    Bench,
    Drawn,
    in_sequence,
    numbers_of_paths,
    with_fixed_path_temperature,
    with_paths,
)
from polythink.problems.answers import Grader
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import Prompt, get_prompt
from polythink.run.config import Config
from polythink.run.jsonl import write_jsonl


class TunnelConfig(Config):
    """What is drawn. Either part is left out where its list is empty."""

    budgets: tuple[PositiveInt, ...] = ()  # tokens of all paths together
    paths: tuple[PositiveInt, ...] = (1, 4)  # the numbers of paths that share each budget
    samples: int = Field(4, ge=1)  # responses to each problem, for each budget and number of paths
    sequential_prompt: str | None = None  # one sequential response with each budget as well
    prefixes: tuple[Annotated[float, Field(gt=0)], ...] = ()  # below 1 shares of the median length, else whole tokens
    traces: int = Field(8, ge=1)  # responses of one path to each problem, of which the wrong ones give prefixes
    continuations: int = Field(64, ge=1)  # at least so many a point
    judged_by: Literal["path", "response"] = "path"  # the path's own answer, or what the whole response came to
    max_num_seqs: int = Field(64, ge=1)  # responses that the engine draws at once

    @model_validator(mode="after")
    def _something(self) -> TunnelConfig:
        if not (self.budgets or self.prefixes):
            raise ValueError("say budgets, prefixes or both: there is nothing to draw")
        if bad := [n for n in self.prefixes if n >= 1 and n != int(n)]:
            raise ValueError(f"a prefix is a share below 1 or a whole number of tokens, not {bad[0]:g}")
        if self.budgets and min(self.paths, default=1) > min(self.budgets):
            raise ValueError(f"a budget of {min(self.budgets)} has no token for each of {min(self.paths)} paths")
        return self


def tunnel(
    engine: Any,
    problem_set: ProblemSet,
    prompt: Prompt,
    decoding: SamplingParams,
    options: TunnelConfig,
    seed: int,
    grader: Grader,
    out: Path,
    *,
    name: str = "",
    log: Callable[[str], None] = print,
) -> dict:
    """Draw and measure both parts, write the files above; returns what tunnel.json holds.

    `UserError` where no trace is wrong, or every wrong one is shorter than the shortest prefix.
    """
    check(problem_set, decoding, options, engine.lm.dialect)
    decoding = with_fixed_path_temperature(decoding)
    bench, notes = Bench(engine, problem_set, grader, seed, out, name), list(problem_set.notes)
    found: dict[str, Metric] = {}
    points = recovery(bench, prompt, decoding, options, found, notes) if options.prefixes else None
    curve = budget_curve(bench, prompt, decoding, options, found, notes) if options.budgets else None
    facts = {"samples": options.samples, "judged_by": options.judged_by, "budget": curve, "recovery": points}
    return bench.conclude("tunnel", prompt, decoding, facts, notes, found, log)


def check(problem_set: ProblemSet, decoding: SamplingParams, options: TunnelConfig, dialect: Any) -> None:
    """`UserError` before anything is drawn."""
    if not len(problem_set):
        raise UserError(f"the problem set {problem_set.name!r} is empty; give one with at least one problem")
    numbers_of_paths(options.paths or (1,), decoding.mode, dialect)
    if options.sequential_prompt is not None:
        get_prompt(options.sequential_prompt)
    if long := [n for n in options.prefixes if n >= decoding.max_path_tokens]:
        raise UserError(f"a prefix of {long[0]:g} tokens leaves nothing of max_path_tokens={decoding.max_path_tokens}")


# ---- accuracy against the budget ----


def budget_curve(
    bench: Bench,
    prompt: Prompt,
    decoding: SamplingParams,
    options: TunnelConfig,
    found: dict[str, Metric],
    notes: list[str],
) -> list[dict]:
    """One point for each budget and way to spend it; its accuracies are entered in `found`."""
    points: list[dict] = []

    def add(way: str, paths: int, budget: int, accuracy: Metric, tokens: Metric, critical_path: Metric) -> None:
        found[f"{way}@{budget}"] = accuracy
        costs = {"tokens": vars(interval(tokens)), "critical_path": vars(interval(critical_path))}
        points.append({"way": way, "paths": paths, "budget": budget, "accuracy": vars(interval(accuracy)), **costs})

    for budget in sorted(set(options.budgets)):
        for paths in sorted(set(options.paths)):
            if budget < paths:
                notes.append(f"a budget of {budget} has no token for each of {paths} paths: that point was left out")
                continue
            requests = make_requests(bench.engine, bench.problem_set, prompt, options.samples)
            drawn = bench.draw(requests, with_paths(decoding, paths, budget // paths), f"{paths} paths of {budget}")
            tried = bench.paths_of(drawn)
            arms = [summarised("", paths, drawn, tried)]
            arms += [a for a in from_paths(paths, drawn.rows, tried) if a.name == "majority_paths" and paths > 1]
            for arm in arms:
                way = f"{'majority' if arm.name else 'paths'}{paths}"
                add(way, paths, budget, arm.accuracy, arm.tokens, arm.critical_path)
        if options.sequential_prompt is not None:
            arm = _sequential(bench, get_prompt(options.sequential_prompt), decoding, options, budget)
            add("sequential", 1, budget, arm.accuracy, arm.tokens, arm.critical_path)
    return points


def _sequential(bench: Bench, prompt: Prompt, decoding: SamplingParams, options: TunnelConfig, budget: int) -> Arm:
    """One response with the budget of the paths and, as these have, a summary's and main text's besides."""
    requests = make_requests(bench.engine, bench.problem_set, prompt, options.samples)
    tokens = budget + decoding.max_summary_tokens + decoding.max_main_tokens
    drawn = bench.draw(requests, in_sequence(decoding, tokens), f"sequential of {budget}")
    cost = [value / len(drawn.rows) for value in (drawn.seconds, drawn.forwarded)]
    return chosen("sequential", 1, 1, by_problem(drawn.rows), cost)


# ---- recovery from a prefix ----


@dataclass(frozen=True)
class Begun:
    """A trace of one path: its tokens between the tags, and whether it was right."""

    tokens: tuple[int, ...]
    right: bool


def recovery(
    bench: Bench,
    prompt: Prompt,
    decoding: SamplingParams,
    options: TunnelConfig,
    found: dict[str, Metric],
    notes: list[str],
) -> dict:
    """The three rates for each length of prefix; they are entered in `found`."""
    # one path, numbered 1 where paths have numbers, from the very beginning: what is continued is what was drawn
    single = with_paths(decoding, 1).model_copy(update={"fork_at": 0, "labels": "ordered"})
    if single.path_temperature == 0:
        notes.append("paths are greedy: all continuations of a prefix are the same")
    prompts = {r.problem: r.prompt for r in make_requests(bench.engine, bench.problem_set, prompt, 1)}
    traces = _traces(bench, prompt, single, options)
    everything = [trace for own in traces.values() for trace in own]
    wrong = sum(not trace.right for trace in everything)
    if not wrong:
        raise UserError(
            f"none of {len(everything)} traces on {bench.problem_set.name} is wrong, so there is nothing to recover "
            "from; take harder problems, or more traces"
        )
    typical = median(len(trace.tokens) for trace in everything)
    lengths = _lengths(options.prefixes, typical, notes)
    plans = {given: plan(traces, n, options.continuations, bench.seed) for given, n in lengths.items()}
    for given in [given for given, picks in plans.items() if not picks]:
        notes.append(f"no wrong trace is longer than {lengths[given]} tokens: that prefix was left out")
        del plans[given]
    if not plans:
        raise UserError(
            f"all {wrong} wrong traces on {bench.problem_set.name} are as short as the shortest prefix "
            f"({min(lengths.values())} tokens); take shorter prefixes"
        )
    fresh = _fresh(bench, prompts, single, options, plans)
    rows: list[dict] = []
    points = []
    for given, picks in plans.items():
        rates = {"fresh": mean_over({key: fresh[key] for key in picks}, float)}
        for kind in ("wrong", "any"):
            drawn = _continue(bench, prompts, single, lengths[given], picks, kind)
            grades = _judged(bench, drawn, options)
            rows += [{"prefix": lengths[given], "kind": kind, "problem": r.problem, "sample": r.sample, "text": r.text,
                      "right": right} for r, right in zip(drawn.rollouts, grades, strict=True)]  # fmt: skip
            rates[kind] = mean_over(by_problem(drawn.rows, grades), float)
        points.append(_point(given, lengths[given], picks, rates))
        found |= {f"{_NAMES[kind]}@{given:g}": rate for kind, rate in rates.items()}
        found[f"gain_any_prefix@{given:g}"] = paired_difference(rates["any"], rates["wrong"])
    write_jsonl(bench.file("recovery", ".jsonl"), rows)
    return {"traces": len(everything), "wrong": wrong, "median": typical, "points": points}


_NAMES = {"wrong": "wrong_prefix", "any": "any_prefix", "fresh": "fresh"}


def _traces(bench: Bench, prompt: Prompt, single: SamplingParams, options: TunnelConfig) -> dict[str, list[Begun]]:
    """The traces of each problem; those whose response has no path are left out."""
    drawn = bench.draw(make_requests(bench.engine, bench.problem_set, prompt, options.traces), single, "traces")
    found: dict[str, list[Begun]] = {problem.key: [] for problem in bench.problem_set}
    for rollout, right in zip(drawn.rollouts, _judged(bench, drawn, options), strict=True):
        path = next((s for s in rollout.segments if s.kind == "path"), None)
        if path is not None:
            found[rollout.problem].append(Begun(tuple(path.tokens[1:-1]), right))
    return found


def _judged(bench: Bench, drawn: Drawn, options: TunnelConfig) -> list[bool]:
    """Whether each response is right: what its path says, or what it came to."""
    if options.judged_by == "response":
        return [row["verdict"] == "right" for row in drawn.rows]
    return [any(paths.right) for paths in bench.paths_of(drawn)]


def _lengths(given: Sequence[float], typical: float, notes: list[str]) -> dict[float, int]:
    """The prefixes asked for, in tokens; of two that come to the same the first is kept."""
    found: dict[float, int] = {}
    for prefix in sorted(given, key=lambda prefix: prefix * typical if prefix < 1 else prefix):
        tokens = max(1, round(prefix * typical)) if prefix < 1 else int(prefix)
        if tokens in found.values():
            notes.append(f"prefix {prefix:g} comes to {tokens} tokens, as another does, and was left out")
        else:
            found[prefix] = tokens
    return found


@dataclass(frozen=True)
class Picks:
    """The prefixes of one problem: equally many of wrong traces and of any traces."""

    wrong: tuple[Begun, ...]
    any: tuple[Begun, ...]


def plan(traces: Mapping[str, Sequence[Begun]], length: int, continuations: int, seed: int) -> dict[str, Picks]:
    """For each problem with a wrong trace of more than `length` tokens, whose prefixes are continued.

    The wrong ones are chosen among those traces, the control among all traces of the problem that are long enough. All
    problems get equally many, together at least `continuations`; a trace may be chosen again.
    """
    long = {key: [trace for trace in own if len(trace.tokens) > length] for key, own in traces.items()}
    long = {key: own for key, own in long.items() if not all(trace.right for trace in own)}
    found = {}
    for key, own in long.items():
        rng, each = Random(f"{seed}/{key}/{length}"), ceil(continuations / len(long))
        wrong = [trace for trace in own if not trace.right]
        found[key] = Picks(*(tuple(rng.choice(group) for _ in range(each)) for group in (wrong, own)))
    return found


def _continue(
    bench: Bench, prompts: Mapping[str, tuple[int, ...]], single: SamplingParams, length: int, picks: Mapping[str, Picks],
    kind: str,
) -> Drawn:  # fmt: skip
    """Every chosen prefix continued, under random numbers that both kinds share and the traces did not use."""
    requests = [
        Request(prompts[key], key, i, path_prefixes=(begun.tokens[:length],))
        for key, own in picks.items()
        for i, begun in enumerate(getattr(own, kind))
    ]
    return bench.draw(requests, single, f"{kind} prefixes of {length}", stream_key(bench.seed, "prefix", length, 0))


def _fresh(
    bench: Bench, prompts: Mapping[str, tuple[int, ...]], single: SamplingParams, options: TunnelConfig,
    plans: Mapping[float, Mapping[str, Picks]],
) -> dict[str, list[bool]]:  # fmt: skip
    """The problems of all prefixes from the beginning: not the traces, of which the problems were chosen."""
    each = max(len(own.wrong) for picks in plans.values() for own in picks.values())
    keys = dict.fromkeys(key for picks in plans.values() for key in picks)
    requests = [Request(prompts[key], key, i) for key in keys for i in range(each)]
    drawn = bench.draw(requests, single, "fresh", stream_key(bench.seed, "fresh", 0, 0))
    return by_problem(drawn.rows, _judged(bench, drawn, options))


def _point(given: float, length: int, picks: Mapping[str, Picks], rates: Mapping[str, Metric]) -> dict:
    controls = [begun.right for own in picks.values() for begun in own.any]
    return {
        "given": given,
        "prefix": length,
        "problems": len(picks),
        "continuations": len(controls),
        "control_right": sum(controls) / len(controls),  # share of its prefixes that come from right traces
        **{kind: vars(interval(rate)) for kind, rate in rates.items()},
        "difference": vars(interval(paired_difference(rates["any"], rates["wrong"]))),
    }
