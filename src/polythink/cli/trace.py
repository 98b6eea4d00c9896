"""`polythink trace`: are traces well formed, and what do they look like?"""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console

from polythink.cli.options import AsJson, File
from polythink.errors import UserError, did_you_mean
from polythink.problems.extract import extract, with_boxed_answer
from polythink.report.fork_drawing import flow_of_row, flow_of_trace, trace_svg
from polythink.report.terminal import draw
from polythink.run.folder import write_text
from polythink.run.jsonl import read_rows, write_jsonl
from polythink.run.progress import progress
from polythink.trace.convert import ConversionError, convert
from polythink.trace.dialect import PARALLEL_R1, get_dialect
from polythink.trace.parse import TraceError, first_block, parse
from polythink.trace.render import render
from polythink.trace.validity import RULES, check, check_rule

ABOUT = "Check traces against a rule, convert them, or draw one in the terminal."
app = typer.Typer(help=ABOUT, no_args_is_help=True, add_completion=False)

FieldName = Annotated[str, typer.Option("--field", help="Name of the column that holds the traces.")]
DialectName = Annotated[str, typer.Option("--dialect", help="Format of the tags.")]


@app.command("check")
def check_file(
    file: File,
    field: FieldName,
    rule: Annotated[str, typer.Option(help=f"One of {', '.join(RULES)}.")] = "strict",
    as_json: AsJson = False,
    each: Annotated[bool, typer.Option("--each", help="Print a JSON line {row, valid, reason} for each row.")] = False,
    dialect: DialectName = PARALLEL_R1.name,
) -> None:
    """Check every trace of a file and count the reasons. Exit status 1 if any trace is not valid.

    Example: polythink trace check samples.jsonl --field text --rule reference
    """
    tags = get_dialect(dialect)
    check_rule(rule, tags)
    reasons: Counter[str] = Counter()
    rows = read_rows(file)
    for row, record in enumerate(rows if each else progress(rows, "checking")):  # printed lines are progress enough
        verdict = check(_text(file, row, record, field), rule, tags)
        reasons[verdict.reason] += 1
        if each:
            print(json.dumps({"row": row, "valid": verdict.valid, "reason": verdict.reason}))
    if not reasons:
        raise UserError(f"{file} holds no rows")
    count, valid = reasons.total(), reasons["ok"]
    if as_json:
        counts = {"file": str(file), "field": field, "rule": rule, "rows": count, "valid": valid}
        print(json.dumps({**counts, "invalid": count - valid, "reasons": dict(reasons.most_common())}))
    elif not each:
        _print_reasons(f"{valid} of {count} traces are valid under the rule {rule}", reasons)
    if valid < count:
        raise typer.Exit(1)


@app.command("show")
def show(
    file: File,
    row: Annotated[int, typer.Option(min=0, help="Row number, counted from 0.")] = 0,
    field: Annotated[
        str | None, typer.Option(help="Name of the column; the first one with a block in it if left out.")
    ] = None,
    dialect: DialectName = PARALLEL_R1.name,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing to this file.")] = None,
) -> None:
    """Draw one trace as forks and joins: paths side by side, the summary below.

    Example: polythink trace show samples.jsonl --row 3 --field text
    """
    tags = get_dialect(dialect)
    record = next(islice(read_rows(file), row, None), None)
    if record is None:
        raise UserError(f"{file} has no row {row}; it has {sum(1 for _ in read_rows(file))}, counted from 0")
    name = field or next((k for k, v in record.items() if isinstance(v, str) and first_block(v, tags)), None)
    if name is None:
        raise UserError(f"no column of row {row} of {file} holds a block; name one with --field: {', '.join(record)}")
    trace = parse(_text(file, row, record, name), tags)
    if svg is None:
        Console().print(draw(trace))
    else:  # a row of samples.jsonl knows which paths are right
        write_text(svg, trace_svg(flow_of_row(record) if record.get("segments") else flow_of_trace(trace)))


@app.command("convert")
def convert_file(
    file: File,
    field: FieldName,
    to: Annotated[str, typer.Option(help="The dialect to write: parathinker, parathinker:64, parallel_r1.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write; all other columns are kept.")],
    dialect: DialectName = PARALLEL_R1.name,
    seed: Annotated[
        int | None, typer.Option(help="Sample the paths' numbers from the whole inventory; 1, 2, .. if left out.")
    ] = None,
) -> None:
    """Write the traces of a file in another dialect. Rows that cannot be are left out, counted, and exit status is 1.

    An answer that stands only in the last summary is also written after it where the other dialect answers there.

    Example: polythink trace convert kept.jsonl --field trace --to parathinker --out numbered.jsonl
    """
    source, target = get_dialect(dialect), get_dialect(to)
    rows, reasons = [], Counter()
    for number, record in enumerate(read_rows(file)):
        rng = None if seed is None else Random(f"{seed}/{number}")
        try:
            before = _text(file, number, record, field)
            text = render(convert(parse(before, source), target, rng), target)
            text = with_boxed_answer(text, extract(before, source), target)
        except (TraceError, ConversionError) as error:
            reasons[error.reason] += 1
        else:
            rows.append({**record, field: text})
    write_jsonl(out, rows)
    _print_reasons(f"{len(rows)} of {len(rows) + reasons.total()} traces written to {out}", reasons)
    if reasons:
        raise typer.Exit(1)


def _text(file: Path, row: int, record: dict[str, Any], field: str) -> str:
    if field not in record:
        raise UserError(f"row {row} of {file} has no field {field!r}{did_you_mean(field, record)}")
    if not isinstance(record[field], str):
        kind = "null" if record[field] is None else f"of type {type(record[field]).__name__}"
        raise UserError(f"row {row} of {file}: field {field!r} is {kind}; a trace must be a string")
    return record[field]


def _print_reasons(sentence: str, reasons: Counter[str]) -> None:
    print("\n".join([sentence, *(f"{count:8d}  {reason}" for reason, count in reasons.most_common())]))
