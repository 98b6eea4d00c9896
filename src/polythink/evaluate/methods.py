"""Ways to answer as rows of a comparison: what an answer is worth and what it costs, from graded samples alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polythink.evaluate.metrics import (
    Metric,
    best_of_n,
    by_problem,
    expected_max,
    interval,
    maj_at_k,
    mean_over,
    measure,
    normalise,
    paired_difference,
)
from polythink.evaluate.study import Drawn
from polythink.evaluate.votes import Paths


@dataclass(frozen=True)
class Arm:
    """One way to answer, and what an answer costs. No seconds and forwarded tokens where it was not drawn apart."""

    name: str
    paths: int  # P
    accuracy: Metric
    tokens: Metric
    critical_path: Metric
    seconds: float | None = None  # an answer
    forwarded: float | None = None  # tokens run through the model for an answer, the prompt's included
    responses: int = 1  # drawn for one answer
    right_path: Metric | None = None  # of answers with a block, those with a right path in it
    summary_right: Metric | None = None  # of answers with a block and a right path in it, those that are right

    @property
    def measures(self) -> dict[str, Metric]:
        known = {
            key: getattr(self, key) for key in ("accuracy", "tokens", "critical_path", "right_path", "summary_right")
        }
        return {key: value for key, value in known.items() if value is not None}

    def row(self, parallel: Arm | None) -> dict:
        """A row of compare.json; `difference` is that of the parallel arm, with as many paths, less this one."""
        facts = {key: getattr(self, key) for key in ("paths", "responses", "seconds", "forwarded")}
        gap = (
            {}
            if parallel in (None, self)
            else {"difference": vars(interval(paired_difference(parallel.accuracy, self.accuracy)))}
        )
        return {"arm": self.name, **facts, **{k: vars(interval(m)) for k, m in self.measures.items()}, **gap}


def summarised(name: str, paths: int, drawn: Drawn, found: Sequence[Paths]) -> Arm:
    """An arm whose responses read their paths and answer."""
    groups = by_problem(drawn.rows, zip(drawn.rows, found, strict=True))

    def right(pair: tuple[dict, Paths]) -> bool:
        return pair[0]["verdict"] == "right"

    def held(pair: tuple[dict, Paths]) -> bool:
        return pair[1].block and any(pair[1].right)

    return Arm(
        name,
        paths,
        accuracy=mean_over(groups, right),
        tokens=mean_over(groups, lambda pair: pair[0]["tokens"]),
        critical_path=mean_over(groups, lambda pair: pair[0]["critical_path"]),
        seconds=drawn.seconds / len(drawn.rows),
        forwarded=drawn.forwarded / len(drawn.rows),
        right_path=measure(groups, lambda g: sum(map(held, g)), lambda g: sum(pair[1].block for pair in g)),
        summary_right=measure(groups, lambda g: sum(held(p) and right(p) for p in g), lambda g: sum(map(held, g))),
    )


def from_paths(paths: int, rows: Sequence[dict], found: Sequence[Paths]) -> list[Arm]:
    """The arms that choose among the paths without a summary."""
    groups = by_problem(rows, found)
    ways = {"majority_paths": lambda p: p.majority, "oracle": lambda p: float(any(p.right))}
    if all(p.marked is not None for p in found):
        ways["marked_path"] = lambda p: p.by_mark
    tokens = mean_over(groups, lambda p: p.tokens)
    critical_path = mean_over(groups, lambda p: p.critical_path)
    return [Arm(name, paths, mean_over(groups, way), tokens, critical_path) for name, way in ways.items()]


def chosen(name: str, paths: int, k: int, groups: Mapping[str, Sequence[dict]], cost: Sequence[float]) -> Arm:
    """k of a problem's responses as one answer: `sequential_tokens` goes by marks where there are any, else by vote."""
    by_mark = name == "sequential_tokens" and all(row.get("marked") is not None for g in groups.values() for row in g)

    def accuracy(group: Sequence[dict]) -> float:
        right = [row["verdict"] == "right" for row in group]
        if by_mark:
            return best_of_n([row["marked"] for row in group], right, k)
        return maj_at_k([normalise(row["extracted"]) for row in group], right, k)

    return Arm(
        name,
        paths,
        accuracy=measure(groups, accuracy),
        tokens=measure(groups, lambda g: k * sum(row["tokens"] for row in g) / len(g)),
        critical_path=measure(groups, lambda g: expected_max([row["critical_path"] for row in g], k)),
        seconds=k * cost[0],
        forwarded=k * cost[1],
        responses=k,
    )
