"""A finished evaluation of an experiment: what its files say of each problem set."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from polythink.evaluate.metrics import Metric, compute_metrics, read_measures
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.text.scores import text_measures

KINDS = ("eval", "compare", "tunnel")  # stages that measure; the names of their files begin with the kind


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation stage of one run."""

    arm: str
    seed: int
    position: int  # -1 is the run's last evaluation, -2 the one before it
    stage: str
    after: str  # name of the training stage whose model was evaluated
    folder: Path
    seconds: float  # spent in all training stages up to that model
    gap: float | None = None  # `logprob_gap`, the largest of its reinforcement learning; None without any
    mismatch_kl: float | None = None  # the mean of it over the stages of reinforcement learning

    @functools.cached_property
    def sets(self) -> dict[str, dict]:
        """The results by problem set (its name in file names), in the order of the recipe."""
        files = [(kind, path) for kind in KINDS for path in sorted(self.folder.glob(f"{kind}-*.json"))]
        found = {path.stem.removeprefix(f"{kind}-"): read_json(path) for kind, path in files}
        order = list(read_json(self.folder / "result.json").get("evaluations", ()))
        return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))

    @functools.cached_property
    def metrics(self) -> dict[str, dict[str, Metric]]:
        """The metrics on each set, problem by problem."""
        return {name: _metrics_of(self.folder, name, data["metrics"]) for name, data in self.sets.items()}


def _metrics_of(folder: Path, name: str, metrics: Iterable[str]) -> dict[str, Metric]:
    if (own := folder / f"measures-{name}.jsonl").is_file():
        return read_measures(own)
    rows = read_jsonl(folder / f"samples-{name}.jsonl")
    if rows and "reference" in rows[0]:
        return text_measures(rows)
    best_of = [int(metric.removeprefix("best_of_")) for metric in metrics if metric.startswith("best_of_")]
    found = compute_metrics(rows, best_of)
    if (greedy := folder / f"greedy-{name}.jsonl").is_file():
        found["greedy"] = compute_metrics(read_jsonl(greedy))["mean@1"]
    return found
