"""`polythink params`: the size of a recipe's model, and the cost of one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli.model import find_model
from polythink.cli.options import Overrides, argument
from polythink.cli.recipes import complete_recipe, packaged
from polythink.errors import UserError, did_you_mean
from polythink.models.settings import in_short
from polythink.run.table import markdown_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from polythink.pipeline.recipe import Recipe
    from polythink.pipeline.text import TextRecipe


def params(
    recipe: Annotated[
        str,
        argument(
            "RECIPE", "A packaged recipe, a YAML file, or the folder of a model, a stage or a run.", complete_recipe
        ),
    ],
    overrides: Overrides = None,
    beside: Annotated[
        str, typer.Option("--with", help="Architectures to compare with the recipe's own, in its shape.")
    ] = "eit,partialformer",
    tokens: Annotated[int, typer.Option(min=1, help="Length of the pass; with an encoder, of the target.")] = 128,
    source: Annotated[int, typer.Option(min=1, help="Length of the source, where there is an encoder.")] = 128,
    plan: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="Memory and least time of each stage on a machine: 8xH100.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="With --plan: length of a prompt.")] = 256,
    trace_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --plan: mean length of a trace; left out: its budget.")
    ] = None,
) -> None:
    """Count parameters and multiply-accumulates by module, on the real model; or plan a recipe's stages on a machine.

    Example: polythink params parallel-r1-seen-qwen3-4b --plan 8xH100
    """
    if plan is not None:
        _print_plan(recipe, overrides or [], plan, prompt_tokens, trace_tokens)
        return
    others = [name for name in beside.split(",") if name]
    if Path(recipe).is_dir() and recipe not in packaged():
        folder = find_model(recipe)
        if overrides:
            raise UserError(f"{recipe} is a model; overrides such as {overrides[0]!r} are for recipes, leave them out")
        configs = in_shape_of(config_of(folder), others)
    else:
        from polythink.pipeline.recipe import load_recipe

        configs = configurations(load_recipe(recipe, overrides or []), others)
    print_counts(configs, tokens, source)


def _print_plan(recipe: str, overrides: Sequence[str], machine: str, prompt: int, length: int | None) -> None:
    from polythink.bench.devices import machine as known
    from polythink.cli.on_paper import print_plan
    from polythink.pipeline.recipe import load_recipe

    known(machine)  # refused before anything is imported that takes long
    if Path(recipe).is_dir() and recipe not in packaged():
        raise UserError(f"--plan takes a recipe, whose stages say what is run; {recipe} is a folder")
    print_plan(load_recipe(recipe, overrides), machine, prompt, length)


def print_counts(configs: Mapping[str, PreTrainedConfig], tokens: int, source: int) -> None:
    """Two tables, one column per configuration.

    All configurations are decoders (over `tokens` tokens) or all encoder-decoders (over `source` and `tokens`).
    """
    from polythink.models.architectures.counting import MODULES, counted, total

    seq2seq = any(config.is_encoder_decoder for config in configs.values())
    sizes = (tokens, source) if seq2seq else (tokens,)
    counts = {name: counted(config, *sizes) for name, config in configs.items()}
    length = f"{source} source and {tokens} target tokens" if seq2seq else f"{tokens} tokens"
    for title, index in (("Parameters", 0), (f"Multiply-accumulates, one pass over {length}", 1)):
        rows = [
            [module, *(f"{count[module][index]:,}" if module in count else "" for count in counts.values())]
            for module in MODULES
            if any(module in count for count in counts.values())
        ]
        rows.append(["all", *(f"{total(*count.values())[index]:,}" for count in counts.values())])
        print(f"{title}\n\n{markdown_table(['module', *counts], rows)}")


def config_of(folder: str | Path) -> PreTrainedConfig:
    """The configuration of a saved model."""
    from transformers import AutoConfig

    import polythink.models.architectures  # noqa: F401  registers them with AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {Path(folder) / 'config.json'}: {in_short(error)}") from error


def in_shape_of(config: PreTrainedConfig, beside: Sequence[str]) -> dict[str, PreTrainedConfig]:
    """The configuration under its architecture's name, and others of the package with the same sizes and backbone."""
    from polythink.models.architectures import ARCHITECTURES
    from polythink.models.architectures.config import BackboneConfig

    configs = {config.model_type: config}
    if not isinstance(config, BackboneConfig):
        return configs
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(BackboneConfig)}
    for name in beside:
        if name not in ARCHITECTURES:
            hint = did_you_mean(name, ARCHITECTURES)
            raise UserError(f"no architecture {name!r} to compare with{hint}")
        configs.setdefault(name, ARCHITECTURES[name][0](**shared))
    return configs


def check_architecture(name: str) -> None:
    """`UserError` for a name that is neither one of the package's architectures nor a model type of transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from polythink.models.architectures import ARCHITECTURES

    if name not in CONFIG_MAPPING:
        near = get_close_matches(name, ARCHITECTURES, n=1)  # not of all model types, of which some name is always near
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"no architecture {name!r} to compare with{hint}; the package's are {', '.join(ARCHITECTURES)}, others are "
            "model types of transformers, such as llama"
        )


def configurations(recipe: Recipe | TextRecipe, beside: Sequence[str]) -> dict[str, PreTrainedConfig]:
    """The configuration of the recipe's model under its architecture's name, and others in the same shape."""
    from polythink.models.build import architecture_config, new_tokenizer
    from polythink.pipeline.text import TextRecipe
    from polythink.problems.vocabulary import words_of

    if isinstance(recipe, TextRecipe):
        return in_shape_of(recipe.architecture_config(_words_in_texts(recipe)), beside)
    model = recipe.model
    if model.path is not None:
        raise UserError(
            f"{recipe.name} takes its model from {model.path!r}; params counts models whose shape stands in the recipe "
            "(set model.path=null and model.hidden_size and the like to count one of that shape)"
        )
    tokenizer = new_tokenizer(model, recipe.dialect, words_of(model.tokenizer))
    configs = {model.architecture: architecture_config(model, tokenizer)}
    for name in beside:
        if name not in configs:
            check_architecture(name)
            shaped = model.model_copy(update={"architecture": name, "options": {}})
            configs[name] = architecture_config(shaped, tokenizer)
    return configs


def _words_in_texts(recipe: TextRecipe) -> int | None:
    """The size of a vocabulary of words, which is counted in the texts; None for others, whose size is known."""
    from polythink.text.data.sets import load_texts
    from polythink.text.tokenizers import train_tokenizer

    if recipe.tokenizer.kind != "words":
        return None
    data = next(stage.data for stage in recipe.stages.values() if stage.kind == "text")
    return len(
        train_tokenizer(recipe.tokenizer, (text for pair in load_texts(data) for text in (pair.source, pair.target)))
    )
