"""What the commands that use a model have in common: where it is, how it is prompted, how it is decoded.

Everything here but `load_model` works without torch, so that a mistake is found before it is imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from polythink.cli import console
from polythink.errors import UserError, did_you_mean
from polythink.run.config import apply_overrides, parse_config
from polythink.run.folder import read_json

if TYPE_CHECKING:
    from polythink.engine.params import SamplingParams
    from polythink.models.lm import LanguageModel
    from polythink.problems.prompts import Prompt

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name


class ModelChoice(NamedTuple):
    """What was asked for on the command line; None: what the model's own polythink.json says."""

    dialect: str | None = None
    mode: str | None = None
    chat: bool | None = None
    device: str | None = None
    dtype: str | None = None


def find_model(given: str) -> str:
    """The folder meant by a model folder, a stage folder or a run folder (its last stage with a model), or a hub name.

    `UserError` for a folder that holds no model, and for what can be neither. The hub is not asked.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        folder = model_folder(path)
        if (folder / "config.json").is_file():
            return str(folder)
        raise UserError(f"{given} holds no model{_other_folder(path)}")
    if HUB_NAME.fullmatch(given) and not path.parent.is_dir():
        return given
    beside = (
        [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent != Path() and path.parent.is_dir() else []
    )
    close = difflib.get_close_matches(given, beside, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ", and a name on the hub has the form owner/name"
    raise UserError(f"no model folder {given!r}{hint}")


def model_folder(path: Path) -> Path:
    """The model meant by a model folder, a stage folder or a run folder (the last of its stages that has a model)."""
    if (path / "model").is_dir():
        return path / "model"
    if (path / "stages.json").is_file():
        stages = [path / stage["folder"] / "model" for stage in read_json(path / "stages.json")]
        return next((folder for folder in reversed(stages) if folder.is_dir()), path)
    return path


def _other_folder(path: Path) -> str:
    """`; RUN does`, where a folder above or right below has a model."""
    runs = [path.parent, *sorted(file.parent for file in path.glob("*/stages.json"))]
    with_model = [run for run in runs if (model_folder(run) / "config.json").is_file()]
    return f"; {with_model[0]} does" if with_model else "; give a folder with config.json, or a folder of a run"


def settings_of(model: str, choice: ModelChoice) -> dict[str, Any]:
    """What polythink.json says, with what was chosen on the command line; checked as far as it can be without torch."""
    from polythink.trace.dialect import get_dialect

    file = Path(model) / "polythink.json"
    try:
        own = read_json(file) if file.is_file() else {}
    except ValueError:
        own = {}  # loading the model says what is wrong with it
    chosen = {key: value for key in ("dialect", "mode", "chat") if (value := getattr(choice, key)) is not None}
    settings = {"dialect": "parallel_r1", "mode": "structured", "decoding": {}, **own, **chosen}
    get_dialect(settings["dialect"])
    if choice.dtype not in (None, "float32", "bfloat16", "float16"):
        raise UserError(f"no dtype {choice.dtype!r}{did_you_mean(choice.dtype, ('float32', 'bfloat16', 'float16'))}")
    if choice.device and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", choice.device):
        raise UserError(f"no device {choice.device!r}; known: cpu, cuda, cuda:N, mps")
    return settings


def params_for(settings: Mapping[str, Any], overrides: Sequence[str]) -> SamplingParams:
    """How the model's settings say it is to be decoded, with the overrides applied."""
    from polythink.engine.params import SamplingParams

    data = {**settings["decoding"], "mode": settings["mode"]}
    return parse_config(SamplingParams, apply_overrides(data, overrides), "decoding")


def given_prompt(name: str | None) -> Prompt | None:
    """The prompt of that name or file; None for the model's own."""
    from polythink.problems.prompts import get_prompt

    return get_prompt(name) if name else None


def load_model(model: str, choice: ModelChoice) -> LanguageModel:
    """The language model, as chosen."""
    console.announce(f"loading {model} ...")
    from polythink.models.lm import load

    return load(model, **{key: value for key, value in choice._asdict().items() if value is not None})


def prompt_of(lm: LanguageModel) -> Prompt:
    """The prompt that the model was trained with."""
    from polythink.problems.prompts import Prompt

    return Prompt(lm.settings.prompt_name, lm.settings.prompt)
