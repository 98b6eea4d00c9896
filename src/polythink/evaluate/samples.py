"""Requests for the samples of problems, and graded samples: rows of samples.jsonl, with the paths of each response.

A problem whose prompt cannot be asked (too long for the context, a word that a closed vocabulary lacks) is found before
anything is sampled: `fitting`, `askable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from polythink.engine.params import Request
from polythink.engine.protocol import RolloutBackend
from polythink.errors import UserError
from polythink.evaluate.metrics import best_of_n, is_right
from polythink.evaluate.voting import maj_at_k, normalise
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import OVERLONG, Prompt
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import rollout_statistics


class Asks(Protocol):
    """What turns a prompt into tokens: a backend, or a language model."""

    @property
    def context(self) -> int: ...

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]: ...


Check = Callable[[Sequence[int]], object]


def fitting(
    backend: Asks, problems: Iterable[Problem], *prompts: Prompt, check: Check | None = None
) -> tuple[tuple[Problem, ...], dict[str, str]]:
    """The problems that can be asked under every one of these prompts, and for each other one (by key) why not.

    `check` raises a `UserError` for a prompt whose tokens cannot be asked; without it they have to fit the context.
    """
    kept, dropped = [], {}
    for problem in problems:
        reason = next(filter(None, (_misfit(backend, prompt, problem, check) for prompt in prompts)), None)
        if reason is None:
            kept.append(problem)
        else:
            dropped[problem.key] = reason
    return tuple(kept), dropped


def _misfit(backend: Asks, prompt: Prompt, problem: Problem, check: Check | None) -> str | None:
    try:
        ids = backend.encode_prompt(prompt.fill(problem.question), prompt.text)
        if check:
            check(ids)
    except UserError as error:
        return str(error)
    if check or len(ids) < backend.context:
        return None
    return f"the prompt has {len(ids)} tokens and the model's context holds {backend.context}"


def askable(
    backend: Asks,
    problems: Iterable[Problem],
    *prompts: Prompt,
    overlong_prompts: str = "skip",
    name: str = "problems",
    check: Check | None = None,
) -> tuple[tuple[Problem, ...], dict[str, str], str | None]:
    """What `fitting` finds, and the sentence that says what was skipped (None: nothing).

    `UserError` if nothing can be asked, or if one cannot and `overlong_prompts` is `refuse`.
    """
    if overlong_prompts not in OVERLONG:
        raise UserError(f"overlong_prompts is {' or '.join(OVERLONG)}, not {overlong_prompts!r}")
    kept, dropped = fitting(backend, problems, *prompts, check=check)
    if not dropped:
        return kept, dropped, None
    named = [f"{key!r}: {reason}" for key, reason in dropped.items()]
    shown = "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")
    total = len(kept) + len(dropped)
    if not kept and total > 1 and len(set(dropped.values())) == 1:  # one fault, and not of the problems
        shown = f"{next(iter(dropped))!r}, like the others: {next(iter(dropped.values()))}"
    if not kept:
        raise UserError(f"none of the {total} problems of {name} can be asked: {shown}")
    if overlong_prompts == "refuse":
        raise UserError(
            f"{len(dropped)} of the {total} problems of {name} cannot be asked: {shown}; leave them out, or "
            "skip them (overlong_prompts: skip, --overlong skip)"
        )
    return kept, dropped, (
        f"{len(dropped)} of {total} problems cannot be asked and were skipped; what is counted are the other "
        f"{len(kept)} ({shown})"
    )  # fmt: skip


# ---- requests and graded samples ----


def make_requests(
    backend: RolloutBackend, problems: Iterable[Problem], prompt: Prompt, samples: int, start: int = 0
) -> list[Request]:
    """The requests for samples `start` .. `samples` - 1 of every problem, problems in their order.

    `UserError` for a question that the model cannot read.
    """
    prompts = {p.key: tuple(backend.encode_prompt(prompt.fill(p.question), prompt.text)) for p in problems}
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


@dataclass(frozen=True)
class Grading:
    """What it takes to grade rollouts: the problems by key, the grader, the dialect."""

    problems: Mapping[str, Problem]
    grader: Grader
    dialect: Dialect

    def row(self, rollout: Rollout) -> dict:
        """The row of samples.jsonl of a rollout."""
        problem = self.problems[rollout.problem]
        return sample_row(problem, rollout, self.grader.grade(rollout.text, problem), self.grader, self.dialect)

    def paths(self, rollout: Rollout, row: dict) -> Paths:
        """The paths of a graded rollout's first block."""
        return paths_of(row, rollout, self.problems[rollout.problem], self.grader)


def sample_row(problem: Problem, rollout: Rollout, grade: Grade, grader: Grader, dialect: Dialect) -> dict:
    """A row of samples.jsonl: the response, its grade, its statistics, and its segments with each path's own grade.

    Tasks whose responses mark themselves as correct add `marked`; tasks whose summary reports every path add
    `right_lines`, the share of its lines that are true.
    """

    def segment_row(segment: Segment) -> dict:
        is_path = segment.kind == "path"
        right = grader.grade_path(segment.text, problem) if is_path else None
        answer = grader.path_answer(segment.text, problem) if is_path else None
        shown = {key: getattr(segment, key) for key in ("kind", "block", "path", "label", "text", "finish_reason")}
        extra = {"tokens": len(segment.tokens)} if segment.kind == "copy" else {}
        extra |= {} if answer is None else {"answer": answer}
        return {**shown, "right": right, **extra, **({"bounded": True} if segment.bounded else {})}

    alone = not any(segment.kind == "path" for segment in rollout.segments)
    marked = problem.task.marked(rollout.text)
    return {
        "problem": problem.key,
        "question": problem.question,
        "answer": problem.answer,
        "checker": problem.checker,
        "sample": rollout.sample,
        "text": rollout.text,
        "verdict": grade.verdict,
        "extracted": grade.extracted,
        **grader.readings(rollout.text, problem, grade),
        **({} if marked is None else {"marked": alone and marked}),
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
    by_value: bool = True  # whether answers of one value are one vote: the correct ones of `attribution` are many

    @property
    def majority(self) -> float:
        """Probability that the majority is correct, a tie broken at random."""
        return maj_at_k(self.votes, self.right, len(self.votes), self.by_value)

    @property
    def by_mark(self) -> float:
        """Probability that one of the marked paths is correct, or one of all where none is marked."""
        return best_of_n(self.marked, self.right, len(self.right))


def paths_of(row: dict, rollout: Rollout, problem: Problem, grader: Grader) -> Paths:
    """The paths of a graded response."""
    found = [s for s in row["segments"] if s["kind"] == "path" and s["block"] == 0]
    if not found:
        marked = (row["marked"],) if "marked" in row else None
        cost = row["tokens"], row["critical_path"]
        return Paths((normalise(row["extracted"], problem.task),), (is_right(row),), marked, *cost, block=False)
    marked = tuple(problem.task.marked(path["text"]) for path in found)
    head = replace(rollout, segments=rollout.segments[: fork_end(rollout)])
    return Paths(
        votes=tuple(normalise(grader.path_answer(path["text"], problem), problem.task) for path in found),
        right=tuple(path["right"] is True for path in found),
        marked=None if None in marked else marked,
        tokens=head.tokens,
        critical_path=head.critical_path,
        by_value=problem.task.by_value,
    )


def fork_end(rollout: Rollout) -> int:
    """The number of segments up to the last path of the first block; 0 without a block."""
    return max((i for i, s in enumerate(rollout.segments, 1) if s.kind == "path" and s.block == 0), default=0)
