"""Runs stages as processes: each once, after the one it builds on, at most so many at a time.

A stage is done when its folder holds `result.json`. Whatever stops the schedule, running it again does what is missing.
A lock that the stage's process inherits keeps two schedules, or a schedule and what a killed one left behind, from
running the same stage at the same time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polythink.run.folder import os_errors, take_lock, write_json

State = Literal["waiting", "running", "elsewhere", "kept", "finished", "failed", "given up"]
DONE = ("kept", "finished")
STAGE_COMMAND = (sys.executable, "-m", "polythink.pipeline.stage")
RESULT, LOG = "result.json", "log.txt"
PATIENCE = 10.0  # seconds that a stage gets to end by itself when the schedule is stopped


@dataclass(frozen=True)
class Job:
    """A stage that is run once, whichever `runs` need it. `digest` names everything that determines it."""

    name: str
    digest: str
    after: str | None  # digest of the stage that it builds on
    plan: dict  # what the stage's process is told
    folder: Path
    runs: tuple[str, ...]

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).is_file()


@dataclass
class Running:
    """A stage's process, and the lock that it shares."""

    process: subprocess.Popen
    lock: int


class Schedule:
    """The jobs by digest, and the state of each.

    `command` is what starts a stage; the path of a JSON file {plan, folder, previous} is added to it. It must write
    `result.json` last, and go on from what it finds in the folder when it is started again.
    """

    def __init__(
        self, jobs: Sequence[Job], at_once: int, command: Sequence[str] = STAGE_COMMAND, threads: int | None = None
    ) -> None:
        self.jobs = {job.digest: job for job in longest_first(jobs)}
        self.states: dict[str, State] = dict.fromkeys(self.jobs, "waiting")
        self.failures: dict[str, str] = {}
        self.at_once = at_once
        self.threads = threads or shared_threads(at_once)
        self.command = tuple(command)
        self._running: dict[str, Running] = {}

    def run(self, show: Callable[[Mapping[str, State]], None] = lambda states: None) -> None:
        """Run until every job is done, failed or given up. `show` is called with the states several times a second."""
        try:
            while True:
                self._collect()
                self._advance()
                show(self.states)
                if not {"waiting", "running", "elsewhere"} & set(self.states.values()):
                    return
                time.sleep(0.05)
        finally:
            self._stop()

    def _advance(self) -> None:
        """Decide about every job that is not running and not at its end."""
        for digest, job in self.jobs.items():
            state = self.states[digest]
            if state not in ("waiting", "elsewhere"):
                continue
            before = self.states.get(job.after, "kept")
            if job.done:
                self.states[digest] = "kept" if state == "waiting" else "finished"
            elif before in ("failed", "given up"):
                self.states[digest] = "given up"
            elif before in DONE and len(self._running) < self.at_once:
                self._start(digest, job)

    def _start(self, digest: str, job: Job) -> None:
        lock = take_lock(job.folder / "lock")
        if lock is None:
            self.states[digest] = "elsewhere"
            return
        if job.done:  # another schedule finished it between our look and our lock
            os.close(lock)
            return
        previous = self.jobs[job.after].folder if job.after else None
        spec = {"plan": job.plan, "folder": job.folder.resolve(), "previous": previous and previous.resolve()}
        write_json(job.folder / "spec.json", spec)
        with os_errors(job.folder / LOG):
            log = (job.folder / LOG).open("ab")
        with log:
            process = subprocess.Popen(
                [*self.command, str(job.folder / "spec.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C reaches it through us, with its own children
            )
        self._running[digest] = Running(process, lock)
        self.states[digest] = "running"

    def _collect(self) -> None:
        """Take note of the processes that have ended."""
        for digest, running in list(self._running.items()):
            status = running.process.poll()
            if status is None:
                continue
            os.close(self._running.pop(digest).lock)
            if status == 0 and self.jobs[digest].done:
                self.states[digest] = "finished"
            else:
                self.states[digest] = "failed"
                self.failures[digest] = _failure(self.jobs[digest], status)

    def _stop(self) -> None:
        """End what still runs: first politely, then not."""
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
            for running in self._running.values():
                if running.process.poll() is None:
                    os.killpg(running.process.pid, number)
            for running in self._running.values():
                try:
                    running.process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        for running in self._running.values():
            os.close(running.lock)
        self._running.clear()


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in the order in which they are started when several could be: most stages still to follow first."""
    by_digest = {job.digest: job for job in jobs}
    following = dict.fromkeys(by_digest, 0)
    for job in jobs:
        steps, digest = 1, job.after
        while digest is not None:
            following[digest] = max(following[digest], steps)
            steps, digest = steps + 1, by_digest[digest].after
    return sorted(jobs, key=lambda job: -following[job.digest])


def shared_threads(at_once: int) -> int:
    """Threads for each stage: the cores we may use, shared out. Fixed, so that a resumed stage computes the same."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // at_once)


def _failure(job: Job, status: int, lines: int = 15) -> str:
    """What went wrong with a stage, and the last lines that it wrote."""
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    how = f"ended without {RESULT}" if status == 0 else how
    tail = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    said = "".join(f"\n    {line}" for line in tail) or "\n    (it wrote nothing)"
    return f"stage {job.name} of {', '.join(job.runs)} {how}; the end of {job.folder / LOG}:{said}"
