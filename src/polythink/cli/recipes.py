"""`polythink recipes`: the packaged recipes, a line each, or one of them with its comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from polythink.cli.console import print_definitions
from polythink.cli.options import complete_any_recipe
from polythink.run.config import RECIPES, find_recipe, load_yaml


class About(NamedTuple):
    """What the head of a recipe's file says."""

    sentence: str  # the first of its comments
    experiment: bool  # it compares arms


def packaged() -> dict[str, About]:
    """The packaged recipes by name, in the order of their names."""
    return {
        path.stem: about(path.read_text(encoding="utf-8"))
        for path in sorted(RECIPES.glob("*.yaml"), key=lambda p: p.stem)
    }


def about(text: str) -> About:
    """The first sentence of a recipe's comments, and whether it is an experiment (it has `arms:`)."""
    comments = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        comments.append(line[2:].strip())
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(comments), maxsplit=1)[0]
    return About(first, re.search(r"^arms:", text, re.MULTILINE) is not None)


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Print this one, with its comments.", show_default=False,
            autocompletion=complete_any_recipe,
        ),
    ] = None,
) -> None:  # fmt: skip
    """List the packaged recipes with a line each, or print one with its comments.

    Those marked "experiment" compare recipes over seeds: polythink experiment NAME. The others: polythink train NAME.

    Example: polythink recipes countdown-smoke
    """
    if name is not None:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    rows = {name: ("experiment: " if e.experiment else "") + e.sentence for name, e in packaged().items()}
    print_definitions(rows)


def is_experiment(name_or_path: str | Path) -> bool:
    """Whether the file has `arms`, as experiments do and recipes do not."""
    return "arms" in load_yaml(find_recipe(name_or_path))
