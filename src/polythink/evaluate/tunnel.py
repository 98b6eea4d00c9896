"""Tunnel vision: does a path that began badly recover, and are more tokens better spent on one path or on several?

    budget     accuracy against the token budget: one path of T tokens, and P paths of T / P each, all with a summary;
               with them the majority of the P paths and, if a prompt for it is given, one sequential response of T.
               A response has one block: the paths of a second one would spend the budget again
    recovery   wrong traces are cut to a prefix and continued with the rest of the full budget. The control that the
               published experiment (ParaThinker, arXiv 2509.04475) lacks: prefixes of traces of the same problems,
               chosen among correct and wrong ones. And the fresh rate: the same problems from the beginning

A wrong prefix comes from a problem that the model gets wrong: without the control its low rate says as much about hard
problems as about bad beginnings. Every problem with a wrong trace that is long enough gives equally many continuations
to the wrong prefixes, to the control and to the fresh rate, so that all three are about the same problems.

Writes, under `out`: tunnel.json, measures.jsonl, and recovery.jsonl, one row per continuation (-NAME with a `name`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Unpack

from polythink.engine.params import Request, SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.engine.sampling import stream_key
from polythink.errors import UserError
from polythink.evaluate.config import TunnelConfig, asked_of, numbers_of_paths
from polythink.evaluate.methods import Result, in_sequence, reduce_samples, with_fixed_path_temperature, with_paths
from polythink.evaluate.metrics import Metric, by_problem, mean_over, paired_difference
from polythink.evaluate.samples import Samples
from polythink.evaluate.study import Problems, Study, StudyOptions, hashed, open_study
from polythink.problems.prompts import get_prompt
from polythink.trace.rollout import Segment

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel


def tunnel(
    backend: RolloutBackend | LanguageModel, problems: Problems, options: TunnelConfig, **how: Unpack[StudyOptions]
) -> dict:
    """Draw and measure both parts, and return what tunnel.json holds. Other arguments as in `evaluate`.

    `UserError` where no trace is wrong, or every wrong one is shorter than the shortest prefix.
    """
    also = [] if options.sequential_prompt is None else [get_prompt(options.sequential_prompt)]
    question = {"also": also, "options": asked_of(options, TunnelConfig), "sequential_prompts": list(map(hashed, also))}
    with open_study(backend, problems, "tunnel", **how, **question) as study:
        if study.finished:
            return study.finished
        _check(study, options)
        fixed = with_fixed_path_temperature(study.params)
        points, found = Recovery(study, fixed, options).measure() if options.prefixes else (None, {})
        curve, accuracies = budget_curve(study, fixed, options) if options.budgets else (None, {})
        return study.conclude(found | accuracies, samples=options.samples, budget=curve, recovery=points)


def _check(study: Study, options: TunnelConfig) -> None:
    """`UserError` before anything is drawn."""
    numbers_of_paths(options.paths or (1,), study.params.mode, study.backend.dialect)
    most = study.params.max_path_tokens
    if long := [n for n in options.prefixes if n >= most]:
        raise UserError(f"a prefix of {long[0]:g} tokens leaves nothing of max_path_tokens={most}")


# ---- accuracy against the budget ----


def budget_curve(study: Study, params: SamplingParams, options: TunnelConfig) -> tuple[list[dict], dict[str, Metric]]:
    """One point per budget and way to spend it, and the accuracies by WAY@BUDGET."""
    points: list[dict] = []
    accuracies: dict[str, Metric] = {}
    for budget in sorted(set(options.budgets)):
        for way, result in _spent(study, params, options, budget):
            accuracies[f"{way}@{budget}"] = result.metrics["accuracy"]
            estimates = {key: vars(result.metrics[key].estimate) for key in ("accuracy", "tokens", "critical_path")}
            points.append({"way": way, "paths": result.paths, "budget": budget, **estimates})
    return points, accuracies


def _spent(study: Study, params: SamplingParams, options: TunnelConfig, budget: int) -> Iterator[tuple[str, Result]]:
    """The ways to spend one budget: P paths and a summary, the majority of P paths, one sequential response."""
    params = params.model_copy(update={"max_blocks": 1})  # the paths of one block share the budget, all of it
    for paths in sorted(set(options.paths)):
        if budget < paths:
            study.note(f"a budget of {budget} has no token for each of {paths} paths: that point was left out")
            continue
        shared = with_paths(params, paths, budget // paths)
        drawn = study.draw(study.requests(options.samples), shared, f"{paths} paths of {budget}")
        yield f"paths{paths}", reduce_samples("parallel", paths, drawn)
        if paths > 1:
            yield f"majority{paths}", reduce_samples("majority_paths", paths, drawn)
    if options.sequential_prompt is not None:  # with the summary and main text that paths have besides their budget
        tokens = budget + params.max_summary_tokens + params.max_main_tokens
        requests = study.requests(options.samples, get_prompt(options.sequential_prompt))
        drawn = study.draw(requests, in_sequence(params, tokens), f"sequential of {budget}")
        yield "sequential", reduce_samples("sequential", 1, drawn)


# ---- recovery from a prefix ----


@dataclass(frozen=True)
class PathTrace:
    """A trace of one path: its tokens between what opens and what closes it (`_body`), and whether it was correct."""

    tokens: tuple[int, ...]
    right: bool


@dataclass(frozen=True)
class Picks:
    """The prefixes of one problem: equally many of wrong traces and of any traces."""

    wrong: tuple[PathTrace, ...]
    any: tuple[PathTrace, ...]


def pick_prefixes(
    traces: Mapping[str, Sequence[PathTrace]], length: int, continuations: int, seed: int
) -> dict[str, Picks]:
    """The traces whose prefixes are continued, for each problem with a wrong trace of more than `length` tokens.

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


