"""`polythink bench`: what decoding costs on this machine, beside other engines and beside the floor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from polythink.bench.cases import CASES, parse_cases
from polythink.bench.options import PEERS, DecodeOptions, parse_names
from polythink.bench.shapes import SHAPES, check_dtype
from polythink.bench.table import case_table, decode_tables
from polythink.cli import console
from polythink.cli.options import argument
from polythink.errors import UserError, did_you_mean
from polythink.run.folder import to_jsonable, write_json
from polythink.run.output import check_out

app = typer.Typer(
    help="Time decoding on this machine, beside other engines and beside the floor.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _group() -> None:
    """Keeps the group a group while it has one command."""


@app.command("decode")
def decode(
    model: Annotated[
        str,
        argument("MODEL", f"A random model of a shape ({', '.join(SHAPES)}), or a model's folder.", lambda: [*SHAPES]),
    ] = "29m",
    cases: Annotated[
        str, typer.Option(help="TRACESxPATHS, 32xragged, PROBLEMS:SAMPLESxPATHS, each with @TOKENS of prompt or not.")
    ] = ",".join(CASES),
    backends: Annotated[str, typer.Option(help="Backends of the engine to compare, such as auto,flat.")] = "auto",
    peers: Annotated[str, typer.Option(help=f"all, none, or some of {', '.join(PEERS)}.")] = "all",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU; torch's choice if left out.")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt; of ragged ones at most.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed in a run.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contender in each case.")] = 5,
    profile: Annotated[bool, typer.Option("--profile", help="Also where a step of the engine goes.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .json file, written after every case.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
    ] = False,
) -> None:
    """Milliseconds of a decoding step: the engine, its peers where they are installed, and the floor.

    Contenders take turns in every round. The floor is what the weights, keys and values cost at the bandwidth and
    arithmetic rate that are measured for each case.

    Example: polythink bench decode 29m --cases 1x1,1x8,32xragged --threads 2 --json
    """
    check_dtype(dtype)
    chosen = parse_cases(cases, prompt)
    if not chosen:
        raise UserError("--cases names no case; give one such as 1x8")
    named = parse_names(peers, PEERS, "peer")
    kinds = tuple(dict.fromkeys(name.strip() for name in backends.split(",") if name.strip()))
    if model not in SHAPES and not Path(model).expanduser().is_dir():
        raise UserError(f"no model {model!r}: neither a folder nor a shape{did_you_mean(model, SHAPES)}")
    file = None if out is None else check_out(out, overwrite=overwrite, suffix=".json")
    options = DecodeOptions(model, chosen, kinds, named, dtype, device, threads, steps, rounds, profile)
    console.announce("loading torch ...")
    result = _run(options, file)
    if not as_json or console.level != "quiet":
        print(decode_tables(result))
    if as_json:
        print(json.dumps(to_jsonable(result), ensure_ascii=False, allow_nan=False))


def _run(options: DecodeOptions, file: Path | None) -> dict[str, Any]:
    from polythink.bench.decode import run_decode
    from polythink.models.source import quietly

    def report(result: dict[str, Any]) -> None:
        if console.level != "quiet":
            print(case_table(result["cases"][-1:]), file=sys.stderr, flush=True)
        if file is not None:
            write_json(file, result)

    with quietly():
        return run_decode(options, report)
