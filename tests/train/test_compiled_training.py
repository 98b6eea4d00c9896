"""`compile: true` learns what `compile: false` learns, to rounding; traced without code generation."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from helpers.training import make_lm, mixture, sft_config, weights_of
from polythink.models import compiled
from polythink.problems.tasks.countdown import problems
from polythink.run.jsonl import read_jsonl
from polythink.train.config import PolicyConfig
from polythink.train.grpo_step import TrainItem, update_policy
from polythink.train.optimiser import make_optimiser
from polythink.train.sft import train_sft


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.long
@pytest.mark.parametrize("keys", [{}, {"pack": 128}, {"logits_memory_bytes": 4000}], ids=["rows", "packed", "pieces"])
def test_fine_tuning(tmp_path, keys):
    found = {}
    for compile in (False, True):
        lm, folder = make_lm(), tmp_path / str(compile)
        config = sft_config(steps=3, batch=5, micro_batch=2, compile=compile, **keys)
        train_sft(lm, config, mixture(lm, config, problems("mini", "train")), folder)
        rows = read_jsonl(folder / "metrics.jsonl")
        found[compile] = [row[name] for row in rows for name in ("loss", "grad_norm")]
        assert (counters["stats"]["unique_graphs"] > 0) == compile
    assert found[True] == pytest.approx(found[False], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("pack", [None, 128])
def test_a_policy_step(pack):
    """With a reference model and old log-probabilities of a forward without gradients."""
    import numpy as np

    lm = make_lm()
    layouts = mixture(lm, sft_config(batch=8), problems("mini", "train")).batch(0)
    found = {}
    for compile in (False, True):
        lm, reference = make_lm(), make_lm(1).model.eval()
        config = PolicyConfig(
            lr=1e-3, pack=pack, compile=compile, kl_coef=0.1, old_logprobs="recomputed", drop_zero_spread=False
        )
        ones = [np.ones(len(x), np.float32) for x in layouts]
        items = [TrainItem(x, -y, -y, y, 1 - 2 * (i % 2)) for i, (x, y) in enumerate(zip(layouts, ones, strict=True))]
        groups = [items[:4], items[4:]]
        optimiser = make_optimiser(lm.model, config)
        row = update_policy(lm, config, groups, torch.zeros(2, dtype=torch.bool), optimiser, 1e-3, reference)
        found[compile] = {n: row[n] for n in ("loss", "grad_norm", "kl", "logprob_gap")}, weights_of(lm.model)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5, abs=1e-7)
    for name, right in found[False][1].items():
        assert torch.allclose(found[True][1][name], right, atol=1e-4), name
