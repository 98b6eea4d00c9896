"""After an error or Ctrl-C the caller's model is an ordinary one again, and trains on as a fresh one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.training import PROMPT, forking_lm, make_lm, same_bits, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import LanguageModel, load, save, with_settings
from polythink.models.tag_rows import rows_of
from polythink.rewards.terms import RewardInput
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo, sft, sharding
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

ROWS = [
    {
        "question": "9 8 5 -> 12",
        "trace": "<Parallel><Path> 9 + 8 = 17 - 5 = 12 ok </Path><Path> 9 - 8 = 1 + 5 = 6 no </Path></Parallel>\n"
        "<Summary> + - </Summary> \\boxed{ 9 + 8 - 5 }",
    },
    {"question": "7 4 -> 11", "trace": "7 + 4 = 11 ok \\boxed{ 7 + 4 }"},
]
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=6, max_path_tokens=4, max_summary_tokens=3, max_trace_tokens=30
)
LORA = {"r": 2}


def with_new_tags() -> LanguageModel:
    lm = make_lm()
    return with_settings(lm, new_tags=tuple(lm.dialect.tags))


def fine_tune(lm: LanguageModel, folder: Path, **changes) -> None:
    config = SFTConfig(**{"steps": 4, "batch": 4, "lr": 3e-2, "checkpoint_every": 50, **changes})
    train_sft(lm, config, ROWS, folder, prompt=PROMPT, params=PARAMS)


def interrupted(lm: LanguageModel, folder: Path, monkeypatch, at: int = 3, **changes) -> None:
    """Ctrl-C in the update of step `at`, when the gradient is there."""
    update, calls = sft.update, []

    def cut(*args):
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "update", cut)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(lm, folder, **changes)


@torch.no_grad()
def logits(lm: LanguageModel) -> torch.Tensor:
    return lm.model(input_ids=torch.arange(10)[None]).logits


def test_the_model_is_in_evaluation_mode_and_has_no_gradient(tmp_path, monkeypatch):
    lm = make_lm()
    interrupted(lm, tmp_path, monkeypatch)
    assert not lm.model.training
    assert all(p.grad is None for p in lm.model.parameters())


def test_a_half_summed_gradient_is_not_added_to_the_next(tmp_path, monkeypatch):
    lm, fresh = make_lm(), make_lm()
    interrupted(lm, tmp_path / "a", monkeypatch, at=1)
    fine_tune(lm, tmp_path / "a")
    fine_tune(fresh, tmp_path / "b")
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in "ab"]
    assert rows[0] == rows[1]
    assert same_bits(weights_of(lm.model), weights_of(fresh.model))


def test_adapters_and_rows_of_tags_are_taken_out(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    lm, fresh = with_new_tags(), with_new_tags()
    before, start = weights_of(lm.model), logits(lm)
    interrupted(lm, tmp_path / "a", monkeypatch, lora=LORA)
    assert same_bits(before, weights_of(lm.model))
    assert torch.equal(start, logits(lm)), "no hook is left"
    assert rows_of(lm.model) is None
    assert all(p.requires_grad for p in lm.model.parameters())
    save(lm, tmp_path / "saved")
    fine_tune(lm, tmp_path / "a", lora=LORA)
    fine_tune(fresh, tmp_path / "b", lora=LORA)
    assert torch.equal(logits(lm), logits(fresh))
    assert torch.equal(logits(lm), logits(load(tmp_path / "a" / "model")))


def test_after_adapters_the_whole_model_can_be_trained(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    lm, fresh = make_lm(), make_lm()
    interrupted(lm, tmp_path / "a", monkeypatch, lora=LORA)
    fine_tune(lm, tmp_path / "b")
    fine_tune(fresh, tmp_path / "c")
    assert same_bits(weights_of(lm.model), weights_of(fresh.model))


def by_letters(given: RewardInput) -> float:
    return float(sum(map(ord, given.text)) % 7)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_model_that_drew_in_bfloat16_is_in_its_own_type_again(mini, tmp_path, monkeypatch, lora):
    """As on CUDA, where one process draws from a copy."""
    if lora:
        pytest.importorskip("peft")
    monkeypatch.setattr(sharding, "draws_from_copy", lambda lm, config: bool(config.autocast))

    def fails(given: RewardInput) -> float:
        raise ValueError("boom")

    lm = forking_lm()
    before = weights_of(lm.model)
    config = GRPOConfig(reward=fails, steps=2, prompts_per_step=2, group_size=3, autocast=True, lora=lora)
    with pytest.raises(ValueError, match="boom"):
        train_grpo(lm, config, mini, tmp_path, prompt=PROMPT, params=PARAMS)
    assert same_bits(before, weights_of(lm.model))


def test_an_error_after_the_last_step_is_said_and_what_was_trained_stays(mini, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(sharding, "draws_from_copy", lambda lm, config: bool(config.autocast))

    def full(*args):
        raise UserError("cannot write: no space left")

    monkeypatch.setattr(grpo, "save", full)
    lm = forking_lm()
    before = weights_of(lm.model)
    given = {"steps": 1, "prompts_per_step": 2, "group_size": 3, "lr": 1e-2, "autocast": True, "lora": LORA}
    with pytest.raises(UserError, match="no space left"):
        train_grpo(lm, GRPOConfig(reward=by_letters, **given), mini, tmp_path, prompt=PROMPT, params=PARAMS)
    after = weights_of(lm.model)
    assert after.keys() == before.keys()
    assert not same_bits(before, after)
