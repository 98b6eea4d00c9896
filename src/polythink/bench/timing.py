"""What a contender reports of a run, and what is said of several runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from polythink.bench.cases import Case, Trace


class Skipped(Exception):
    """A contender cannot run a case; the text says why."""


@dataclass
class Run:
    """One run of one case: seconds of each decoding step, and what else was seen on the way."""

    seconds: list[float]
    worked: list[float] = field(default_factory=list)  # processor seconds of all threads in each step, where known
    tokens: list[int] = field(default_factory=list)  # of each step, where they vary
    kv_bytes: int | None = None  # kept for keys and values at the end
    join: float | None = None  # seconds from the last path's end to the summary's first token


class Clock:
    """The ends of steps, by the wall and by the processor, which other work on the machine hardly changes."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def run(self) -> Run:
        """The time between the ends."""
        wall, worked = zip(*self.ends, strict=True)
        return Run(*([after - before for before, after in pairwise(each)] for each in (wall, worked)))


class Contender(Protocol):
    """One way to decode. Runs may be interleaved with those of others."""

    name: str

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        """Get ready for runs of this case; raises `Skipped` where it cannot be run."""

    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        """Read the prompts, which is not timed, and time `steps` steps in which all branches decode."""

    def close(self) -> None:
        """Give back what `prepare` took."""


def summarise(runs: Sequence[Run], branches: int) -> dict[str, Any]:
    """Median and quartiles in milliseconds over all steps of all runs, tokens a second, and the rest."""
    seconds = np.array([s for run in runs for s in run.seconds])
    low, middle, high = (float(x) * 1000 for x in np.percentile(seconds, (25, 50, 75)))
    worked = [s for run in runs for s in run.worked]
    tokens = [n for run in runs for n in run.tokens]
    mean = float(np.mean(tokens)) if tokens else float(branches)
    joins = [run.join for run in runs if run.join is not None]
    kept = [run.kv_bytes for run in runs if run.kv_bytes is not None]
    return {
        "ms": middle,
        "ms_q25": low,
        "ms_q75": high,
        "cpu_ms": float(np.median(worked)) * 1000 if worked else None,
        "steps": len(seconds),
        "branches": mean,
        "tokens_per_s": mean / middle * 1000,
        "join_steps": float(np.median(joins)) * 1000 / middle if joins else None,
        "kv_bytes": max(kept) if kept else None,
    }
