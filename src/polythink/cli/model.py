"""What the commands that use a model have in common: where it lies, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.run.config import apply_overrides, parse_config
from polythink.run.folder import read_json

if TYPE_CHECKING:
    from polythink.engine.params import SamplingParams
    from polythink.models.lm import LanguageModel
    from polythink.problems.prompts import Prompt

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Folder of a model, a stage, or a run (its last model).", show_default=False),
]
DecodingOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to its decoding, such as paths=4 or temperature=0.6."),
]


def model_folder(path: Path) -> Path:
    """The model meant by a model folder, a stage folder or a run folder (the last of its stages that has a model)."""
    if (path / "model").is_dir():
        return path / "model"
    if (path / "stages.json").is_file():
        stages = [path / stage["folder"] / "model" for stage in read_json(path / "stages.json")]
        return next((folder for folder in reversed(stages) if folder.is_dir()), path)
    return path


def load_model(path: Path) -> LanguageModel:
    """The language model, checked to work with the engine."""
    from polythink.models.lm import load

    return load(model_folder(path))


def decoding_for(lm: LanguageModel, overrides: Sequence[str]) -> SamplingParams:
    """How the model says it is to be decoded, with the overrides applied."""
    from polythink.engine.params import SamplingParams

    data = {**lm.settings.decoding, "mode": lm.settings.mode}
    return parse_config(SamplingParams, apply_overrides(data, overrides), "decoding")


def prompt_for(lm: LanguageModel, name: str | None) -> Prompt:
    """The prompt of that name or file; without one, the one that the model was trained with."""
    from polythink.problems.prompts import Prompt, get_prompt

    return get_prompt(name) if name else Prompt(lm.settings.prompt_name, lm.settings.prompt)
