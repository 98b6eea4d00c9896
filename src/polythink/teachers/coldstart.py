"""Cold start: a teacher answers problems under a prompt; what is well formed and right becomes data for fine-tuning.

The folder of a cold start:

    settings.json   prompt, rule, dialect and teacher: a resumed run must have the same
    all.jsonl       one row per response or failure with its verdict, in the order of arrival; `seconds` since the row
                    before it, or since the beginning of that attempt
    kept.jsonl      {problem, question, answer, prompt, trace, checker}: what passed, in the order of the problems
    table.json      the counts and rates per data set (`tabulate`)
    coldstart.lock  held while a process is at work in the folder; a second one is refused

Rows are written as they arrive, so that a killed run loses no more than the answers in flight. A resumed run asks first
for what was never asked, then again for failures (unless they are permanent), never for responses.

A refusal (`TeacherError.refused`) may be the problem's own, as where its prompt is too long, or every request's, as
where the server does not know a field. It is the problem's own, and permanent, once a request that was sent after it
has been answered; its row is written then. Several in a row, with no response between them, stop the run; they are
asked again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.run.folder import write_json
from polythink.run.jsonl import JsonlWriter, write_jsonl
from polythink.run.pool import run_jobs
from polythink.run.progress import Progress
from polythink.teachers.folder import check_settings, coldstart_lock
from polythink.teachers.record import Recorder
from polythink.teachers.rows import KEPT, Job, judge, kept_of, must_ask, rows_so_far, tabulate
from polythink.teachers.teacher import Reply, RetryPolicy, Teacher, ask
from polythink.trace.dialect import PARALLEL_R1, Dialect, dialect_facts
from polythink.trace.validity import check_rule

log = logging.getLogger(__name__)
AGAIN = "run the same command again (train: with --resume) to continue"


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
    retry: RetryPolicy | None = None,
    about_teacher: Mapping[str, Any] | None = None,
    dialect: Dialect = PARALLEL_R1,
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Ask for `samples` responses to every problem; keep what is well formed under `rule` and (if `right_only`) right.

    Continues where an earlier run in the folder `out` stopped. `about_teacher` is recorded, and compared on resuming.
    Returns the table (see `tabulate`). Raises `UserError` if the folder holds a cold start with other settings, if the
    teacher raises one, or if it has failed too often in a row (`RetryPolicy`). That nothing was kept is no error here:
    see `check_kept`.
    """
    if samples < 1 or concurrency < 1:
        raise UserError(f"samples and concurrency must be 1 or more, got {samples} and {concurrency}")
    jobs = list(dict.fromkeys(Job(problem, sample) for problem in problems for sample in range(samples)))
    if not jobs:
        raise UserError("no problems to ask: the set is empty")
    check_rule(rule, dialect)
    out, retry, reached = Path(out), retry or RetryPolicy(), threading.Event()
    facts = {"rule": rule, **dialect_facts(dialect), "right_only": right_only, "teacher": dict(about_teacher or {})}

    def call(job: Job, stopped: threading.Event) -> Reply:
        return ask(teacher, job.problem, prompt.fill(job.problem.question), job.sample, retry, stopped, reached)

    def row_of(job: Job, reply: Reply) -> dict[str, Any]:
        return judge(job, reply, prompt.name, rule, dialect, judging, right_only)

    with coldstart_lock(out):
        check_settings(out, {"prompt": {"name": prompt.name, "hash": prompt.hash}, **facts})
        rows = rows_so_far(out / "all.jsonl")
        todo = sorted((job for job in jobs if must_ask(rows.get(job.identity))), key=lambda job: job.identity in rows)
        with (
            JsonlWriter(out / "all.jsonl") as writer,
            nullcontext(grader) if grader else Grader(dialect=dialect) as judging,
        ):
            recorder = Recorder(writer, rows, row_of, retry, reached)
            try:
                _ask_all(todo, call, recorder, concurrency)
            except (KeyboardInterrupt, SystemExit):  # after the rows that are recorded on the way out
                recorder.interrupted = True
                raise
            finally:
                try:
                    recorder.close()
                finally:
                    found = [rows.get(job.identity) for job in jobs]
                    table = tabulate(found, [job.problem.source for job in jobs])
                    write_jsonl(out / "kept.jsonl", ({key: row[key] for key in KEPT} for row in kept_of(found)))
                    write_json(out / "table.json", table)
                    if recorder.interrupted:
                        log.warning("%s", saved(table, out))
    return table


def _ask_all(
    jobs: list[Job], call: Callable[[Job, threading.Event], Reply], recorder: Recorder, concurrency: int
) -> None:
    """Ask and record all jobs; a `UserError` says that what came (if anything) is saved."""
    try:
        with (
            Progress(len(jobs), "cold start") as bar,
            closing(run_jobs(jobs, call, recorder.record, concurrency)) as done,
        ):
            for _ in done:
                bar.advance(1)
                if hopeless := recorder.hopeless():
                    done.throw(hopeless)
    except UserError as error:
        came = any(row["trace"] is not None for row in recorder.rows.values())
        raise UserError(f"{error}; the responses so far are saved, {AGAIN}" if came else str(error)) from None
    recorder.whole = True


def saved(table: Iterable[dict[str, Any]], out: Path) -> str:
    """What an interrupted run says."""
    jobs, responses, kept = (sum(line[name] for line in table) for name in ("jobs", "responses", "kept"))
    return f"{responses} of {jobs} responses are saved in {out}, {kept} of them kept; {AGAIN}"
