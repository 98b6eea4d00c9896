"""The prompt and the sampling parameters that a model was trained with, kept with it: so it is asked from then on."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.study import params_of, prompt_of
from polythink.models.lm import LanguageModel
from polythink.models.settings import prompt_settings
from polythink.problems.prompts import Prompt
from polythink.rewards.functions import resolve, written
from polythink.train import distributed

log = logging.getLogger(__name__)


def keep_settings(lm: LanguageModel, prompt: Prompt, params: SamplingParams) -> None:
    """Make them the model's own, where they are not. What no other process could find is left out, and that is said."""
    own, changes = prompt_of(lm.settings), {}
    if (prompt.name, prompt.text) != (own.name, own.text):
        changes |= prompt_settings(prompt)
    if params != params_of(lm.settings):
        decoding = params.model_dump(mode="json")
        lost = [key for key in decoding if _only_here(getattr(params, key))]
        if lost and distributed.is_main():
            log.warning(
                "the model's settings leave out %s: a function of this program, which no other one finds; put it into "
                "a module", " and ".join(lost),
            )  # fmt: skip
        kept = {key: value for key, value in decoding.items() if key not in lost}
        changes |= {"mode": params.mode, "decoding": kept}
    lm.settings = replace(lm.settings, **changes)


def _only_here(value: Any) -> bool:
    """Whether it is a function that its name, "module:function", does not lead to in another process."""
    if not callable(value):
        return isinstance(value, str) and value.startswith("__main__:")
    name = written(value)
    try:
        return name.startswith("__main__:") or resolve(name) is not value
    except UserError:
        return True
