"""LoRA: new adapters change nothing, only they are trained, what is drawn is what is trained, and both are written."""

from __future__ import annotations

import sys

import pytest
import torch

from helpers import thoughts
from helpers.training import PROMPT, forking_lm, make_lm, mixture, same_bits, sft_config, weights_of
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.models.thoughts import thoughts_of
from polythink.problems.answers import Grader
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.adapters import add_adapters, save_adapters, without_adapters
from polythink.train.config import GRPOConfig, TrainingConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

peft = pytest.importorskip("peft")
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=3, max_trace_tokens=48
)


def logits(lm) -> torch.Tensor:
    return lm.model(torch.tensor([lm.encode("1 2 -> 3 :")])).logits.detach()


def test_new_adapters_change_nothing_and_are_all_that_is_trained(recwarn):
    lm = make_lm()
    before = logits(lm)
    wrapped = add_adapters(lm, TrainingConfig(lora={"r": 2}), seed=0)
    assert not recwarn.list, "what peft asks transformers for is no news to a user"
    assert torch.equal(logits(lm), before)
    trained = {name for name, p in lm.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    again = make_lm()
    add_adapters(again, TrainingConfig(lora={"r": 2}), seed=0)
    assert same_bits(weights_of(lm.model), weights_of(again.model)), "the seed decides"
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)
    changed = logits(lm)
    assert not torch.equal(changed, before)
    with without_adapters(lm.model, switched=True):
        assert torch.equal(logits(lm), before)
    assert torch.equal(logits(lm), changed)
    assert wrapped.merge_and_unload() is lm.model
    assert torch.allclose(logits(lm), changed, atol=1e-5)


def test_thought_embeddings_beside_adapters_are_not_trained_and_that_is_said(caplog):
    lm = thoughts.make("qwen3")
    add_adapters(lm, TrainingConfig(lora={"r": 2}), seed=0)
    assert not thoughts_of(lm.model).table.requires_grad
    assert "lora leaves the thought embeddings as they are; to train them" in caplog.text
    caplog.clear()
    add_adapters(thoughts.make("qwen3", inventory=None), TrainingConfig(lora={"r": 2}), seed=0)
    assert not caplog.text


def test_sft_writes_adapters_and_a_merged_model(mini, tmp_path):
    lm = make_lm()
    base = weights_of(lm.model)
    config = sft_config(lora={"r": 2}, steps=4, lr=1e-2)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    merged = load(tmp_path / "model")
    assert same_bits(merged.model.state_dict(), weights_of(lm.model))
    assert all(p.requires_grad for p in lm.model.parameters()), "it can be trained as a whole next"
    changed = {name for name, value in merged.model.state_dict().items() if not torch.equal(value, base[name])}
    assert changed
    assert all("proj" in name for name in changed), "embeddings, norms and head stay"
    other = make_lm()
    loaded = peft.PeftModel.from_pretrained(other.model, tmp_path / "adapter")
    assert torch.allclose(
        loaded(torch.tensor([[1, 2, 3]])).logits, lm.model(torch.tensor([[1, 2, 3]])).logits, atol=1e-5
    )


def by_words(given) -> float:
    """A reward in which rollouts differ."""
    return float(sum(given.segments[0].tokens) % 7)


def config_of(**changes) -> GRPOConfig:
    plain = {"steps": 2, "prompts_per_step": 2, "group_size": 4, "lr": 1e-2, "micro_batch": 8, "checkpoint_every": 1,
             "drop_zero_spread": False}  # fmt: skip
    return parse_config(GRPOConfig, {**plain, "reward": by_words, "lora": {}, **changes}, "test")


def run(lm, folder, mini, **changes) -> list[dict]:
    with Grader() as grader:
        train_grpo(lm, config_of(**changes), mini, folder, prompt=PROMPT, params=PARAMS, grader=grader)
    return read_jsonl(folder / "metrics.jsonl")


def test_grpo_draws_what_it_trains_and_compares_with_the_base(mini, tmp_path):
    lm = forking_lm()
    base = weights_of(lm.model)
    rows = run(lm, tmp_path / "whole", mini, kl_coef=0.1)
    assert all(row["logprob_gap"] < 1e-4 for row in rows), "the second step draws with changed adapters"
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["kl"] > 1e-6, "the reference is the base without the adapters"
    assert not same_bits(weights_of(lm.model), base)
    assert (tmp_path / "whole" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.long
def test_a_resumed_run_is_an_uninterrupted_one(mini, tmp_path):
    lm, parts = forking_lm(), forking_lm()
    run(lm, tmp_path / "whole", mini, kl_coef=0.1)
    run(forking_lm(), tmp_path / "parts", mini, kl_coef=0.1, steps=1)
    run(parts, tmp_path / "parts", mini, kl_coef=0.1)
    assert same_bits(weights_of(parts.model), weights_of(lm.model))


def test_refusals_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="trainable: thoughts trains the thought embeddings alone"):
        parse_config(TrainingConfig, {"lora": {}, "trainable": "thoughts"}, "test")
    with pytest.raises(UserError, match=r"lora\.target_modules: Target modules .* not found"):
        add_adapters(make_lm(), TrainingConfig(lora={"target_modules": ["nowhere"]}), 0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"peft, which is not installed; `pip install -e '\.\[lora\]'`"):
        add_adapters(make_lm(), TrainingConfig(lora={}), 0)
    assert add_adapters(make_lm(), TrainingConfig(), 0) is None
    save_adapters(make_lm(), TrainingConfig(), None, None)
