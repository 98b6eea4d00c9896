"""What an experiment shows while it runs: a table on a terminal, a line for each change elsewhere. On stderr."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polythink.pipeline.schedule import Job, State

STYLES = {"running": "bold cyan", "elsewhere": "cyan", "finished": "green", "kept": "green dim", "failed": "bold red"}
ACTIVE = ("running", "elsewhere", "failed")
MOST_ROWS = 20  # of more stages only the active ones are shown one by one
WORDS = {"kept": "done before", "elsewhere": "runs in another process", "given up": "not run: a stage before it failed"}


class Board:
    """`with Board(jobs) as board: schedule.run(board.show)`."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = {job.digest: job for job in jobs}
        self.states: dict[str, State] = dict.fromkeys(self.jobs, "waiting")
        self.since: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._live: Any = None

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self, console=Console(stderr=True), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, states: Mapping[str, State]) -> None:
        """Take in the states; whatever changed is shown."""
        for digest, state in states.items():
            if state == self.states[digest]:
                continue
            self.states[digest] = state
            if state in ("running", "elsewhere"):
                self.since[digest] = time.monotonic()
            elif digest in self.since:
                self.seconds[digest] = time.monotonic() - self.since.pop(digest)
            if self._live is None:
                print(self._line(digest), file=sys.stderr, flush=True)

    def _line(self, digest: str) -> str:
        job, state = self.jobs[digest], self.states[digest]
        took = f" after {self.seconds[digest]:.0f} s" if digest in self.seconds else ""
        return f"{job.name} ({_needed_by(job)}): {WORDS.get(state, state)}{took}"

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("stage", "needed by", "state", "time", "latest", box=None, pad_edge=False)
        for digest, job in self.jobs.items():
            state = self.states[digest]
            if len(self.jobs) > MOST_ROWS and state not in ACTIVE:
                continue
            seconds = time.monotonic() - self.since[digest] if digest in self.since else self.seconds.get(digest)
            table.add_row(
                job.name,
                _needed_by(job),
                Text(WORDS.get(state, state), style=STYLES.get(state, "dim")),
                "" if seconds is None else f"{seconds:.0f} s",
                latest(job.folder) if state == "running" else "",
            )
        counts = Counter(WORDS.get(state, state) for state in self.states.values())
        return Group(table, Text(", ".join(f"{count} {state}" for state, count in counts.items()), style="dim"))


def _needed_by(job: Job) -> str:
    return job.runs[0] if len(job.runs) == 1 else f"shared by {len(job.runs)} runs"


def latest(folder: Path, keys: Sequence[str] = ("step", "loss", "reward", "accuracy")) -> str:
    """The newest row of a stage's metrics, in a few words; empty where there is none yet."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8192))
            row = json.loads(file.read().split(b"\n")[-2])  # the last one whole
    except (OSError, IndexError, ValueError):
        return ""
    return "  ".join(f"{key} {row[key]:.3g}" for key in keys if isinstance(row.get(key), int | float))
