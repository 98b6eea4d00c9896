"""`polythink recipes`: the packaged recipes, a line each, or one of them with its comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

from polythink.cli.console import print_definitions
from polythink.cli.options import argument
from polythink.run.config import RECIPES, find_recipe, load_yaml


class About(NamedTuple):
    """What the head of a recipe's file says."""

    sentence: str  # the first of its comments
    experiment: bool  # it compares arms


def packaged() -> dict[str, About]:
    """The packaged recipes by name, in the order of their names."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return {name: about(find_recipe(name).read_text(encoding="utf-8")) for name in names}


def about(text: str) -> About:
    """The first sentence of a recipe's comments, and whether it is an experiment (it has `arms:`)."""
    comments = re.match(r"(?:# .*\n)*", text)[0].replace("\n# ", " ").removeprefix("# ")
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", comments.strip(), maxsplit=1)[0]
    return About(first, re.search(r"^arms:", text, re.MULTILINE) is not None)


def is_experiment(name_or_path: str | Path) -> bool:
    """Whether the file has `arms`, as experiments do and recipes do not."""
    return "arms" in load_yaml(find_recipe(name_or_path))


def complete_recipe() -> list[str]:
    return [name for name, about in packaged().items() if not about.experiment]


def complete_experiment() -> list[str]:
    return [name for name, about in packaged().items() if about.experiment]


def recipes(
    name: Annotated[
        str | None, argument("NAME", "Print this one, with its comments.", lambda: list(packaged()))
    ] = None,
) -> None:
    """List the packaged recipes with a line each, or print one with its comments.

    Those marked "experiment" compare recipes over seeds: polythink experiment NAME. The others: polythink train NAME.

    Example: polythink recipes countdown-smoke
    """
    if name is not None:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    print_definitions({name: "experiment: " * e.experiment + e.sentence for name, e in packaged().items()})