class Recovery:
    """Continuations of prefixes of traces of one path."""

    def __init__(self, study: Study, params: SamplingParams, options: TunnelConfig) -> None:
        self.study, self.options = study, options
        # one path, numbered 1 where paths have numbers, from the very beginning: what is continued is what was drawn
        self.single = with_paths(params, 1).model_copy(update={"fork_at": 0, "labels": "ordered"})
        self.prompts = {request.problem: request.prompt for request in study.requests(1)}

    def measure(self) -> tuple[dict, dict[str, Metric]]:
        """The part `recovery` of tunnel.json, and the three rates for each length of prefix as metrics."""
        if self.single.path_temperature == 0:
            self.study.note("paths are greedy: all continuations of a prefix are the same")
        traces = self._traces()
        everything = [trace for own in traces.values() for trace in own]
        wrong = sum(not trace.right for trace in everything)
        if not wrong:
            raise UserError(
                f"none of {len(everything)} traces on {self.study.problems.name} is wrong, so there is nothing to "
                "recover from; take harder problems, or more traces"
            )
        typical = median(len(trace.tokens) for trace in everything)
        picks = self._picks(traces, typical)
        if not picks:
            raise UserError(
                f"all {wrong} wrong traces on {self.study.problems.name} are as short as the shortest prefix "
                f"({self._lengths(typical)[0][1]} tokens); take shorter prefixes"
            )
        fresh = self._fresh(list(picks.values()))
        found: dict[str, Metric] = {}
        rows: list[dict] = []
        points = []
        for (given, length), own in picks.items():
            rates = {"fresh": mean_over({key: fresh[key] for key in own}, float)}
            for kind in ("wrong", "any"):
                rates[kind], continued = self._continued(length, own, kind)
                rows += continued
            rates["difference"] = paired_difference(rates["any"], rates["wrong"])
            points.append(_point(given, length, own, rates))
            names = {"fresh": "fresh", "wrong": "wrong_prefix", "any": "any_prefix", "difference": "gain_any_prefix"}
            found |= {f"{names[kind]}@{given:g}": rate for kind, rate in rates.items()}
        self.study.write_rows("recovery", rows)
        return {"traces": len(everything), "wrong": wrong, "median": typical, "points": points}, found

    def _traces(self) -> dict[str, list[PathTrace]]:
        """The traces of each problem; those whose response has no path are left out."""
        drawn = self.study.draw(self.study.requests(self.options.traces), self.single, "traces")
        found: dict[str, list[PathTrace]] = {key: [] for key in self.prompts}
        for rollout, right in zip(drawn.rollouts, _grades(drawn), strict=True):
            path = next((s for s in rollout.segments if s.kind == "path"), None)
            if path is not None:
                found[rollout.problem].append(PathTrace(_body(path, self.study.backend), right))
        return found

    def _lengths(self, typical: float) -> list[tuple[float, int]]:
        """The prefixes as given and in tokens, shortest first; below 1 they are shares of the median length."""
        lengths = [(n, max(1, round(n * typical)) if n < 1 else int(n)) for n in self.options.prefixes]
        return sorted(lengths, key=lambda pair: pair[0] * typical if pair[0] < 1 else pair[0])

    def _picks(
        self, traces: Mapping[str, Sequence[PathTrace]], typical: float
    ) -> dict[tuple[float, int], dict[str, Picks]]:
        """(prefix as given, in tokens) -> the traces to continue. Equal lengths are continued once."""
        found: dict[tuple[float, int], dict[str, Picks]] = {}
        seen: set[int] = set()
        for given, tokens in self._lengths(typical):
            if tokens in seen:
                self.study.note(f"prefix {given:g} comes to {tokens} tokens, as another does, and was left out")
            elif picks := pick_prefixes(traces, tokens, self.options.continuations, self.study.seed):
                found[given, tokens] = picks
            else:
                self.study.note(f"no wrong trace is longer than {tokens} tokens: that prefix was left out")
            seen.add(tokens)
        return found

    def _continued(self, length: int, picks: Mapping[str, Picks], kind: str) -> tuple[Metric, list[dict]]:
        """The rate of the continued prefixes of a kind, and the rows of recovery.jsonl.

        Both kinds share their random numbers, which are not those of the traces.
        """
        requests = [
            Request(self.prompts[key], key, i, path_prefixes=(trace.tokens[:length],))
            for key, own in picks.items()
            for i, trace in enumerate(getattr(own, kind))
        ]
        seed = stream_key(self.study.seed, "prefix", length, 0)
        drawn = self.study.draw(requests, self.single, f"{kind} prefixes of {length}", seed)
        grades = _grades(drawn)
        rows = [
            {"prefix": length, "kind": kind, "problem": r.problem, "sample": r.sample, "text": r.text, "right": right}
            for r, right in zip(drawn.rollouts, grades, strict=True)
        ]
        return mean_over(by_problem(drawn.rows, grades), float), rows

    def _fresh(self, picks: Sequence[Mapping[str, Picks]]) -> dict[str, list[bool]]:
        """The problems of all prefixes from the beginning. Not the traces: those decided which problems are here."""
        each = max(len(own.wrong) for by_key in picks for own in by_key.values())
        keys = dict.fromkeys(key for by_key in picks for key in by_key)
        requests = [Request(self.prompts[key], key, i) for key in keys for i in range(each)]
        drawn = self.study.draw(requests, self.single, "fresh", stream_key(self.study.seed, "fresh", 0, 0))
        return by_problem(drawn.rows, _grades(drawn))


