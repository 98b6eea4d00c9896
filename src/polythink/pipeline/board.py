"""What an experiment shows while it runs, on stderr: a table on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polythink.pipeline.schedule import ELSEWHERE, Job, State

STYLES = {"running": "bold cyan", "done": "green", "failed": "bold red"}
ACTIVE = ("running", "failed")
MOST_ROWS = 20  # with more stages than this, only the active ones are listed


class Board:
    """`with Board(jobs) as board: schedule.run(board.show)`."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = {job.digest: job for job in jobs}
        self.states: dict[str, State] = dict.fromkeys(self.jobs, "waiting")
        self.notes: dict[str, str] = {}
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

    def show(self, states: Mapping[str, State], notes: Mapping[str, str]) -> None:
        """Take in the states and the notes beside them, and show what has changed."""
        for digest, state in states.items():
            note = notes.get(digest, "")
            if (state, note) == (self.states[digest], self.notes.get(digest, "")):
                continue
            self.states[digest], self.notes[digest] = state, note
            if state == "running":
                self.since[digest] = time.monotonic()
            elif digest in self.since:
                self.seconds[digest] = time.monotonic() - self.since.pop(digest)
            if self._live is None:
                took = f" after {self.seconds[digest]:.0f} s" if digest in self.seconds else ""
                line = f"{self.jobs[digest].name} ({_needed_by(self.jobs[digest])}): {self._state(digest)}{took}"
                print(line, file=sys.stderr, flush=True)

    def _state(self, digest: str) -> str:
        note = self.notes.get(digest)
        return f"{self.states[digest]} ({note})" if note else self.states[digest]

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("stage", "needed by", "state", "time", "latest", box=None, pad_edge=False)
        for digest, job in self.jobs.items():
            state, elsewhere = self.states[digest], self.notes.get(digest) == ELSEWHERE
            if len(self.jobs) > MOST_ROWS and state not in ACTIVE and not elsewhere:
                continue
            seconds = time.monotonic() - self.since[digest] if digest in self.since else self.seconds.get(digest)
            table.add_row(
                job.name,
                _needed_by(job),
                Text(self._state(digest), style=STYLES.get(state, "dim")),
                "" if seconds is None else f"{seconds:.0f} s",
                latest(job.folder) if state == "running" or elsewhere else "",
            )
        counts = Counter(self.states.values())
        return Group(table, Text(", ".join(f"{count} {state}" for state, count in counts.items()), style="dim"))


def _needed_by(job: Job) -> str:
    return job.runs[0] if len(job.runs) == 1 else f"shared by {len(job.runs)} runs"


def latest(folder: Path, keys: Sequence[str] = ("step", "loss", "reward", "accuracy")) -> str:
    """The newest complete row of a stage's metrics in a few words; empty where there is none yet."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8192))
            row = json.loads(file.read().split(b"\n")[-2])  # the last element is an incomplete line, or empty
    except (OSError, IndexError, ValueError):
        return ""
    shown = {key: row[key] for key in keys if isinstance(row.get(key), int | float)}
    return "  ".join(f"{key} {100 * v:.0f}%" if key == "accuracy" else f"{key} {v:.3g}" for key, v in shown.items())
