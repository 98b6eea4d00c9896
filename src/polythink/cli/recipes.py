"""`polythink recipes`: the packaged recipes, a line each, or one of them with its comments."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, NamedTuple

from polythink.cli.console import print_definitions
from polythink.cli.options import argument
from polythink.errors import UserError
from polythink.pipeline.arms import load_experiment, split_arm
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


def check_kind(given: str, experiment: bool) -> None:
    """`UserError` unless this is an experiment (its file has `arms`), or a recipe, as the command wants it."""
    if not experiment and (file := split_arm(given)[0]):  # an arm is a recipe: `load_recipe` knows which there are
        return check_kind(file, experiment=True)
    name = Path(given).name.removesuffix(".yaml")
    known = packaged()
    if Path(given).name == given and name not in known and not Path(given).is_file():
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(complete(experiment))}"
        if close and known[close[0]].experiment != experiment:
            hint = f"did you mean {close[0]!r}? It is {_kind(close[0], not experiment)}"
        raise UserError(
            f"no file {given} and no packaged {'experiment' if experiment else 'recipe'} of that name; {hint}"
        )
    if ("arms" in load_yaml(find_recipe(given))) != experiment:
        raise UserError(f"{given} is {_kind(given, not experiment)}")


def _kind(name: str, experiment: bool) -> str:
    if experiment:
        return (
            f"an experiment, not a recipe; run it with: polythink experiment {name}, or one of its arms with: "
            f"polythink train {name}:ARM"
        )
    return f"a recipe, not an experiment (it has no arms); run it with: polythink train {name}"


def complete(experiment: bool) -> list[str]:
    return [name for name, about in packaged().items() if about.experiment == experiment]


def complete_recipe() -> list[str]:
    return complete(experiment=False)


def complete_experiment() -> list[str]:
    return complete(experiment=True)


def recipes(
    name: Annotated[
        str | None, argument("NAME", "Print this one, with its comments.", lambda: list(packaged()))
    ] = None,
) -> None:
    """List the packaged recipes with a line each, or print one with its comments.

    Those marked "experiment" compare recipes over seeds: polythink experiment NAME. One of their arms alone: polythink
    train NAME:ARM. The others: polythink train NAME.

    Example: polythink recipes countdown-smoke
    """
    if name is not None:
        print(find_recipe(split_arm(name)[0] or name).read_text(encoding="utf-8"), end="")
        return
    print_definitions({name: f"experiment: {e.sentence}{_arms(name)}" if e.experiment else e.sentence
                       for name, e in packaged().items()})  # fmt: skip


def _arms(name: str) -> str:
    return f" Arms, each a recipe {name}:ARM: {', '.join(load_experiment(name).arms)}."
