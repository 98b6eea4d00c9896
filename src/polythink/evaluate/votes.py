"""The paths of one response: the answer of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polythink.evaluate.metrics import best_of_n, is_right, maj_at_k, normalise
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.tasks.countdown import is_marked_ok
from polythink.trace.rollout import Rollout


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
    paths = [segment for segment in row["segments"] if segment["kind"] == "path" and segment["block"] == 0]
    if not paths:
        return Paths(
            votes=(normalise(row["extracted"]),),
            right=(is_right(row),),
            marked=(row["marked"],) if marks else None,
            tokens=row["tokens"],
            critical_path=row["critical_path"],
            block=False,
        )
    head = replace(rollout, segments=rollout.segments[: fork_end(rollout)])
    return Paths(
        votes=tuple(normalise(grader.path_answer(path["text"], problem)) for path in paths),
        right=tuple(path["right"] is True for path in paths),
        marked=tuple(is_marked_ok(path["text"]) for path in paths) if marks else None,
        tokens=head.tokens,
        critical_path=head.critical_path,
    )


def fork_end(rollout: Rollout) -> int:
    """The number of segments up to the last path of the first block; 0 without a block."""
    return max((i for i, s in enumerate(rollout.segments, 1) if s.kind == "path" and s.block == 0), default=0)
