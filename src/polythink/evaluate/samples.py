"""Requests for the samples of problems, and graded samples: the rows of samples.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from polythink.engine.params import Request
from polythink.engine.protocol import RolloutBackend
from polythink.problems.answers import Grade, Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import is_marked_ok
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import rollout_statistics


def make_requests(
    backend: RolloutBackend, problems: Iterable[Problem], prompt: Prompt, samples: int, start: int = 0
) -> list[Request]:
    """The requests for samples `start` .. `samples` - 1 of every problem, problems in their order.

    `UserError` for a question that the model cannot read.
    """
    prompts = {p.key: tuple(backend.encode_prompt(prompt.fill(p.question))) for p in problems}
    return [Request(ids, key, sample) for key, ids in prompts.items() for sample in range(start, samples)]


def grade_rollouts(
    rollouts: Sequence[Rollout], problems: Iterable[Problem], grader: Grader, dialect: Dialect
) -> list[dict]:
    """One graded row per rollout, in their order."""
    by_key = {problem.key: problem for problem in problems}
    asked = [by_key[rollout.problem] for rollout in rollouts]
    grades = grader.grade_many([(r.text, p) for r, p in zip(rollouts, asked, strict=True)])
    return [
        sample_row(problem, rollout, grade, grader, dialect)
        for problem, rollout, grade in zip(asked, rollouts, grades, strict=True)
    ]


def sample_row(problem: Problem, rollout: Rollout, grade: Grade, grader: Grader, dialect: Dialect) -> dict:
    """A row of samples.jsonl: the response, its grade, its statistics, and its segments with each path's own grade.

    Tasks whose responses mark themselves as correct add `marked`; tasks whose summary reports every path add
    `right_lines`, the share of its lines that are true.
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
