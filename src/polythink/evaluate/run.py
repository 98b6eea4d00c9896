"""Evaluation: k samples a problem, every one graded, every number with its interval.

Writes, under `out`:

    samples.jsonl   one row a sample: text, verdict, extracted answer, statistics, segments with each path's own grade
    greedy.jsonl    the same for one greedy response a problem, if asked for
    eval.json       what was evaluated and how, verdict counts, and each metric with its 95% interval over problems

With a `name` the files are samples-NAME.jsonl and so on, so that one folder holds several problem sets.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.metrics import compute_metrics, interval
from polythink.problems.answers import Grade, Grader
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import is_marked_ok
from polythink.run.folder import os_errors, write_json
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import rollout_statistics


def evaluate(
    engine: Any,
    problem_set: ProblemSet,
    prompt: Prompt,
    decoding: SamplingParams,
    samples: int,
    seed: int,
    grader: Grader,
    out: Path,
    *,
    name: str = "",
    greedy: bool = False,
    best_of: Sequence[int] = (),
    log: Callable[[str], None] = print,
) -> dict:
    """Draw `samples` responses to each problem, grade them all, write the files above; returns what eval.json holds.

    `engine` has `.lm.encode_prompt(text)` and `.generate(requests, decoding, seed, label=)`. `greedy` adds one response
    a problem at temperature 0 (isolated paths are still sampled, see `SamplingParams`). `best_of` adds the accuracy of
    choosing one of n samples (`metrics.best_of_n`): the honest rival of n paths. `log` is told the notes on the
    problem set and the verdict counts.
    """
    _check(problem_set, samples, best_of)
    for note in problem_set.notes:
        log(f"note on {problem_set.name}: {note}")
    started = time.monotonic()
    out, suffix = Path(out), f"-{name}" if name else ""
    requests = make_requests(engine, problem_set, prompt, samples)
    with os_errors(out):  # found out now rather than when everything is drawn
        out.mkdir(parents=True, exist_ok=True)
    rows = draw_and_grade(engine, problem_set, requests, decoding, seed, grader)
    write_jsonl(out / f"samples{suffix}.jsonl", rows)
    found = compute_metrics(rows, best_of)
    if greedy:
        cold = decoding.model_copy(update={"temperature": 0.0})
        first = [request for request in requests if request.sample == 0]
        greedy_rows = draw_and_grade(engine, problem_set, first, cold, seed, grader)
        write_jsonl(out / f"greedy{suffix}.jsonl", greedy_rows)
        found["greedy"] = compute_metrics(greedy_rows)["mean@1"]
    verdicts = dict(Counter(row["verdict"] for row in rows).most_common())
    log(f"{problem_set.name}: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    result = {
        "problems": problem_set.name,
        "n": len(problem_set),
        "samples": samples,
        "prompt": {"name": prompt.name, "hash": prompt.hash},
        "seed": seed,
        "decoding": decoding.model_dump(mode="json"),
        "notes": list(problem_set.notes),
        "verdicts": verdicts,
        "metrics": {metric: vars(interval(measure)) for metric, measure in found.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(out / f"eval{suffix}.json", result)
    return result


def make_requests(engine: Any, problem_set: ProblemSet, prompt: Prompt, samples: int) -> list[Request]:
    """`samples` requests a problem, problems in their order; `UserError` for a question that the model cannot read."""
    prompts = {p.key: tuple(engine.lm.encode_prompt(prompt.fill(p.question))) for p in problem_set}
    return [Request(prompts[p.key], p.key, sample) for p in problem_set for sample in range(samples)]


def draw_and_grade(
    engine: Any,
    problem_set: ProblemSet,
    requests: Sequence[Request],
    decoding: SamplingParams,
    seed: int,
    grader: Grader,
) -> list[dict]:
    """One graded row a request, in their order. Random streams go by problem key and sample number."""
    rollouts = engine.generate(requests, decoding, seed, label=problem_set.name)
    return grade_rollouts(rollouts, problem_set, grader, engine.lm.dialect)


def grade_rollouts(
    rollouts: Sequence[Rollout], problem_set: ProblemSet, grader: Grader, dialect: Dialect
) -> list[dict]:
    """One graded row a rollout, in their order."""
    problems = {problem.key: problem for problem in problem_set}
    asked = [problems[rollout.problem] for rollout in rollouts]
    grades = grader.grade_many([(r.text, p) for r, p in zip(rollouts, asked, strict=True)])
    return [
        sample_row(problem, rollout, grade, grader, dialect)
        for problem, rollout, grade in zip(asked, rollouts, grades, strict=True)
    ]


def sample_row(problem: Problem, rollout: Rollout, grade: Grade, grader: Grader, dialect: Dialect) -> dict:
    """A row of samples.jsonl: the response, its grade, its statistics, and its segments with each path's own grade.

    `marked` is there for problems whose chains say of themselves whether they worked, `right_lines` (the share of the
    summary's lines) for those whose summary reports every path.
    """

    def segment_row(segment: Segment) -> dict:
        right = grader.grade_path(segment.text, problem) if segment.kind == "path" else None
        shown = {key: getattr(segment, key) for key in ("kind", "block", "path", "label", "text", "finish_reason")}
        return {**shown, "right": right}

    alone = not any(segment.kind == "path" for segment in rollout.segments)
    marked = {"marked": alone and is_marked_ok(rollout.text)} if problem.checker == "countdown" else {}
    return {
        "problem": problem.key,
        "question": problem.question,
        "answer": problem.answer,
        "sample": rollout.sample,
        "text": rollout.text,
        "verdict": grade.verdict,
        "extracted": grade.extracted,
        **marked,
        **({} if grade.share is None else {"right_lines": grade.share}),
        **rollout_statistics(rollout, dialect),
        "segments": [segment_row(segment) for segment in rollout.segments],
    }


def _check(problem_set: ProblemSet, samples: int, best_of: Sequence[int]) -> None:
    if not len(problem_set):
        raise UserError(f"the problem set {problem_set.name!r} is empty; give one with at least one problem")
    if samples < 1:
        raise UserError(f"samples must be 1 or more, not {samples}")
    if too_many := [n for n in best_of if not 1 <= n <= samples]:
        raise UserError(f"best_of {too_many[0]} needs at least as many samples a problem; there are {samples}")
