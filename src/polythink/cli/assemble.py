"""`polythink data assemble`: several solutions a problem, from a cold start, put together as numbered paths."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from polythink.cli.coldstart import ask_endpoint
from polythink.errors import UserError


def assemble(
    solutions: Annotated[
        Path, typer.Argument(help="Folder of a cold start with several samples a problem.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="How, such as paths=[2,3,4], filter=mixed or summary=teacher."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder; an unfinished run in it is resumed.", show_default=False)] = ...,
    dialect: Annotated[str, typer.Option(help="Dialect of the traces.")] = "parathinker",
    prompt: Annotated[str, typer.Option(help="Name or file of the prompt that a model is trained with.")] = (
        "parathinker"
    ),
    seed: Annotated[int, typer.Option(help="Chooses solutions and numbers.")] = 0,
    endpoint: Annotated[
        str | None, typer.Option(help="For summary=teacher: who writes it, http://host/v1.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for there.", show_default=False)] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many problems are asked at once.")] = 8,
) -> None:
    """Put solutions of the same problem together as the paths of one trace, with a summary behind them.

    Example: polythink data assemble runs/solutions "paths=[4,6]" filter=mixed wrong=0.3 --out runs/paths
    """
    from polythink.problems.prompts import get_prompt
    from polythink.run.config import apply_overrides, parse_config
    from polythink.teachers.assemble import AssembleConfig, run_assembly
    from polythink.teachers.rows import show_table
    from polythink.trace.dialect import get_dialect

    config = parse_config(AssembleConfig, apply_overrides({}, overrides or []), "data assemble")
    if endpoint is None and (model or key_env):
        raise UserError("--model and --key-env belong to --endpoint")
    if (config.summary == "teacher") != (endpoint is not None):
        raise UserError("summary=teacher and --endpoint URL go together: the summaries' teacher is asked there")
    chosen, numbered = get_prompt(prompt), get_dialect(dialect)
    with ask_endpoint(endpoint, model, key_env) if endpoint else nullcontext() as summariser:
        table = run_assembly(
            solutions, out, config, chosen, numbered, seed=seed, summariser=summariser, concurrency=concurrency
        )
    print(show_table(table), end="")
