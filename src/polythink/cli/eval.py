"""`polythink eval`: a model on a set of problems, or one way of answering them against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli.model import DecodingOverrides, Model
from polythink.errors import UserError

if TYPE_CHECKING:
    from polythink.run.config import Config


def evaluate(
    model: Model,
    overrides: DecodingOverrides = None,
    problems: Annotated[
        str, typer.Option(help="Name of a problem set, or a .jsonl or .parquet file.", show_default=False)
    ] = ...,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each problem.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for eval.json and samples.jsonl.", show_default=False)] = ...,
    split: Annotated[str | None, typer.Option(help="Split of the problem set.", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many problems.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of --limit and of drawing.")] = 0,
    prompt: Annotated[
        str | None, typer.Option(help="Name or file; the model's own if left out.", show_default=False)
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="A greedy response to each as well.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare ways to answer instead.")] = False,
    tunnel: Annotated[bool, typer.Option("--tunnel", help="Look for tunnel vision instead.")] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Compare attention heads too.")] = False,
) -> None:
    """Metric a model on a set of problems.

    Draws samples, grades them, and writes eval.json: mean@k, pass@k, maj@k with intervals. --compare and --tunnel
    write compare.json or tunnel.json and a report; compare.paths, tunnel.budgets and so on are keys for KEY=VALUE.

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --samples 8 --limit 100 --out runs/smoke-eval

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --limit 100 --out runs/smoke-compare
    --compare compare.sequential_prompt=countdown_sequential "compare.paths=[1,2,4]"
    """
    from polythink.cli.model import decoding_for, load_model, prompt_for
    from polythink.engine.engine import Engine
    from polythink.problems.answers import Grader
    from polythink.problems.sets import load_problems

    if compare + tunnel + (greedy or heads) > 1:
        raise UserError(
            "--compare, --tunnel and --greedy or --heads are three things to do; run them one after another"
        )
    options, changes = options_of("compare" if compare else "tunnel" if tunnel else "", overrides or [], samples)
    found = load_problems(problems, split=split, limit=limit, seed=seed)
    lm = load_model(model)
    asked = (found, prompt_for(lm, prompt), decoding_for(lm, changes))
    with Grader(dialect=lm.dialect) as grader:
        if options is not None:
            _find(Engine(lm, max_num_seqs=options.max_num_seqs), *asked, options, seed, grader, out)
            return
        engine = Engine(lm)
        _evaluate(engine, *asked, samples, seed, grader, out, greedy)
        if heads:
            from polythink.evaluate.heads import FILE, analyse_traces, save

            save(analyse_traces(engine, *asked, seed), out / FILE)


def options_of(kind: str, overrides: Sequence[str], samples: int) -> tuple[Config | None, list[str]]:
    """What --compare or --tunnel (`kind`) is asked to do, None without either, and the overrides that are left."""
    from polythink.evaluate.compare import CompareConfig
    from polythink.evaluate.tunnel import TunnelConfig
    from polythink.run.config import apply_overrides, parse_config

    kinds = {"compare": (CompareConfig, {"samples": samples}),
             "tunnel": (TunnelConfig, {"samples": samples, "traces": samples})}  # fmt: skip
    own = [text for text in overrides if text.partition(".")[0] in kinds]
    if strange := [text for text in own if not (kind and text.startswith(f"{kind}."))]:
        raise UserError(f"{strange[0]} belongs to --{strange[0].partition('.')[0]}, which was not given")
    if not kind:
        return None, list(overrides)
    cls, data = kinds[kind]
    options = parse_config(cls, apply_overrides({kind: data}, own)[kind], f"eval --{kind}")
    return options, [text for text in overrides if text not in own]


def _evaluate(engine, found, prompt, decoding, samples, seed, grader, out, greedy) -> None:
    from polythink.evaluate.run import evaluate as run_evaluation
    from polythink.run.table import markdown_table

    result = run_evaluation(engine, found, prompt, decoding, samples, seed, grader, out, greedy=greedy)
    rows = [(name, m["value"], m["low"], m["high"]) for name, m in result["metrics"].items()]
    print(markdown_table(["metric", "value", "95% from", "to"], rows))


def _find(engine, found, prompt, decoding, options, seed, grader, out) -> None:
    """Compare, or look for tunnel vision; a table on the console, everything in the report."""
    from polythink.evaluate.compare import CompareConfig, compare
    from polythink.evaluate.tunnel import tunnel
    from polythink.report.findings import budget_table, comparison_table, recovery_table
    from polythink.report.report import write_report
    from polythink.run.table import markdown_table

    if isinstance(options, CompareConfig):
        run, tables = compare, (comparison_table,)
    else:
        run, tables = tunnel, (budget_table, recovery_table)
    result = run(engine, found, prompt, decoding, options, seed, grader, out)
    for table in tables:
        head, rows = table(result)
        if rows:
            print(markdown_table(head, rows))
    print(f"report: {write_report(out)}")
