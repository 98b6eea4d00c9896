"""`polythink data`: which problem sets there are, what is in them, what is wrong with them; grading of given texts."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from polythink.cli.coldstart import assemble, coldstart
from polythink.cli.options import AsJson, File, argument, complete_problems
from polythink.errors import UserError, did_you_mean
from polythink.problems.answers import VERDICTS, Grader
from polythink.problems.audit import Audit, audit, known_notes
from polythink.problems.problem import CHECKERS, Problem, ProblemSet
from polythink.problems.sets import SOURCES, Source, load_problems, local_file, reference_answer
from polythink.run.jsonl import read_rows
from polythink.run.progress import Progress
from polythink.run.table import markdown_table
from polythink.text.data.sets import TEXTS

KEYS_WIDTH = 48  # columns for a finding's problems in the table; --json has them all
CUT = {"completed": "completed from the column solution", "cut": "no answer can equal them"}  # of references
CHUNK = 64  # texts that are graded between two steps of the progress bar

ABOUT = "List and inspect problem sets, make a cold start, grade texts."
app = typer.Typer(help=ABOUT, no_args_is_help=True, add_completion=False)
app.command("coldstart")(coldstart)
app.command("assemble")(assemble)


@app.command("list")
def list_sets() -> None:
    """List the named sets and where each comes from: problems, then texts for the translation recipes.

    Files need no name: every command that takes a set takes a .parquet or .jsonl file as well, and recipes for texts
    take two files line by line, as in corpus/train.{en,de}.
    """
    head = ("splits", "from", "what")
    rows = [(name, " ".join(source.splits), _origin(source), source.about) for name, source in SOURCES.items()]
    print(markdown_table(("problems", *head), rows))
    origins = {name: f"hub: {text.repo}" if text.repo else "made here" for name, text in TEXTS.items()}
    rows = [(name, " ".join(text.splits), origins[name], text.about) for name, text in TEXTS.items()]
    print(markdown_table(("texts", *head), rows), end="")


def _origin(source: Source) -> str:
    files = ", ".join(str(file) for split in source.splits if (file := local_file(source, split)))
    on_hub = f"hub: {source.repo}" if source.repo else "a file only"
    return "made here" if source.level else files or on_hub


@app.command("show")
def show(
    problems: Annotated[str, argument("PROBLEMS", "A name such as math or gsm8k:train, or a file.", complete_problems)],
    limit: Annotated[int, typer.Option(min=0, help="How many problems to print.")] = 3,
    against: Annotated[str | None, typer.Option(help="Another set or file: which problems are also in it?")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a problem set, its known faults and those that can be found in it.

    Example: polythink data show amc23 --against dapo
    """
    problem_set = load_problems(problems, keep_repeats=True)
    found = audit(problem_set, load_problems(against) if against else None)
    if as_json:
        first = [vars(problem) for problem in problem_set.problems[:limit]]
        print(json.dumps({**found.to_json(), "notes": problem_set.notes, "first": first}, ensure_ascii=False))
    else:
        _print_set(problem_set, found, limit)


@app.command("grade")
def grade(
    file: File,
    text: Annotated[str, typer.Option(help="Name of the column with the responses.")],
    answer: Annotated[str, typer.Option(help="Name of the column with the reference answers.")],
    checker: Annotated[str, typer.Option(help=f"One of {', '.join(CHECKERS)}.")] = "math",
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that one answer may take.")] = 5.0,
    as_json: AsJson = False,
    each: Annotated[bool, typer.Option("--each", help="Print a JSON line {row, verdict, extracted} for each.")] = False,
) -> None:
    """Grade texts that were written elsewhere.

    Example: polythink data grade outputs.jsonl --text response --answer answer
    """
    if checker not in CHECKERS:
        raise UserError(f"no checker {checker!r}{did_you_mean(checker, CHECKERS)}")
    counts: Counter[str] = Counter()
    answered = list(_answered(file, text, answer, checker, counts))
    if not answered:
        raise UserError(f"{file} holds no rows")
    with Grader(seconds=deadline) as grader, Progress(len(answered), "grading") as bar:
        for chunk in (answered[i : i + CHUNK] for i in range(0, len(answered), CHUNK)):
            for (_, problem), graded in zip(chunk, grader.grade_many(chunk), strict=True):
                counts[graded.verdict] += 1
                if each:
                    row = {"row": int(problem.key), "verdict": graded.verdict, "extracted": graded.extracted}
                    print(json.dumps(row, ensure_ascii=False))
            bar.advance(len(chunk))
    total, verdicts = len(answered), {verdict: counts[verdict] for verdict in VERDICTS}
    if as_json:
        broken = {fate: counts[fate] for fate in CUT}
        print(json.dumps({"file": str(file), "rows": total, "verdicts": verdicts, **broken}))
    elif not each:
        rows = [(verdict, count, 100 * count / total) for verdict, count in verdicts.items()]
        print(markdown_table(("verdict", "texts", "%"), rows), end="")
        for fate, meaning in CUT.items():
            if counts[fate]:
                print(f"{counts[fate]:,} reference answers are cut inside a brace: {meaning}")


def _print_set(problem_set: ProblemSet, found: Audit, limit: int) -> None:
    print(f"{problem_set.name}: {len(problem_set):,} problems")
    known = known_notes(problem_set)  # in the table below
    for note in (note for note in problem_set.notes if note not in known):
        print(f"note: {note}")
    for problem in problem_set.problems[:limit]:
        print(f"\n[{problem.key}] {problem.question}\n  answer: {problem.answer}")
    if not found.findings:
        print("\nno faults found")
        return
    keys = [textwrap.shorten(" ".join(f.keys), KEYS_WIDTH, placeholder=" ...") for f in found.findings]
    rows = [(len(f.groups), f.meaning, shown) for f, shown in zip(found.findings, keys, strict=True)]
    print("\n" + markdown_table(("count", "fault", "problems"), rows), end="")


def _answered(file: Path, text: str, answer: str, checker: str, counts: Counter[str]) -> Iterator[tuple[str, Problem]]:
    """Each row's text and the problem it answers. Counts the references that were completed, or are cut for good."""
    for number, row in enumerate(read_rows(file)):
        for column in (text, answer):
            if column not in row:
                raise UserError(f"row {number} of {file} has no column {column!r}{did_you_mean(column, row)}")
        if not isinstance(row[text], str | None):
            raise UserError(f"row {number} of {file}: {text} is no text but a {type(row[text]).__name__}")
        reference, _, completed = reference_answer(row, answer)
        if checker != "math":
            reference, completed = str(row[answer] or ""), False
        if not reference:
            raise UserError(f"row {number} of {file} has no reference answer in its column {answer!r}")
        counts["completed"] += completed
        counts["cut"] += reference.count("{") > reference.count("}")
        yield row[text] or "", Problem(str(number), "", reference, checker)
