"""Cold start: a teacher answers problems under a prompt; what is well formed and right becomes data for fine-tuning.

The folder of a cold start:

    settings.json   prompt, rule, dialect and teacher: a resumed run must have the same
    all.jsonl       one row a response or failure, with its verdict, in the order in which they came; `seconds` since
                    the row before it, or since the beginning of that attempt
    kept.jsonl      {problem, question, answer, prompt, trace, checker}: what passed, in the order of the problems
    table.json      the counts and rates per data set (`tabulate`)

Rows are written as they come, so that a killed run loses no more than the answers in flight. A resumed run asks again
for failures (unless they are permanent), never for responses.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pydantic import Field

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.run.config import Config
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import JsonlWriter, read_jsonl, write_jsonl
from polythink.run.progress import Progress
from polythink.run.table import markdown_table
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import first_block
from polythink.trace.validity import check, check_rule

# teacher(problem, prompt, sample) -> response; `prompt` has the question filled in. It is called from several threads.
Teacher = Callable[[Problem, str, int], str]


class TeacherError(Exception):
    """One failed call. `reason` is short and stable, to be counted; a `permanent` failure is not tried again.

    `retry_after`: seconds that the teacher asked us to wait. `text`: what there is of a response that was cut off.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        permanent: bool = False,
        retry_after: float | None = None,
        text: str | None = None,
    ):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.permanent = reason, detail, permanent
        self.retry_after, self.text = retry_after, text


class RetryPolicy(Config):
    """How often a failed call is repeated, and how long we wait: first `wait` seconds, then twice that, and so on.

    Waits vary by half up and down, so that callers do not come back all at once. A teacher that asks for more than
    `longest_asked` seconds is left alone until the run is resumed. After `give_up_after` problems in a row without any
    response the whole run stops: the teacher is down, and what is saved can be resumed.
    """

    retries: int = Field(4, ge=0)
    wait: float = Field(1.0, ge=0)
    longest_wait: float = Field(60.0, ge=0)
    longest_asked: float = Field(600.0, ge=0)
    give_up_after: int = Field(50, ge=1)

    def is_over(self, failures: int, error: TeacherError) -> bool:
        """Whether not to try again after `error`, with `failures` repeated failures before it."""
        return error.permanent or failures >= self.retries or (error.retry_after or 0) > self.longest_asked

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Seconds before the next try, after `failures` failed ones; never sooner than the teacher asked."""
        wait = min(self.wait * 2 ** (failures - 1), self.longest_wait) * random.uniform(0.5, 1.5)
        return max(wait, retry_after or 0.0)


PATIENCE = RetryPolicy()


@dataclass(frozen=True)
class Job:
    """One question to ask: sample number `sample` of a problem."""

    problem: Problem
    sample: int


@dataclass(frozen=True)
class Reply:
    """What came of a job: a response, or the failure that was left after all retries."""

    trace: str | None
    error: TeacherError | None = None
    retried: tuple[str, ...] = ()  # reasons of the failed calls that were repeated


def run_coldstart(
    problems: Iterable[Problem],
    teacher: Teacher,
    prompt: Prompt,
    rule: str,
    out: str | Path,
    *,
    samples: int = 1,
    right_only: bool = True,
    concurrency: int = 8,
    patience: RetryPolicy = PATIENCE,
    about_teacher: Mapping[str, Any] | None = None,
    dialect: Dialect = PARALLEL_R1,
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Ask `samples` responses to every problem and keep what is valid under `rule` and (if `right_only`) right.

    Goes on where an earlier run in the folder `out` stopped. `about_teacher` is recorded, and compared on resuming.
    Returns the table (see `tabulate`). Raises `UserError` where the folder holds a cold start of other settings, where
    the teacher raises one, and where it has failed `patience.give_up_after` times in a row.
    """
    if samples < 1 or concurrency < 1:
        raise UserError(f"samples and concurrency must be 1 or more, not {samples} and {concurrency}")
    jobs = list(dict.fromkeys(Job(problem, sample) for problem in problems for sample in range(samples)))
    if not jobs:
        raise UserError("no problems to ask: the set is empty")
    check_rule(rule, dialect)
    out = Path(out)
    _check_settings(
        out / "settings.json",
        {
            "prompt": {"name": prompt.name, "hash": prompt.hash},
            "rule": rule,
            "dialect": dialect.name,
            "right_only": right_only,
            "teacher": dict(about_teacher or {}),
        },
    )
    rows = rows_so_far(out / "all.jsonl")

    def ask(job: Job, stopped: threading.Event) -> Reply:
        return _ask(teacher, job, prompt.fill(job.problem.question), patience, stopped)

    last = time.monotonic()

    def record(job: Job, reply: Reply) -> None:
        nonlocal last
        row = _row(job, reply, prompt, rule, dialect, judge, right_only)
        before, last = last, time.monotonic()
        writer.write(row | {"seconds": last - before})
        rows[_identity(row)] = row

    todo = [job for job in jobs if _must_ask(rows.get(_identity_of(job)))]
    with JsonlWriter(out / "all.jsonl") as writer, nullcontext(grader) if grader else Grader(dialect=dialect) as judge:
        try:
            _ask_all(todo, ask, record, concurrency, patience.give_up_after)
        finally:
            found = [rows.get(_identity_of(job)) for job in jobs]
            write_jsonl(out / "kept.jsonl", (_kept(row) for row in found if row and row["kept"]))
            table = tabulate(found, [job.problem.source for job in jobs])
            write_json(out / "table.json", table)
    return table


