"""A model is asked as it was trained: prompt, mode and decoding are kept with it."""

from __future__ import annotations

import pytest

from helpers.training import PROMPT, make_lm
from polythink.engine.params import SamplingParams
from polythink.evaluate.study import params_of, prompt_of
from polythink.models.lm import load
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.grpo import train_grpo
from polythink.train.kept_settings import keep_settings
from polythink.train.sft import train_sft

ROWS = [{"question": "7 4 -> 11", "trace": "7 + 4 = 11 ok \\boxed{ 7 + 4 }"}]
PARAMS = SamplingParams(mode="sequential", max_main_tokens=6, max_trace_tokens=30)


def two_paths(*given) -> int:
    return 2


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_prompt_mode_and_decoding_are_those_of_the_training(mini, tmp_path, kind):
    lm = make_lm()
    given = {"folder": tmp_path, "prompt": PROMPT, "params": PARAMS}
    if kind == "sft":
        train_sft(lm, SFTConfig(steps=1, batch=1), ROWS, **given)
    else:
        config = GRPOConfig(reward="accuracy", steps=1, prompts_per_step=1, group_size=2)
        train_grpo(lm, config, mini, **given)
    for settings in (lm.settings, load(tmp_path / "model").settings):
        assert params_of(settings) == PARAMS
        assert (prompt_of(settings).name, prompt_of(settings).text) == (PROMPT.name, PROMPT.text)
        assert settings.prompt_hash == PROMPT.hash


def test_settings_that_say_so_already_stay_as_they_are():
    lm = make_lm()
    before = lm.settings
    keep_settings(lm, prompt_of(before), params_of(before))
    assert lm.settings == before


def test_a_function_that_no_other_process_finds_is_left_out_and_that_is_said(caplog):
    lm = make_lm()

    def inside(*given) -> int:
        return 2

    keep_settings(lm, PROMPT, SamplingParams(width=inside, path_answer=inside, temperature=0.5))
    assert not {"width", "path_answer"} & lm.settings.decoding.keys()
    assert "leave out width and path_answer: a function of this program" in caplog.text
    assert params_of(lm.settings) == SamplingParams(temperature=0.5)
    caplog.clear()
    keep_settings(lm, PROMPT, SamplingParams(width=two_paths))
    assert lm.settings.decoding["width"] == f"{__name__}:two_paths"
    assert not caplog.text
