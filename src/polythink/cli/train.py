"""`polythink train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to it, such as rl.steps=50.")]


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or a YAML file.", show_default=False)
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME of the recipe if left out.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing.")] = False,
) -> None:
    """Run the stages of a recipe, one after another, and write a report.

    Recipes with a task (translation, summarisation, language_modelling) train on plain text.

    Example: polythink train countdown-smoke rl_easy.steps=5 --out runs/smoke
    """
    from polythink.pipeline.recipe import load_recipe, run_recipe
    from polythink.run.config import dump_yaml

    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        print(dump_yaml(resolved.model_dump(mode="json")), end="")
        return
    print(run_recipe(resolved, out or Path("runs") / resolved.name, resume))
