"""`polythink params`: how big the model of a recipe is, and what a pass costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli.train import Overrides
from polythink.run.errors import UserError
from polythink.run.table import markdown_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from polythink.train.recipe import Recipe


def params(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or a YAML file.", show_default=False)
    ],
    overrides: Overrides = None,
    beside: Annotated[
        str, typer.Option("--with", help="Architectures to set beside the recipe's own, in its shape.")
    ] = "eit,partialformer",
    tokens: Annotated[int, typer.Option(min=1, help="Length of the pass.")] = 128,
) -> None:
    """Count parameters and multiply-accumulates by module: by formula and on the real model, side by side.

    Example: polythink params countdown-smoke model.architecture=eit --tokens 256
    """
    from polythink.models.architectures.counting import MODULES, counted, formula, total
    from polythink.train.recipe import load_recipe

    configs = configurations(load_recipe(recipe, overrides or []), [name for name in beside.split(",") if name])
    tables = {name: (formula(c, tokens), counted(c, tokens)) for name, c in configs.items()}
    columns = ["module", *(f"{name}, {way}" for name in tables for way in ("formula", "counted"))]
    sides = [side for pair in tables.values() for side in pair]
    for title, index in (("Parameters", 0), (f"Multiply-accumulates, one pass over {tokens} tokens", 1)):
        rows = [
            [module, *(f"{side[module][index]:,}" if module in side else "" for side in sides)]
            for module in MODULES
            if any(module in side for side in sides)
        ]
        rows.append(["all", *(f"{total(*side.values())[index]:,}" for side in sides)])
        print(f"{title}\n\n{markdown_table(columns, rows)}")
    wrong = [name for name, (a, b) in tables.items() if a != b]
    if wrong:
        raise UserError(f"formula and count differ for {', '.join(wrong)}: one of them is wrong, please report it")


def configurations(recipe: Recipe, beside: list[str]) -> dict[str, PreTrainedConfig]:
    """The configuration of the recipe's model under its architecture's name, and the others in the same shape."""
    from polythink.models.load import architecture_config, new_tokenizer
    from polythink.problems.vocabulary import words_of

    model = recipe.model
    if model.path is not None:
        raise UserError(
            f"{recipe.name} takes its model from {model.path!r}; params counts models that a recipe gives a shape "
            "(set model.path=null and model.hidden_size and the like to count one of that shape)"
        )
    tokenizer = new_tokenizer(model, recipe.dialect, words_of(model.tokenizer))
    configs = {}
    for name in (model.architecture, *beside):
        own = name == model.architecture
        shaped = model.model_copy(update={"architecture": name, "options": model.options if own else {}})
        configs.setdefault(name, architecture_config(shaped, tokenizer))
    return configs
