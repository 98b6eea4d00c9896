"""`polythink eval`: a model on a set of problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polythink.cli.model import DecodingOverrides, Model


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
    heads: Annotated[
        bool, typer.Option("--heads", help="Compare the attention heads as well; `polythink report OUT` draws them.")
    ] = False,
) -> None:
    """Measure a model on a set of problems.

    Draws samples for every problem, grades them all, and writes eval.json: mean@k, pass@k, maj@k with intervals.

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --samples 8 --limit 100 --out runs/smoke-eval
    """
    from polythink.cli.model import decoding_for, load_model, prompt_for
    from polythink.engine.engine import Engine
    from polythink.evaluate.run import evaluate as run_evaluation
    from polythink.problems.answers import Grader
    from polythink.problems.sources import load_problems

    found = load_problems(problems, split=split, limit=limit, seed=seed)
    lm = load_model(model)
    decoding = decoding_for(lm, overrides or [])
    engine, asked = Engine(lm), prompt_for(lm, prompt)
    with Grader() as grader:
        result = run_evaluation(engine, found, asked, decoding, samples, seed, grader, out, greedy=greedy)
    if heads:
        from polythink.evaluate.heads import FILE, analyse_traces, save

        save(analyse_traces(engine, found, asked, decoding, seed), out / FILE)
    print(_table(result))


def _table(result: dict) -> str:
    from polythink.run.table import markdown_table

    rows = [(name, m["value"], m["low"], m["high"]) for name, m in result["metrics"].items()]
    return markdown_table(["metric", "value", "95% from", "to"], rows)
