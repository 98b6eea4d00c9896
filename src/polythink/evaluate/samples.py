"""Requests for the samples of problems, and graded samples: rows of samples.jsonl, with the paths of each response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from polythink.engine.params import Request
from polythink.engine.protocol import RolloutBackend
from polythink.evaluate.metrics import best_of_n, is_right, maj_at_k, normalise
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


@dataclass(frozen=True)
class Samples:
    """Graded samples of one call of the backend, with what they cost."""

    rollouts: list[Rollout]
    rows: list[dict]  # of samples.jsonl, one per rollout
    paths: list[Paths]  # of the first block of each
    seconds: float
    forwarded: float  # tokens run through the model, prompts included; nan where the backend does not count them

    def __add__(self, other: Samples) -> Samples:
        return Samples(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def grade_rollouts(
    rollouts: Sequence[Rollout], problems: Iterable[Problem], grader: Grader, dialect: Dialect
) -> tuple[list[dict], list[Paths]]:
    """The graded row and the paths of every rollout, in their order."""
    by_key = {problem.key: problem for problem in problems}
    asked = [(rollout, by_key[rollout.problem]) for rollout in rollouts]
    grades = grader.grade_many([(rollout.text, problem) for rollout, problem in asked])
    rows = [
        sample_row(problem, rollout, grade, grader, dialect)
        for (rollout, problem), grade in zip(asked, grades, strict=True)
    ]
    return rows, [paths_of(row, *pair, grader) for row, pair in zip(rows, asked, strict=True)]


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
    return {
        "problem": problem.key,
        "question": problem.question,
        "answer": problem.answer,
        "sample": rollout.sample,
        "text": rollout.text,
        "verdict": grade.verdict,
        "extracted": grade.extracted,
        **({"marked": alone and is_marked_ok(rollout.text)} if problem.checker == "countdown" else {}),
        **({} if grade.share is None else {"right_lines": grade.share}),
        **rollout_statistics(rollout, dialect),
        "segments": [segment_row(segment) for segment in rollout.segments],
    }


# ---- the paths of one response ----


@dataclass(frozen=True)
class Paths:
    """The paths of a response's first block: their answers, and the response's cost up to the end of the last path."""

    votes: tuple[str | None, ...]  # normalised answers; None where a path states none
    right: tuple[bool, ...]
    marked: tuple[bool, ...] | None  # whether each marks itself as correct; None where the task has no marks
    tokens: int
    critical_path: int
    block: bool = True  # False: there is no block, and the response counts as its only path

    @property
    def majority(self) -> float:
        """Probability that the majority is correct, a tie broken at random."""
        return maj_at_k(self.votes, self.right, len(self.votes))

    @property
    def by_mark(self) -> float:
        """Probability that one of the marked paths is correct, or one of all where none is marked."""
        return best_of_n(self.marked, self.right, len(self.right))


def paths_of(row: dict, rollout: Rollout, problem: Problem, grader: Grader) -> Paths:
    """The paths of a graded response."""
    marks = problem.checker == "countdown"
    found = [s for s in row["segments"] if s["kind"] == "path" and s["block"] == 0]
    if not found:
        marked = (row["marked"],) if marks else None
        cost = row["tokens"], row["critical_path"]
        return Paths((normalise(row["extracted"]),), (is_right(row),), marked, *cost, block=False)
    head = replace(rollout, segments=rollout.segments[: fork_end(rollout)])
    return Paths(
        votes=tuple(normalise(grader.path_answer(path["text"], problem)) for path in found),
        right=tuple(path["right"] is True for path in found),
        marked=tuple(is_marked_ok(path["text"]) for path in found) if marks else None,
        tokens=head.tokens,
        critical_path=head.critical_path,
    )


def fork_end(rollout: Rollout) -> int:
    """The number of segments up to the last path of the first block; 0 without a block."""
    return max((i for i, s in enumerate(rollout.segments, 1) if s.kind == "path" and s.block == 0), default=0)
