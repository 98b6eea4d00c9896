"""`polythink data`: which problem sets there are, what is in them, what is wrong with them; grading of given texts."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from polythink.cli.coldstart import assemble, coldstart
from polythink.cli.options import AsJson, DialectName, File, argument, complete_problems
from polythink.errors import UserError, did_you_mean
from polythink.problems.answers import Grader
from polythink.problems.audit import Audit, audit, known_notes
from polythink.problems.extract import final_part, said_answer, stated_answer
from polythink.problems.grade import VERDICTS
from polythink.problems.problem import ANSWER_RULES, Problem, ProblemSet
from polythink.problems.sets import Source, load_problems, local_file, sources
from polythink.problems.tasks.table import TASKS, get_task
from polythink.problems.tasks.task import Task
from polythink.run.jsonl import read_placed
from polythink.run.progress import Progress
from polythink.run.table import markdown_table
from polythink.text.data.sets import TEXTS, is_texts, load_texts
from polythink.trace.detect import find_dialect, foreign_dialect
from polythink.trace.dialect import DIALECTS, Dialect

KEYS_WIDTH = 48  # columns for a finding's problems in the table; --json has them all
CUT = {"completed": "completed from the column solution", "cut": "no answer can equal them"}  # of references
CHUNK = 64  # texts that are graded between two steps of the progress bar

ABOUT = "List and inspect problem sets, make a cold start, grade texts."
WHERE = (
    "Published sets are read from the folder that the environment variable POLYTHINK_DATA names, where it holds their "
    "files (gsm8k_test.parquet, aime24.parquet, ...: `polythink data list` names those that it finds), otherwise from "
    "the Hugging Face hub, which needs the package datasets."
)
app = typer.Typer(help=ABOUT, epilog=WHERE, no_args_is_help=True, add_completion=False)
app.command("coldstart", epilog=WHERE)(coldstart)
app.command("assemble", epilog=WHERE)(assemble)


@app.command("list", epilog=WHERE)
def list_sets() -> None:
    """List the named sets and where each comes from: problems, then texts for the translation recipes.

    Files need no name: every command that takes a set takes a .parquet or .jsonl file as well, and recipes for texts
    take two files line by line, as in corpus/train.{en,de}.
    """
    head = ("splits", "from", "what")
    rows = [(name, " ".join(source.splits), _origin(source), source.about) for name, source in sources().items()]
    print(markdown_table(("problems", *head), rows))
    origins = {name: f"hub: {text.repo}" if text.repo else "made here" for name, text in TEXTS.items()}
    rows = [(name, " ".join(text.splits), origins[name], text.about) for name, text in TEXTS.items()]
    print(markdown_table(("texts", *head), rows), end="")


def _origin(source: Source) -> str:
    files = ", ".join(str(file) for split in source.splits if (file := local_file(source, split)))
    on_hub = f"hub: {source.repo}" if source.repo else "a file only"
    return "made here" if source.task else files or on_hub


@app.command("show", epilog=WHERE)
def show(
    problems: Annotated[str, argument("PROBLEMS", "A name such as math or gsm8k:train, or a file.", complete_problems)],
    limit: Annotated[int, typer.Option(min=0, help="How many problems to print.")] = 3,
    against: Annotated[str | None, typer.Option(help="Another set or file: which problems are also in it?")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a problem set, its known faults and those that can be found in it; or the first pairs of a set of texts.

    Example: polythink data show amc23 --against dapo
    """
    if is_texts(problems):
        if against:
            raise UserError(f"{problems} is a set of texts; --against compares sets of problems")
        _show_texts(problems, limit, as_json)
        return
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
    checker: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(TASKS)}. If left out: that of the column `checker`, else math."),
    ] = None,
    dialect: DialectName = None,
    answers: Annotated[
        str, typer.Option(help=f"What is read as an answer: one of {', '.join(ANSWER_RULES)}.")
    ] = "strict",
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that one answer may take.")] = 5.0,
    as_json: AsJson = False,
    each: Annotated[bool, typer.Option("--each", help="Print a JSON line {row, verdict, extracted} for each.")] = False,
) -> None:
    """Grade texts that were written elsewhere: the text after the last block, or the last summary, by the dialect.

    How many texts state no answer is said on stderr; if none states one, the exit status is 1.

    Example: polythink data grade outputs.jsonl --text response --answer answer
    """
    named = None if checker is None else get_task(checker)
    counts: Counter[str] = Counter()
    answered = list(_answered(file, text, answer, named, counts))
    if not answered:
        raise UserError(f"{file} holds no rows")
    tags = _dialect_of(file, answered, dialect)
    with Grader(seconds=deadline, dialect=tags, answers=answers) as grader, Progress(len(answered), "grading") as bar:
        for chunk in (answered[i : i + CHUNK] for i in range(0, len(answered), CHUNK)):
            for (_, problem), graded in zip(chunk, grader.grade_many(chunk), strict=True):
                counts[graded.verdict] += 1
                if each:
                    row = {"row": int(problem.key), "verdict": graded.verdict, "extracted": graded.extracted}
                    print(json.dumps(row, ensure_ascii=False))
            bar.advance(len(chunk))
    total, verdicts = len(answered), {verdict: counts[verdict] for verdict in VERDICTS}
    by = {"dialect": tags.name, "answers": answers, "checkers": sorted({problem.checker for _, problem in answered})}
    if as_json:
        broken = {fate: counts[fate] for fate in CUT}
        print(json.dumps({"file": str(file), "rows": total, **by, "verdicts": verdicts, **broken}))
    elif not each:
        rows = [(verdict, count, 100 * count / total) for verdict, count in verdicts.items()]
        print(markdown_table(("verdict", "texts", "%"), rows), end="")
        print(f"checker {', '.join(by['checkers'])}; dialect {tags.name}{'' if dialect else ', by the tags'}")
        for fate, meaning in CUT.items():
            if counts[fate]:
                print(f"{counts[fate]:,} reference answers are cut inside a brace: {meaning}")
    _warn(answered, tags, counts["unparsed"], strict=answers == "strict")
    if counts["unparsed"] == total:
        raise typer.Exit(1)


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


