"""Cold start: a teacher answers problems under a prompt; what is well formed and right becomes data for fine-tuning.

The folder of a cold start:

    settings.json   prompt, rule, dialect and teacher: a resumed run must have the same
    all.jsonl       one row per response or failure with its verdict, in the order of arrival; `seconds` since the row
                    before it, or since the beginning of that attempt
    kept.jsonl      {problem, question, answer, prompt, trace, checker}: what passed, in the order of the problems
    table.json      the counts and rates per data set (`tabulate`)

Rows are written as they arrive, so that a killed run loses no more than the answers in flight. A resumed run asks again
for failures (unless they are permanent), never for responses.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import JsonlWriter, write_jsonl
from polythink.run.progress import Progress
from polythink.teachers.pool import run_jobs
from polythink.teachers.rows import KEPT, Job, judge, must_ask, rows_so_far, tabulate
from polythink.teachers.teacher import Reply, RetryPolicy, Teacher, ask
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.validity import check_rule


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
    teacher raises one, or if it has failed `retry.give_up_after` times in a row.
    """
    if samples < 1 or concurrency < 1:
        raise UserError(f"samples and concurrency must be 1 or more, got {samples} and {concurrency}")
    jobs = list(dict.fromkeys(Job(problem, sample) for problem in problems for sample in range(samples)))
    if not jobs:
        raise UserError("no problems to ask: the set is empty")
    check_rule(rule, dialect)
    out, retry = Path(out), retry or RetryPolicy()
    facts = {"rule": rule, "dialect": dialect.name, "right_only": right_only, "teacher": dict(about_teacher or {})}
    _check_settings(out / "settings.json", {"prompt": {"name": prompt.name, "hash": prompt.hash}, **facts})
    rows = rows_so_far(out / "all.jsonl")
    last = time.monotonic()

    def call(job: Job, stopped: threading.Event) -> Reply:
        return ask(teacher, job.problem, prompt.fill(job.problem.question), job.sample, retry, stopped)

    def record(job: Job, reply: Reply) -> None:
        nonlocal last
        row = judge(job, reply, prompt.name, rule, dialect, judging, right_only)
        before, last = last, time.monotonic()
        writer.write(row | {"seconds": last - before})
        rows[job.identity] = row

    todo = [job for job in jobs if must_ask(rows.get(job.identity))]
    with (
        JsonlWriter(out / "all.jsonl") as writer,
        nullcontext(grader) if grader else Grader(dialect=dialect) as judging,
    ):
        try:
            _ask_all(todo, call, record, concurrency, retry.give_up_after)
        finally:
            found = [rows.get(job.identity) for job in jobs]
            kept = ({key: row[key] for key in KEPT} for row in found if row and row["kept"])
            write_jsonl(out / "kept.jsonl", kept)
            table = tabulate(found, [job.problem.source for job in jobs])
            write_json(out / "table.json", table)
    return table


def _ask_all(
    jobs: list[Job],
    call: Callable[[Job, threading.Event], Reply],
    record: Callable[[Job, Reply], None],
    concurrency: int,
    give_up_after: int,
) -> None:
    """Ask and record all jobs; `UserError` after `give_up_after` failures in a row."""
    failed_in_a_row = 0
    with Progress(len(jobs), "cold start") as bar, closing(run_jobs(jobs, call, record, concurrency)) as done:
        for _, reply in done:
            bar.advance(1)
            failed_in_a_row = failed_in_a_row + 1 if reply.error and not reply.error.permanent else 0
            if failed_in_a_row == give_up_after:
                raise UserError(
                    f"stopped: the teacher failed for {give_up_after} problems in a row, the last time with "
                    f"{reply.error}; the responses so far are saved, run the same command again to continue"
                )


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new cold start; `UserError` if an earlier one in the folder had others."""
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
