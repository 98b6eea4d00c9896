"""`polythink trace`: are traces well formed, and what do they look like?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console

from polythink.cli.options import AsJson, DialectName, File
from polythink.errors import UserError, did_you_mean
from polythink.problems.extract import extract, with_boxed_answer
from polythink.report.fork_drawing import flow_of_row, flow_of_trace, trace_svg
from polythink.report.terminal import draw
from polythink.run.folder import write_text
from polythink.run.jsonl import read_placed, read_rows, write_jsonl
from polythink.run.output import check_out
from polythink.run.progress import progress
from polythink.trace.blocks import complete_blocks
from polythink.trace.convert import PLANS, ConversionError, check_plans, convert
from polythink.trace.detect import find_dialect, foreign_dialect, opening_tags
from polythink.trace.dialect import DIALECTS, Dialect, get_dialect
from polythink.trace.parse import TraceError, first_block, parse
from polythink.trace.render import render
from polythink.trace.validity import RULES, Verdict, check, check_rule

ABOUT = "Check traces against a rule, convert them, or draw one in the terminal."
app = typer.Typer(help=ABOUT, no_args_is_help=True, add_completion=False)

FieldName = Annotated[str, typer.Option("--field", help="Name of the column that holds the traces.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]


@app.command("check")
def check_file(
    file: File,
    field: FieldName,
    rule: Annotated[str, typer.Option(help=f"One of {', '.join(RULES)}.")] = "strict",
    as_json: AsJson = False,
    each: Annotated[bool, typer.Option("--each", help="Print a JSON line {row, valid, reason} for each row.")] = False,
    dialect: DialectName = None,
) -> None:
    """Check every trace of a file and count the reasons. Exit status 1 if any trace is not valid, or none has a block.

    Example: polythink trace check samples.jsonl --field text --rule reference
    """
    tags, _ = find_dialect((text for *_, text in _texts(file, field)), dialect, str(file))
    check_rule(rule, tags)
    reasons: Counter[str] = Counter()
    blocks = 0  # texts with one
    rows = _texts(file, field)
    for row, _, text in rows if each else progress(rows, "checking"):  # printed lines are progress enough
        foreign = foreign_dialect(text, tags)
        verdict = Verdict(False, "foreign_tags", f"tags of {foreign}") if foreign else check(text, rule, tags)
        reasons[verdict.reason] += 1
        blocks += first_block(text, tags) is not None
        if each:
            print(json.dumps({"row": row, "valid": verdict.valid, "reason": verdict.reason}))
    if not reasons:
        raise UserError(f"{file} holds no rows")
    count, valid = reasons.total(), reasons["ok"]
    if as_json:
        counts = {"file": str(file), "field": field, "dialect": tags.name, "rule": rule, "rows": count, "valid": valid}
        counts |= {"invalid": count - valid, "with_block": blocks, "reasons": dict(reasons.most_common())}
        print(json.dumps(counts))
    elif not each:
        sentence = f"{valid} of {count} traces are valid under the rule {rule}, {blocks} with a block"
        _print_reasons(f"{sentence} ({_said(tags, dialect)})", reasons)
    if not blocks:
        print(f"no trace in the column {field!r} has a block: nothing was checked but their absence", file=sys.stderr)
    if valid < count or not blocks:
        raise typer.Exit(1)


@app.command("show")
def show(
    file: File,
    row: Annotated[int, typer.Option(min=0, help="Row number, counted from 0.")] = 0,
    field: Annotated[
        str | None, typer.Option(help="Name of the column; the first one with a block in it if left out.")
    ] = None,
    dialect: DialectName = None,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing to this .svg file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw one trace as forks and joins: paths side by side, the summary below.

    Example: polythink trace show samples.jsonl --row 3 --field text
    """
    svg = svg and check_out(svg, file, overwrite=overwrite, suffix=".svg", named="--svg")
    record = next(islice(read_rows(file, replace_broken=True), row, None), None)
    if record is None:
        raise UserError(f"{file} has no row {row}; it has {sum(1 for _ in read_rows(file, True))}, counted from 0")
    name = field or _column_with_block(record, dialect)
    if name is None:
        raise UserError(f"no column of row {row} of {file} holds a block; name one with --field: {', '.join(record)}")
    text = _text(f"row {row} of {file}", record, name)
    tags, _ = find_dialect([text], dialect, f"row {row} of {file}")
    trace = parse(text, tags)
    if svg is None:
        if not (field and dialect):
            print(f"row {row}, column {name} ({_said(tags, dialect)})")
        Console().print(draw(trace))
    else:  # a row of samples.jsonl knows which paths are right
        write_text(svg, trace_svg(flow_of_row(record) if record.get("segments") else flow_of_trace(trace)))
        print(f"row {row}, column {name} ({_said(tags, dialect)}): drawn to {svg}")


