"""`polythink train`: run a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from polythink.cli import console
from polythink.cli.options import Out, Overrides, complete_recipe
from polythink.cli.recipes import is_experiment
from polythink.errors import UserError


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A packaged recipe (see `polythink recipes`), or a YAML file.", show_default=False,
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing.")] = False,
) -> None:  # fmt: skip
    """Run the stages of a recipe, one after another, and write a report.

    Recipes with a task (translation, summarisation, language_modelling) train on plain text.

    Example: polythink train countdown-smoke rl_easy.steps=5 --out runs/smoke
    """
    if is_experiment(recipe):
        raise UserError(f"{recipe} is an experiment, not a recipe; run it with: polythink experiment {recipe}")
    from polythink.pipeline.recipe import load_recipe, run_recipe
    from polythink.run.config import dump_yaml

    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        print(dump_yaml(resolved.model_dump(mode="json")), end="")
        return
    folder = out or Path("runs") / resolved.name
    if (folder / "recipe.yaml").exists() and not resume:
        raise UserError(f"{folder} holds a run already; add --resume to go on with it, or give another --out")
    console.announce(f"{resolved.name}: {len(resolved.stages)} stages in {folder}; importing torch ...")
    report = run_recipe(resolved, folder, resume, log=console.log)
    _print_end(folder, report)


def _print_end(folder: Path, report: Path) -> None:
    """The evaluations before and after each training stage, the report's path, and what to type next."""
    from polythink.cli.summary import evaluations, question_of

    if table := evaluations(folder):
        print(f"\n{table}")
    print(f"report: {report}")
    if question := question_of(folder):
        console.log(f"next: polythink generate {shlex.quote(str(folder))} {shlex.quote(question)}")