# ---- what is there already ----


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new cold start; refuse to mix two that differ."""
    settings = json.loads(json.dumps(settings))  # as they will be read back
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(path)
    for key, value in settings.items():
        if before.get(key) != value:
            raise UserError(
                f"{path.parent} holds a cold start with {key} {before.get(key)!r}, now it is {value!r}; "
                "give the same, or another folder"
            )


def _identity_of(job: Job) -> tuple:
    problem = job.problem
    return (problem.source, problem.key, problem.question, problem.answer, job.sample)


def _identity(row: dict[str, Any]) -> tuple:
    return (row["source"], row["problem"], row["question"], row["answer"], row["sample"])


def rows_so_far(path: Path) -> dict[tuple, dict[str, Any]]:
    """The last row of each job; an earlier one is a failure that was asked again."""
    try:
        return {_identity(row): row for row in read_jsonl(path)} if path.exists() else {}
    except KeyError as error:
        raise UserError(f"{path} was not written by a cold start: a row has no field {error}") from None


def _must_ask(row: dict[str, Any] | None) -> bool:
    return row is None or (row["error"] is not None and not row["permanent"])


# ---- asking ----


def _ask_all(
    jobs: list[Job],
    ask: Callable[[Job, threading.Event], Reply],
    record: Callable[[Job, Reply], None],
    concurrency: int,
    give_up_after: int,
) -> None:
    """Ask all jobs and record each reply as it comes, in this thread. What has come is recorded on the way out too."""
    failed_in_a_row = 0
    with Progress(len(jobs), "cold start") as bar, _Workers(jobs, ask, concurrency) as askers:
        try:
            while item := askers.next_reply():
                record(*item)
                askers.drop_reply()
                bar.advance(1)
                error = item[1].error
                failed_in_a_row = failed_in_a_row + 1 if error and not error.permanent else 0
                if failed_in_a_row == give_up_after:
                    raise UserError(
                        f"stopped: the teacher failed for {give_up_after} problems in a row, the last time with "
                        f"{error}; the responses so far are saved, run the same again to go on"
                    )
        finally:
            for item in askers.undropped_replies():
                record(*item)


def _ask(teacher: Teacher, job: Job, prompt: str, patience: RetryPolicy, stopped: threading.Event) -> Reply:
    """Call the teacher until it answers, fails for good, or the retries are used up."""
    retried: list[str] = []
    while True:
        try:
            return Reply(teacher(job.problem, prompt, job.sample), None, tuple(retried))
        except TeacherError as error:
            if patience.is_over(len(retried), error):
                return Reply(error.text, error, tuple(retried))
            retried.append(error.reason)
            if stopped.wait(patience.pause(len(retried), error.retry_after)):
                return Reply(None, error, tuple(retried))


class _Workers:
    """Threads that ask. No more than twice as many jobs as threads are out at a time: so few can a kill lose.

    A reply is read, recorded, and only then dropped: wherever an interruption strikes, what has come is still here.
    The threads are daemons: an interrupted run does not wait for a slow teacher.
    """

    def __init__(self, jobs: Iterable[Job], ask: Callable[[Job, threading.Event], Reply], concurrency: int):
        self._jobs, self._ask, self._concurrency = iter(jobs), ask, concurrency
        self._todo: SimpleQueue[Job | None] = SimpleQueue()
        self._come: deque[tuple[Job, Reply | BaseException]] = deque()
        self._coming = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._out = 0

    def __enter__(self) -> _Workers:
        for _ in range(self._concurrency):
            threading.Thread(target=self._work, daemon=True).start()
        self._hand_out(2 * self._concurrency)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for _ in range(self._concurrency):
            self._todo.put(None)

    def _hand_out(self, n: int) -> None:
        for job in islice(self._jobs, n):
            self._todo.put(job)
            self._out += 1

    def _work(self) -> None:
        while (job := self._todo.get()) is not None and not self._stopped.is_set():
            try:
                self._come.append((job, self._ask(job, self._stopped)))
            except BaseException as error:  # not ours to judge: raised again where the reply is read
                self._come.append((job, error))
            self._coming.release()

    def next_reply(self) -> tuple[Job, Reply] | None:
        """Wait for the next reply and read it; None when all jobs are done."""
        if not self._out:
            return None
        while not self._coming.acquire(timeout=0.5):
            pass  # a wait without end can miss Ctrl-C where a thread of ours has received it
        job, reply = self._come[0]
        if isinstance(reply, BaseException):
            raise reply
        return job, reply

    def drop_reply(self) -> None:
        """The reply that was read is safe: another job may go out."""
        self._come.popleft()
        self._out -= 1
        self._hand_out(1)

    def undropped_replies(self) -> list[tuple[Job, Reply]]:
        """The replies that have come and were not dropped: saved when a run is interrupted."""
        return [(job, reply) for job, reply in list(self._come) if isinstance(reply, Reply)]


# ---- judging ----


def _row(
    job: Job, reply: Reply, prompt: Prompt, rule: str, dialect: Dialect, judge: Grader, right_only: bool
) -> dict[str, Any]:
    """The row of all.jsonl: what was asked, what came back, and the verdict."""
    problem, error = job.problem, reply.error
    row = {
        "source": problem.source,
        "problem": problem.key,
        "sample": job.sample,
        "question": problem.question,
        "answer": problem.answer,
        "checker": problem.checker,
        "prompt": prompt.name,
        "trace": reply.trace,
        "retried": list(reply.retried),
        "error": error.reason if error else None,
        "detail": error.detail if error else "",
        "permanent": bool(error and error.permanent),
        "valid": False,
        "reason": None,
        "parallel": False,
        "verdict": None,
        "extracted": None,
        "kept": False,
    }
    if error:
        return row
    form = check(reply.trace, rule, dialect)
    grade = judge.grade(reply.trace, problem)
    return row | {
        "valid": form.valid,
        "reason": form.reason,
        "parallel": form.valid and first_block(reply.trace, dialect) is not None,
        "verdict": grade.verdict,
        "extracted": grade.extracted,
        "kept": form.valid and (grade.verdict == "right" or not right_only),
    }


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("problem", "question", "answer", "prompt", "trace", "checker")}


def rejection(row: dict[str, Any]) -> str | None:
    """Why a row of all.jsonl was not kept, the first cause only; None for a kept one."""
    if row["kept"]:
        return None
    if row["error"]:
        return f"error: {row['error']}"
    return f"answer: {row['verdict']}" if row["valid"] else f"form: {row['reason']}"


# ---- the table ----


def tabulate(rows: list[dict[str, Any] | None], sources: list[str]) -> list[dict[str, Any]]:
    """Counts and rates per data set. `rows[i]` is what is known of job i, of the set `sources[i]`; None if not asked.

    `valid_rate`, `right_rate`, `kept_rate` and `parallel_rate` (valid with a block) are shares of the responses.
    jobs = missing + kept + the sum of `rejected`. `retried` counts failed calls that were repeated, by reason.
    """
    table = []
    for source in dict.fromkeys(sources):
        known = [row for row, of in zip(rows, sources, strict=True) if of == source and row]
        answers = [row for row in known if not row["error"]]
        counts = {
            "valid": sum(row["valid"] for row in answers),
            "right": sum(row["verdict"] == "right" for row in answers),
            "kept": sum(row["kept"] for row in answers),
            "parallel": sum(row["parallel"] for row in answers),
        }
        table.append(
            {"problems": source, "jobs": sources.count(source), "missing": sources.count(source) - len(known)}
            | {"responses": len(answers)}
            | counts
            | {f"{name}_rate": count / len(answers) if answers else None for name, count in counts.items()}
            | {"rejected": _count(reason for row in known if (reason := rejection(row)))}
            | {"retried": _count(reason for row in known for reason in row["retried"])}
        )
    return table


def _count(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())


def _percent(rate: float | None) -> str | None:
    return None if rate is None else f"{rate:.1%}"


def show_table(table: list[dict[str, Any]]) -> str:
    """The table as Markdown, one line a data set."""
    columns = ("problems", "jobs", "responses", "valid", "right", "kept", "with a block", "not kept because")
    return markdown_table(
        columns,
        (
            (
                line["problems"],
                line["jobs"],
                line["responses"],
                *(_percent(line[f"{name}_rate"]) for name in ("valid", "right", "kept", "parallel")),
                ", ".join(f"{reason} {count}" for reason, count in line["rejected"].items()),
            )
            for line in table
        ),
    )