@app.command("convert")
def convert_file(
    file: File,
    field: FieldName,
    to: Annotated[
        str, typer.Option(help="The dialect to write: multiverse, parathinker:64, a .yaml file of your own.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write; all other columns are kept.")],
    dialect: DialectName = None,
    seed: Annotated[
        int | None, typer.Option(help="Sample the paths' numbers from the whole inventory; 1, 2, .. if left out.")
    ] = None,
    overwrite: Overwrite = False,
    plans: Annotated[
        str, typer.Option(help="; ".join(f"{rule}: {about}" for rule, about in PLANS.items()) + ".")
    ] = "refuse",
) -> None:
    """Write the traces of a file in another dialect. Rows that cannot be are left out, counted, and exit status is 1.

    An answer that stands only in the last summary is also written after it where the other dialect answers there.

    Example: polythink trace convert kept.jsonl --field trace --to parathinker --out numbered.jsonl
    """
    check_plans(plans)
    target, out = get_dialect(to), check_out(out, file, overwrite=overwrite, suffix=".jsonl")
    source, blocks = find_dialect((text for *_, text in _texts(file, field)), dialect, str(file))
    if not blocks:
        raise UserError(f"no text of {file} in the column {field!r} holds a block: there is nothing to convert")
    reasons: Counter[str] = Counter()  # `ok` among them
    rows = _converted(file, field, (source, target), seed, plans, reasons)
    if (first := next(rows, None)) is not None:  # one row at a time, however large the file is
        write_jsonl(check_out(out, file, overwrite=overwrite), chain([first], rows))
    written, total = reasons.pop("ok", 0), reasons.total()
    done = f"{written} of {written + total} traces written to {out}{'' if written else ', which is not made'}"
    _print_reasons(f"{done}, {blocks} with a block ({_said(source, dialect)}, to {target.name})", reasons)
    if reasons:
        raise typer.Exit(1)


def _converted(
    file: Path, field: str, dialects: tuple[Dialect, Dialect], seed: int | None, plans: str, reasons: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows that can be converted from the first dialect to the second; `reasons` counts all of them."""
    source, target = dialects
    for number, record, before in _texts(file, field):
        rng = None if seed is None else Random(f"{seed}/{number}")
        if foreign_dialect(before, source):
            reasons["foreign_tags"] += 1
            continue
        try:
            text = render(convert(parse(before, source), target, rng, source=source, plans=plans), target)
            text = with_boxed_answer(text, extract(before, source), target)
        except (TraceError, ConversionError) as error:
            reasons[error.reason] += 1
        else:
            reasons["ok"] += 1
            yield {**record, field: text}


def _said(tags: Dialect, named: str | None) -> str:
    """The dialect, and whether it was named or found."""
    return f"dialect {tags.name}" if named else f"dialect {tags.name}, by the tags"


def _column_with_block(record: dict[str, Any], named: str | None) -> str | None:
    """The first column with a well-formed block (of any dialect if none is named), or else with an opening tag."""
    texts = {name: text for name, text in record.items() if isinstance(text, str)}
    known = [get_dialect(named)] if named else DIALECTS.values()
    for found in (complete_blocks, first_block):
        if name := next((name for name, text in texts.items() if any(found(text, tags) for tags in known)), None):
            return name
    return next((name for name, text in texts.items() if opening_tags(text)), None)


def _texts(file: Path, field: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Number, row and trace of every row of a file."""
    for row, (place, record) in enumerate(read_placed(file)):
        yield row, record, _text(f"row {row} of {place}", record, field)


def _text(where: str, record: dict[str, Any], field: str) -> str:
    if field not in record:
        near = did_you_mean(field, record) if record else ""
        raise UserError(f"{where} has no field {field!r}{near}")
    if not isinstance(record[field], str):
        kind = "null" if record[field] is None else f"of type {type(record[field]).__name__}"
        raise UserError(f"{where}: field {field!r} is {kind}; a trace must be a string")
    return record[field]


def _print_reasons(sentence: str, reasons: Counter[str]) -> None:
    print("\n".join([sentence, *(f"{count:8d}  {reason}" for reason, count in reasons.most_common())]))