def _body(path: Segment, backend: RolloutBackend) -> tuple[int, ...]:
    """The tokens of a path between what opens it (gap, tag and heading) and its closing tag.

    These are what a path that is continued begins with: its head is forced before them, as it was here. An opening tag
    that replaced a misplaced one (`Dialect.misplaced_tags`) is forced too, but stands in the path as text.
    """
    end = len(path.tokens) - (path.finish_reason != "fork")  # a block in it ends the segment, no closing tag does
    head = next((i for i in range(end) if path.sampled[i]), end)
    opened = backend.dialect.path_tags(path.label)[0]
    replaced = sum(backend.decode([token]).strip() == opened for token in path.tokens[:head]) - 1
    return tuple(path.tokens[head - replaced : end])


def _grades(drawn: Samples) -> list[bool]:
    """Whether the path of each response is correct, by its own answer."""
    return [any(paths.right) for paths in drawn.paths]


def _point(given: float, length: int, picks: Mapping[str, Picks], rates: Mapping[str, Metric]) -> dict:
    """One length of prefix in tunnel.json; `control_right` is the share of its control that are correct traces."""
    controls = [trace.right for own in picks.values() for trace in own.any]
    facts = {"given": given, "prefix": length, "problems": len(picks), "continuations": len(controls)}
    estimates = {kind: vars(rate.estimate) for kind, rate in rates.items()}
    return {**facts, "control_right": sum(controls) / len(controls), **estimates}
