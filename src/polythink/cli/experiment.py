"""`polythink experiment`: compare recipes over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polythink.cli import console
from polythink.cli.options import Out, complete_experiment
from polythink.cli.recipes import is_experiment
from polythink.errors import UserError


def experiment(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Name of a packaged experiment, or a YAML file.", show_default=False,
            autocompletion=complete_experiment,
        ),
    ],
    out: Out = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages that run at once; as the file says if left out.")
    ] = None,
) -> None:  # fmt: skip
    """Compare recipes (arms) over seeds and print one table.

    Stages that arms have in common run once. Stopped at any moment, the same command goes on. Exit status 1 if a
    stage failed.

    Example: polythink experiment countdown-experiment --out runs/countdown --jobs 2
    """
    if not is_experiment(file):
        raise UserError(f"{file} is a recipe, not an experiment (it has no arms); run it with: polythink train {file}")
    from polythink.pipeline.experiment import load_experiment, run_experiment

    found = load_experiment(file)
    folder = out or Path("runs") / found.name
    console.announce(f"{found.name}: {len(found.arms)} arms, {len(found.seeds)} seeds in {folder}")
    outcome = run_experiment(found, folder, jobs)
    print(outcome.table)
    for name in ("table.md", "report.html"):
        print(f"{name.partition('.')[0]}: {folder / name}")
    if outcome.failures:
        print("\n\n".join(outcome.failures))
        raise typer.Exit(1)
