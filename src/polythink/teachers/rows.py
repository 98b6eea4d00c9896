"""The rows of a cold start: what was asked, what came back, the verdict on it, and counts of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.run.jsonl import read_jsonl
from polythink.run.table import markdown_table
from polythink.teachers.teacher import Reply
from polythink.trace.dialect import Dialect
from polythink.trace.parse import first_block
from polythink.trace.validity import check

KEPT = ("problem", "question", "answer", "prompt", "trace", "checker")  # fields of kept.jsonl

FIELDS = (
    "source", "problem", "sample", "question", "answer", "checker", "trace", "retried", "error", "permanent",
    "well_formed", "reason", "parallel", "verdict", "kept",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One question to ask: sample number `sample` of a problem."""

    problem: Problem
    sample: int

    @property
    def identity(self) -> tuple:
        """Equal to that of its row (`identity`)."""
        return (*self.problem.identity, self.sample)


def identity(row: dict[str, Any]) -> tuple:
    return (row["source"], row["problem"], row["question"], row["answer"], row["checker"], row["sample"])


def rows_so_far(path: Path) -> dict[tuple, dict[str, Any]]:
    """The last row of each job, by its identity; an earlier one is a failure that was asked again."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in read_jsonl(path) if path.exists() else ():
        if missing := [field for field in FIELDS if field not in row]:
            raise UserError(f"{path} was not written by a cold start: a row has no field {missing[0]!r}")
        try:
            found[identity(row)] = row
        except TypeError:  # a list or a mapping where a text should be
            raise UserError(f"{path} was not written by a cold start: a row belongs to no problem") from None
    return found


def kept_of(rows: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [row for row in rows if row and row["kept"]]


def must_ask(row: dict[str, Any] | None) -> bool:
    """Whether a job has to be asked (again): never, or in vain and not for good."""
    return row is None or (row["error"] is not None and not row["permanent"])


def judge(
    job: Job, reply: Reply, prompt: str, rule: str, dialect: Dialect, grader: Grader, right_only: bool
) -> dict[str, Any]:
    """The row of all.jsonl for a reply. `prompt` is the name of the prompt, `rule` that of the validity rule."""
    problem, error = job.problem, reply.error
    row = {
        "source": problem.source,
        "problem": problem.key,
        "sample": job.sample,
        "question": problem.question,
        "answer": problem.answer,
        "checker": problem.checker,
        "prompt": prompt,
        "trace": reply.trace,
        "retried": list(reply.retried),
        "error": error.reason if error else None,
        "detail": error.detail if error else "",
        "permanent": bool(error and error.permanent),
        "well_formed": False,
        "reason": None,
        "parallel": False,
        "verdict": None,
        "extracted": None,
        "kept": False,
    }
    if error:
        return row
    form = check(reply.trace, rule, dialect)
    grade = grader.grade(reply.trace, problem)
    return row | {
        "well_formed": form.valid,
        "reason": form.reason,
        "parallel": form.valid and first_block(reply.trace, dialect) is not None,
        "verdict": grade.verdict,
        "extracted": grade.extracted,
        "kept": form.valid and (grade.verdict == "right" or not right_only),
    }


def rejection(row: dict[str, Any]) -> str | None:
    """Why a row was not kept (the first cause); None if it was."""
    if row["kept"]:
        return None
    if row["error"]:
        return f"error: {row['error']}"
    return f"answer: {row['verdict']}" if row["well_formed"] else f"form: {row['reason']}"


# ---- the table ----


def tabulate(rows: Sequence[dict[str, Any] | None], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Counts and rates per data set. `rows[i]` is what is known of job i, of the set `sources[i]`; None if not asked.

    `well_formed_rate`, `right_rate`, `kept_rate` and `parallel_rate` (well formed with a block) are shares of the
    responses. jobs = missing + kept + the sum of `rejected`. `retried` counts repeated calls by the reason of failure.
    """
    table = []
    for source in dict.fromkeys(sources):
        known = [row for row, of in zip(rows, sources, strict=True) if of == source and row]
        answers = [row for row in known if not row["error"]]
        counts = {
            "well_formed": sum(row["well_formed"] for row in answers),
            "right": sum(row["verdict"] == "right" for row in answers),
            "kept": sum(row["kept"] for row in answers),
            "parallel": sum(row["parallel"] for row in answers),
        }
        jobs = sources.count(source)
        table.append(
            {"problems": source, "jobs": jobs, "missing": jobs - len(known), "responses": len(answers)}
            | counts
            | {f"{name}_rate": count / len(answers) if answers else None for name, count in counts.items()}
            | {"rejected": _count(reason for row in known if (reason := rejection(row)))}
            | {"retried": _count(reason for row in known for reason in row["retried"])}
        )
    return table


def check_kept(table: Iterable[dict[str, Any]], folder: str | Path) -> None:
    """`UserError` if nothing was kept: why, and the last failure in its own words."""
    lines = list(table)
    if any(line["kept"] for line in lines):
        return
    why = Counter({"not asked": missing} if (missing := sum(line["missing"] for line in lines)) else {})
    for line in lines:
        why.update(line["rejected"])
    rows = read_jsonl(Path(folder) / "all.jsonl")
    last = next((f"; the last error: {row['detail']}" for row in reversed(rows) if row["error"] and row["detail"]), "")
    reasons = ", ".join(f"{reason} {count}" for reason, count in why.most_common())
    raise UserError(
        f"nothing was kept of {sum(line['jobs'] for line in lines)}: {reasons}{last}; {folder} holds all that came"
    )


def show_table(table: Iterable[dict[str, Any]]) -> str:
    """The table as Markdown, one line per data set."""
    columns = ("problems", "jobs", "responses", "well formed", "right", "kept", "with a block", "not kept because")
    return markdown_table(
        columns,
        (
            (
                line["problems"],
                line["jobs"],
                line["responses"],
                *(_percent(line[f"{name}_rate"]) for name in ("well_formed", "right", "kept", "parallel")),
                ", ".join(f"{reason} {count}" for reason, count in line["rejected"].items()),
            )
            for line in table
        ),
    )


def _count(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())


def _percent(rate: float | None) -> str | None:
    return None if rate is None else f"{rate:.1%}"
