"""`polythink data assemble`: several solutions per problem, from a cold start, put together as numbered paths."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from polythink.cli.coldstart import ask_endpoint
from polythink.cli.options import Concurrency, DataFolder, Endpoint, EndpointModel, KeyEnv, complete_prompt
from polythink.errors import UserError


def assemble(
    solutions: Annotated[
        Path, typer.Argument(help="Folder of a cold start with several samples per problem.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="How, such as paths=[2,3,4], filter=mixed or summary=teacher."),
    ] = None,
    out: DataFolder = ...,
    dialect: Annotated[str, typer.Option(help="Dialect of the traces.")] = "parathinker",
    prompt: Annotated[
        str, typer.Option(help="Name or file of the prompt of training.", autocompletion=complete_prompt)
    ] = "parathinker",
    seed: Annotated[int, typer.Option(help="Of the choice of solutions and numbers.")] = 0,
    endpoint: Endpoint = None,
    model: EndpointModel = None,
    key_env: KeyEnv = None,
    concurrency: Concurrency = 8,
) -> None:
    """Put solutions of the same problem together as the paths of one trace, with a summary after them.

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
        raise UserError(
            "summary=teacher and --endpoint URL go together: the teacher at the endpoint writes the summaries"
        )
    chosen, numbered = get_prompt(prompt), get_dialect(dialect)
    with ask_endpoint(endpoint, model, key_env) if endpoint else nullcontext() as summariser:
        table = run_assembly(
            solutions, out, config, chosen, numbered, seed=seed, summariser=summariser, concurrency=concurrency
        )
    print(show_table(table), end="")
