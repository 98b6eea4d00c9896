"""`polythink eval`: a model on a set of problems, or one way of answering them against another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polythink.cli.model import DecodingOverrides, Model
from polythink.run.errors import UserError

if TYPE_CHECKING:
    from polythink.run.config import Config

COMPARING, LOOKING = "With --compare", "With --tunnel"


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
    seed: Annotated[int, typer.Option(help="Chooses the problems under --limit, and draws.")] = 0,
    prompt: Annotated[
        str | None, typer.Option(help="Name or file of a prompt; the model's own if left out.", show_default=False)
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Draw one greedy response to each problem as well.")] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare paths with sequential responses, votes and re-prefill instead.",
            rich_help_panel=COMPARING,
        ),
    ] = False,
    paths: Annotated[
        str | None,
        typer.Option(
            help="Numbers of paths, such as 1,2,4; with --tunnel those that share a budget.",
            show_default="1,2,4,8,16; with --tunnel 1,4",
            rich_help_panel=COMPARING,
        ),
    ] = None,
    sequential_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt under which the model answers in one sequential response.",
            show_default=False,
            rich_help_panel=COMPARING,
        ),
    ] = None,
    tunnel: Annotated[
        bool,
        typer.Option(
            "--tunnel", help="Look for tunnel vision instead: budgets, wrong prefixes.", rich_help_panel=LOOKING
        ),
    ] = False,
    budgets: Annotated[
        str | None,
        typer.Option(help="Tokens of all paths together: 24,48,96.", show_default=False, rich_help_panel=LOOKING),
    ] = None,
    prefixes: Annotated[
        str | None,
        typer.Option(
            help="Prefixes to go on from: shares of the median trace below 1, else tokens.",
            show_default=False,
            rich_help_panel=LOOKING,
        ),
    ] = None,
    continuations: Annotated[
        int | None,
        typer.Option(min=1, help="At least so many for each prefix.", show_default="64", rich_help_panel=LOOKING),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Compare the attention heads as well; `polythink report OUT` draws them.")
    ] = False,
) -> None:
    """Measure a model on a set of problems.

    Draws samples for every problem, grades them all, and writes eval.json: mean@k, pass@k, maj@k with intervals.
    With --compare or --tunnel it writes compare.json or tunnel.json and report.html.

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --samples 8 --limit 100 --out runs/smoke-eval

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --compare
    --sequential-prompt countdown_sequential --limit 100 --out runs/smoke-compare

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --tunnel --budgets 32,64
    --prefixes 0.1,0.4,0.8 --limit 100 --out runs/smoke-tunnel
    """
    from polythink.cli.model import decoding_for, load_model, prompt_for
    from polythink.engine.engine import Engine
    from polythink.evaluate.heads import FILE, analyse_traces, save
    from polythink.problems.answers import Grader
    from polythink.problems.sources import load_problems

    given = {"paths": numbers("--paths", paths, int), "sequential_prompt": sequential_prompt}
    given |= {"budgets": numbers("--budgets", budgets, int), "prefixes": numbers("--prefixes", prefixes, float)}
    options = options_of(compare, tunnel, greedy or heads, {**given, "continuations": continuations}, samples)
    found = load_problems(problems, split=split, limit=limit, seed=seed)
    lm = load_model(model)
    asked = (found, prompt_for(lm, prompt), decoding_for(lm, overrides or []))
    with Grader(dialect=lm.dialect) as grader:
        if options is None:
            engine = Engine(lm)
            _evaluate(engine, *asked, samples, seed, grader, out, greedy)
            if heads:
                save(analyse_traces(engine, *asked, seed), out / FILE)
        else:
            _find(Engine(lm, rows=options.rows), *asked, options, seed, grader, out)


def numbers(option: str, text: str | None, kind: type) -> tuple[Any, ...] | None:
    """The numbers of a comma list; None where none was given."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} takes {what} with commas between them, not {text!r}") from None


def options_of(compare: bool, tunnel: bool, greedy: bool, given: dict[str, Any], samples: int) -> Config | None:
    """What --compare or --tunnel is asked to do, None without either; `UserError` for options that do not belong."""
    from polythink.run.config import parse_config

    given = {key: value for key, value in given.items() if value is not None}
    if compare + tunnel + greedy > 1:
        raise UserError(
            "--compare, --tunnel and --greedy or --heads are three things to do; run them one after another"
        )
    if not (compare or tunnel):
        if given:
            raise UserError(f"--{next(iter(given)).replace('_', '-')} belongs to --compare or --tunnel")
        return None
    if tunnel:
        from polythink.evaluate.tunnel import TunnelConfig

        return parse_config(TunnelConfig, {**given, "samples": samples, "traces": samples}, "eval --tunnel")
    from polythink.evaluate.compare import CompareConfig

    if "sequential_prompt" not in given:
        raise UserError("--compare needs --sequential-prompt: under which prompt does the model answer sequentially?")
    return parse_config(CompareConfig, {**given, "samples": samples}, "eval --compare")


def _evaluate(engine, found, prompt, decoding, samples, seed, grader, out, greedy) -> None:
    from polythink.evaluate.run import evaluate as run_evaluation
    from polythink.run.table import markdown_table

    result = run_evaluation(engine, found, prompt, decoding, samples, seed, grader, out, greedy=greedy)
    rows = [(name, m["value"], m["low"], m["high"]) for name, m in result["metrics"].items()]
    print(markdown_table(["metric", "value", "95% from", "to"], rows))


def _find(engine, found, prompt, decoding, options, seed, grader, out) -> None:
    """Compare, or look for tunnel vision; a table on the console, everything in the report."""
    from polythink.evaluate.charts import budget_table, comparison_table, recovery_table
    from polythink.evaluate.compare import CompareConfig, compare
    from polythink.evaluate.report import write_report
    from polythink.evaluate.tunnel import tunnel
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
