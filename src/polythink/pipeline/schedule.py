"""Run stages as processes: each once, after the stage it builds on, a limited number at a time.

A stage is done when its folder holds `result.json`. After any interruption, running the schedule again does only what
is missing. The process of a stage inherits a lock on its folder, so that two schedules, or a schedule and the
processes that a killed one left behind, never run the same stage at the same time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polythink.pipeline.nursery import Forked, Nursery
from polythink.run.folder import os_errors, take_lock, write_json

State = Literal["waiting", "running", "done", "failed"]
RESULT, LOG = "result.json", "log.txt"
PATIENCE = 10.0  # seconds that a stage gets to end by itself when the schedule is stopped
# what is said beside a state that does not say it all
BEFORE, ELSEWHERE, OTHERS = "earlier", "runs in another process", "by another process"
BLOCKED = "not run: a stage before it failed"

Show = Callable[[Mapping[str, State], Mapping[str, str]], None]


@dataclass(frozen=True)
class Job:
    """A stage that runs once, however many `runs` need it. `digest` identifies everything that determines it."""

    name: str
    digest: str
    after: str | None  # digest of the stage that it builds on
    plan: dict  # what the stage's process reads
    folder: Path
    runs: tuple[str, ...]

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).is_file()


@dataclass
class Running:
    """A stage's process, and the lock that they share."""

    process: subprocess.Popen | Forked
    lock: int


class Schedule:
    """The jobs by digest, the state of each, and notes beside some of these states.

    A stage reads a JSON file {plan, folder, previous}, whose path is appended to `command` (None: the process is forked
    from one that has imported what `polythink.pipeline.stage` does). It must write `result.json` last, and continue
    from what it finds in the folder when it is started again.
    """

    def __init__(
        self, jobs: Sequence[Job], at_once: int, command: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        self.jobs = {job.digest: job for job in longest_first(jobs)}
        self.states: dict[str, State] = dict.fromkeys(self.jobs, "waiting")
        self.notes: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.at_once = at_once
        self.threads = dict.fromkeys(self.jobs, threads) if threads else shared_threads(jobs, at_once)
        self.command = command
        self._environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._nursery = Nursery(self._environment)
        self._running: dict[str, Running] = {}

    def run(self, show: Show = lambda states, notes: None) -> None:
        """Run until every job is done or failed. `show` is called with states and notes several times per second."""
        try:
            while True:
                self._collect()
                self._advance()
                show(self.states, self.notes)
                if not {"waiting", "running"} & set(self.states.values()):
                    return
                time.sleep(0.05)
        finally:
            try:
                self._stop()
            finally:
                self._nursery.close()

    def _advance(self) -> None:
        """Decide about every job that waits."""
        for digest, job in self.jobs.items():
            if self.states[digest] != "waiting":
                continue
            before = self.states.get(job.after, "done")
            if job.done:
                self.states[digest] = "done"
                self.notes[digest] = OTHERS if self.notes.get(digest) == ELSEWHERE else BEFORE
            elif before == "failed":
                self.states[digest], self.notes[digest] = "failed", BLOCKED
            elif before == "done" and len(self._running) < self.at_once:
                self._start(digest, job)

    def _start(self, digest: str, job: Job) -> None:
        """Start the job, unless another process runs it (then it keeps waiting) or has just finished it."""
        lock = take_lock(job.folder / "lock")
        if lock is None:
            self.notes[digest] = ELSEWHERE
            return
        if job.done:  # another schedule finished it after we looked and before we had the lock
            os.close(lock)
            return
        self.notes.pop(digest, None)
        previous = self.jobs[job.after].folder if job.after else None
        spec = {"plan": job.plan, "folder": job.folder.resolve(), "previous": previous and previous.resolve()}
        write_json(job.folder / "spec.json", spec)
        with os_errors(job.folder / LOG):
            log = (job.folder / LOG).open("ab")
        with log:
            process = self._process(job.folder / "spec.json", self.threads[digest], log.fileno(), lock)
        self._running[digest] = Running(process, lock)
        self.states[digest] = "running"

    def _process(self, spec: Path, threads: int, log: int, lock: int) -> subprocess.Popen | Forked:
        if self.command is None:
            return self._nursery.start(spec, threads, log, lock)
        return subprocess.Popen(
            [*self.command, str(spec)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**self._environment, "OMP_NUM_THREADS": str(threads)}, pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches the stage and its children through us
        )  # fmt: skip

    def _collect(self) -> None:
        """Take note of the processes that have ended."""
        for digest, running in list(self._running.items()):
            status = running.process.poll()
            if status is None:
                continue
            os.close(self._running.pop(digest).lock)
            self.states[digest] = "done" if status == 0 and self.jobs[digest].done else "failed"
            if self.states[digest] == "failed":
                self.failures[digest] = _failure(self.jobs[digest], status)

    def _stop(self) -> None:
        """End what still runs: first with SIGTERM, then with SIGKILL."""
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
            for running in self._running.values():
                if running.process.poll() is None:
                    with suppress(ProcessLookupError):  # it has ended since
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
    """The jobs in the order in which they start when several could: most stages still to follow first."""
    by_digest = {job.digest: job for job in jobs}
    following = dict.fromkeys(by_digest, 0)
    for job in jobs:
        steps, digest = 1, job.after
        while digest is not None:
            following[digest] = max(following[digest], steps)
            steps, digest = steps + 1, by_digest[digest].after
    return sorted(jobs, key=lambda job: -following[job.digest])


def shared_threads(jobs: Sequence[Job], at_once: int) -> dict[str, int]:
    """Threads of each stage, by digest: the cores of this process, shared out among those that may run beside it.

    A stage that all others follow, or come before, has all cores. Fixed, so that a resumed stage computes the same.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    after = {job.digest: job.after for job in jobs}
    before: dict[str, set[str]] = {}  # each stage and all that it builds on
    for job in jobs:
        line, digest = set(), job.digest
        while digest is not None:
            line.add(digest)
            digest = after[digest]
        before[job.digest] = line
    beside = {a: sum(a not in before[b] and b not in before[a] for b in before) for a in before}
    return {digest: max(1, cores // min(at_once, 1 + others)) for digest, others in beside.items()}


def _failure(job: Job, status: int, lines: int = 15) -> str:
    """What went wrong with a stage, and the last lines that it wrote."""
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    how = f"ended without {RESULT}" if status == 0 else how
    try:
        tail = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:  # gone: one stage's fault, no reason to end the others
        tail = []
    output = "".join(f"\n    {line}" for line in tail) or "\n    (it wrote nothing)"
    return f"stage {job.name} of {', '.join(job.runs)} {how}; the end of {job.folder / LOG}:{output}"
