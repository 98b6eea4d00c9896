"""The type in which training computes; weights that cannot hold the updates of a learning rate."""

from __future__ import annotations

import logging

import pytest
import torch

from helpers.training import make_lm, mixture, sft_config, weights_of
from polythink.engine.params import SamplingParams
from polythink.problems.prompts import get_prompt
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import precision
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo
from polythink.train.precision import share_that_stands_still
from polythink.train.sft import train_sft

STEP = 2.0**-8  # between two bfloat16 from 0.5 to 1


@pytest.mark.parametrize("there", [False, True])
def test_autocast_auto_is_bfloat16_where_the_processor_multiplies_it(mini, tmp_path, monkeypatch, caplog, there):
    def losses(autocast: bool | str) -> list[float]:
        lm, config = make_lm(), sft_config(steps=2, autocast=autocast)
        train_sft(lm, config, mixture(lm, config, mini), tmp_path / str(autocast))
        return [row["loss"] for row in read_jsonl(tmp_path / str(autocast) / "metrics.jsonl")]

    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda dtype: there)
    precision._multiplies.cache_clear()
    try:
        auto = losses("auto")
    finally:
        precision._multiplies.cache_clear()
    assert auto == losses(there)
    assert auto != losses(not there)
    assert ("this cpu does not multiply bfloat16" in caplog.text) == (not there)


@pytest.mark.parametrize(
    ("values", "lr", "share"),
    [
        ([0.75, 0.0, 1.5, 0.1], STEP / 4, 0.5),  # half a step is needed; 0 takes anything, 0.1 has a step of its own
        ([0.75, 0.75, 1.5, 1.5], STEP * 0.6, 0.5),
        ([0.75, 0.75, 0.75, 0.75], STEP * 0.51, 0.0),
        ([0.75, -0.75, 3.0, -5.0], 1e-6, 1.0),
    ],
)
def test_share_by_hand(values, lr, share):
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data = torch.tensor([values], dtype=torch.bfloat16)
    assert share_that_stands_still(model.parameters(), lr) == share
    model.float()
    assert share_that_stands_still(model.parameters(), lr) == 0
    model.requires_grad_(False)
    assert share_that_stands_still(model.parameters(), lr) == 0


@pytest.mark.parametrize(("lr", "still"), [(1e-6, 0.95), (1e-5, 0.6)])
def test_the_measure_is_what_a_step_does(mini, tmp_path, lr, still):
    lm, config = make_lm(), sft_config(steps=1, lr=lr, max_grad_norm=0, weight_decay=0)
    lm.model.bfloat16()
    expected, before = share_that_stands_still(lm.model.parameters(), lr), weights_of(lm.model)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    after = weights_of(lm.model)
    names = [name for name, _ in lm.model.named_parameters()]
    unchanged = sum(int((before[n] == after[n]).sum()) for n in names) / sum(before[n].numel() for n in names)
    assert expected > still
    assert unchanged == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
@pytest.mark.parametrize(
    ("dtype", "lr", "said"), [("bfloat16", 2e-6, True), ("bfloat16", 1e-2, False), ("float32", 2e-6, False)]
)
def test_it_is_said_before_the_first_step(mini, tmp_path, caplog, kind, dtype, lr, said):
    lm = make_lm(dtype=dtype)
    with caplog.at_level(logging.WARNING):
        if kind == "sft":
            config = sft_config(steps=1, lr=lr)
            train_sft(lm, config, mixture(lm, config, mini), tmp_path)
        else:
            given = {"reward": "accuracy", "steps": 1, "prompts_per_step": 1, "group_size": 2, "lr": lr}
            params = SamplingParams(max_main_tokens=4, max_trace_tokens=60)
            config = parse_config(GRPOConfig, given, "test")
            train_grpo(lm, config, mini, tmp_path, prompt=get_prompt("countdown_parallel"), params=params)
    found = [r.getMessage() for r in caplog.records if "rounds to nothing" in r.getMessage()]
    assert len(found) == said
    if said:
        assert "at lr 2e-06" in found[0]
        assert "which are bfloat16" in found[0]
        assert "model.dtype: float32" in found[0]


def test_frozen_weights_are_not_spoken_of(mini, tmp_path, caplog):
    """Adapters are float32 beside weights in bfloat16, which stay as they are."""
    pytest.importorskip("peft", reason="needs the package peft (pip install peft)")
    lm = make_lm(dtype="bfloat16")
    config = sft_config(steps=1, lr=2e-6, lora={"r": 2, "lora_alpha": 4})
    with caplog.at_level(logging.WARNING):
        train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    assert "rounds to nothing" not in caplog.text