def _show_texts(name: str, limit: int, as_json: bool) -> None:
    texts = load_texts(name, max(limit, 1))
    first = [vars(pair) for pair in texts.problems[:limit]]
    if as_json:
        print(json.dumps({"name": texts.name, "notes": texts.notes, "first": first}, ensure_ascii=False))
        return
    print(f"{texts.name}: texts for the translation recipes, as in `train.data={name}`")
    for note in texts.notes:
        print(f"note: {note}")
    for pair in first:
        print(f"\n{pair['source']}\n  -> {pair['target']}" if pair["source"] else f"\n{pair['target']}")


def _answered(
    file: Path, text: str, answer: str, named: Task | None, counts: Counter[str]
) -> Iterator[tuple[str, Problem]]:
    """Each row's text and the problem it answers. Counts the references that were completed, or are cut for good."""
    for number, (place, row) in enumerate(read_placed(file)):
        where = f"row {number} of {place}"
        for column in (text, answer):
            if column not in row:
                raise UserError(f"{where} has no column {column!r}{did_you_mean(column, row) if row else ''}")
        if not isinstance(row[text], str | None):
            raise UserError(f"{where}: {text} is no text but a {type(row[text]).__name__}")
        own = _task(where, row.get("checker"), named)
        try:
            reference, _, completed = own.reference(row, answer)
        except UserError as error:
            raise UserError(f"{where} {error}") from None
        if not reference:
            raise UserError(f"{where} has no reference answer in its column {answer!r}")
        if wrong := own.reference_mistake(reference):
            raise UserError(f"{where} {wrong}")
        counts["completed"] += completed
        counts["cut"] += own.by_value and reference.count("{") > reference.count("}")
        yield row[text] or "", Problem(str(number), "", reference, own.name)


def _task(where: str, own: Any, named: Task | None) -> Task:
    """The task of a row: its own, which the one named must not contradict."""
    if own is None:
        return named or get_task()
    if own not in tuple(TASKS):  # it may be anything
        raise UserError(f"{where} has checker {own!r}{did_you_mean(str(own), TASKS)}")
    if named and named.name != own:
        raise UserError(f"{where} is graded by the checker {own}, as its column `checker` says, but --checker is "
                        f"{named.name}: leave --checker out, or the column")  # fmt: skip
    return get_task(own)


def _dialect_of(file: Path, answered: list[tuple[str, Problem]], named: str | None) -> Dialect:
    """The dialect of the texts; where none has a tag, the first that all their tasks can be graded in."""
    dialect, blocks = find_dialect((text for text, _ in answered), named, str(file))
    tasks = {problem.checker: problem.task for _, problem in answered}.values()
    if named is None and not blocks:
        dialect = next((known for known in (dialect, *DIALECTS.values()) if _all_fit(tasks, known)), dialect)
    for task in tasks:
        task.check_dialect(dialect)
    return dialect


def _all_fit(tasks: Iterable[Task], dialect: Dialect) -> bool:
    try:
        for task in tasks:
            task.check_dialect(dialect)
    except UserError:
        return False
    return True


def _warn(answered: list[tuple[str, Problem]], tags: Dialect, unparsed: int, strict: bool) -> None:
    """Say on stderr what makes the counts say less than they seem to."""
    total, foreign = len(answered), sum(bool(foreign_dialect(text, tags)) for text, _ in answered)
    if foreign:
        print(f"{foreign:,} of {total:,} texts hold the tags of another dialect than {tags.name}: they are graded as "
              "text without blocks", file=sys.stderr)  # fmt: skip
    if unparsed:
        math = [text for text, problem in answered if problem.task.by_value] if strict else []
        parts = [part for text in math if stated_answer(part := final_part(text, tags)) is None]
        said = sum(said_answer(part) is not None for part in parts)
        hint = f"; {said:,} state one in another form, which --answers lenient reads" if said else ""
        forms = " or ".join(dict.fromkeys(problem.task.answer_form for _, problem in answered))
        print(f"{unparsed:,} of {total:,} texts are unparsed: no answer that is read stands after their last block, "
              f"such as {forms}{hint}", file=sys.stderr)  # fmt: skip
