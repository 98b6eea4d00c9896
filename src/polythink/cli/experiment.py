"""`polythink experiment`: compare recipes over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def experiment(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Name of a packaged experiment, or a YAML file.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything; runs/NAME if left out.", show_default=False)
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages that run at once; as the file says if left out.")
    ] = None,
) -> None:
    """Compare recipes (arms) over seeds and print one table.

    Stages that arms have in common run once. Stopped at any moment, the same command goes on. Exit status 1 if a
    stage failed.

    Example: polythink experiment countdown-experiment --out runs/countdown --jobs 2
    """
    from polythink.pipeline.experiment import load_experiment, run_experiment

    found = load_experiment(file)
    outcome = run_experiment(found, out or Path("runs") / found.name, jobs)
    print(outcome.table)
    if outcome.failures:
        print("\n\n".join(outcome.failures))
        raise typer.Exit(1)
