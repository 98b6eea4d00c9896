"""Rows that several traces share by default where attention is flex: what is learnt is as with one trace a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.flex import allow_flex
from helpers.ranks import together
from helpers.training import PROMPT, gradients, make_lm, mixture, sft_config, without_times
from polythink.models.lm import checkpoint_activations
from polythink.problems.tasks.countdown import problems
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo_step, kernels, sft
from polythink.train.config import PolicyConfig
from polythink.train.grpo_step import TrainItem, update_policy
from polythink.train.kernels import kernels_of
from polythink.train.optimiser import make_optimiser
from polythink.train.rows import BLOCK, row_tokens
from polythink.train.sft import train_sft

FLEX = {"attention": "flex_attention", "compile": True}
CLOSE = 1e-5


def test_rows_are_as_long_as_the_longest_trace():
    for longest in (1, 128, 129, 700, 1023, 1024, 1025, 3150, 4096, 28_672, 140_000):
        width = row_tokens("auto", longest, blocks=True)
        assert width % BLOCK == 0
        assert longest <= width < longest + max(BLOCK, longest / 8), longest
    assert len({row_tokens("auto", longest, blocks=True) for longest in range(2049, 4097)}) == 8, "few compilations"
    assert row_tokens("auto", 4096, blocks=True) == 4096


def test_rows_of_one_trace():
    assert [row_tokens(pack, 500, blocks=False) for pack in ("auto", None, 2048)] == [0, 0, 2048]
    assert [row_tokens(pack, 500, blocks=True) for pack in (None, 2048)] == [0, 2048]


# ---- what is learnt ----


def batches(monkeypatch, module) -> list[tuple[int, int]]:
    """The shapes of the batches that a loop makes from now on."""
    shapes, made = [], kernels.batch_of

    def counting(*args, **more):
        batch = made(*args, **more)
        shapes.append(tuple(batch.tokens.shape))
        return batch

    monkeypatch.setattr(module, "batch_of", counting)
    return shapes


def of_a_batch(keys: dict, checkpointing: bool) -> tuple[float, torch.Tensor]:
    lm = make_lm()
    if checkpointing:
        checkpoint_activations(lm.model)
    config = sft_config(**{"batch": 24, "micro_batch": 2, **keys})
    layouts = mixture(lm, config, problems("mini", "train")).batch(0)
    lm.model.train()
    with kernels_of(config, lm.model):
        loss, _ = sft.accumulate_gradient(lm, config, layouts)
    return loss, gradients(lm.model)


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.parametrize(
    "checkpointing", [True, pytest.param(False, marks=pytest.mark.long)], ids=["computed again", "kept"]
)
def test_fine_tuning_packs_where_attention_is_flex(monkeypatch, checkpointing):
    """Fewer forwards, none larger than `micro_batch` traces of the longest; the loss and gradient of dense masks."""
    shapes = batches(monkeypatch, sft)
    right = of_a_batch({}, checkpointing)
    assert len(shapes) == 12, "one trace a row"
    shapes.clear()
    found = of_a_batch(FLEX, checkpointing)
    assert len(shapes) < 6
    assert {(rows <= 2, width) for rows, width in shapes} == {(True, BLOCK)}
    assert found[0] == pytest.approx(right[0], rel=CLOSE)
    assert (found[1] - right[1]).norm() < CLOSE * right[1].norm()


def items_of(count: int) -> list[TrainItem]:
    layouts = mixture(make_lm(), sft_config(batch=count), problems("mini", "train")).batch(0)
    ones = [np.ones(len(x), np.float32) for x in layouts]
    return [TrainItem(x, -y, -y, y, 1 - 2 * (i % 2)) for i, (x, y) in enumerate(zip(layouts, ones, strict=True))]


def policy_step(keys: dict) -> tuple[dict, torch.Tensor]:
    lm, reference = make_lm(), make_lm(1).model.eval()
    checkpoint_activations(lm.model)
    config = PolicyConfig(
        lr=1e-3, kl_coef=0.1, old_logprobs="recomputed", drop_zero_spread=False, mini_batches=2, micro_batch=2, **keys
    )
    items = items_of(24)
    groups = [items[i : i + 4] for i in range(0, 24, 4)]
    optimiser = make_optimiser(lm.model, config)
    row = update_policy(lm, config, groups, torch.zeros(6, dtype=torch.bool), optimiser, 1e-3, reference)
    weights = torch.cat([p.detach().flatten() for p in lm.model.parameters()])
    return {name: row[name] for name in ("loss", "grad_norm", "kl", "logprob_gap")}, weights


@pytest.mark.long
@pytest.mark.usefixtures("flex_on_cpu")
def test_a_policy_step_packs_where_attention_is_flex(monkeypatch):
    """Old log-probabilities of all groups share rows; two updates, a reference, activations computed again."""
    shapes = batches(monkeypatch, grpo_step)
    right, weights = policy_step({})
    dense = len(shapes)
    shapes.clear()
    found, others = policy_step(FLEX)
    assert len(shapes) <= dense / 2
    assert found == pytest.approx(right, rel=CLOSE, abs=1e-6)
    assert torch.allclose(others, weights, atol=1e-4)


# ---- in two processes ----


def train(folder: Path, keys: dict | None = None) -> list[dict]:
    from test_processes import run_grpo

    allow_flex()
    keys = FLEX if keys is None else keys
    lm, config = make_lm(), sft_config(steps=2, batch=11, micro_batch=2, **keys)
    checkpoint_activations(lm.model)
    data = mixture(lm, config, problems("mini", "train"))
    own = train_sft(lm, config, data, folder / "sft", prompt=PROMPT)
    return [own, run_grpo(folder / "grpo", 2, old_logprobs="recomputed", mini_batches=2, kl_coef=0.1, **keys)]


@pytest.mark.long
@pytest.mark.usefixtures("flex_on_cpu")
def test_two_processes_share_out_packed_rows(tmp_path):
    """As many updates and collectives in both, whatever rows there are, and the numbers of one trace a row."""
    train(tmp_path / "one", {})
    ended = together(2, train, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    for kind in ("sft", "grpo"):
        ours, theirs = (without_times(read_jsonl(tmp_path / n / kind / "metrics.jsonl")) for n in ("one", "two"))
        assert len(ours) == len(theirs) == 2
        for row, other in zip(ours, theirs, strict=True):
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            assert {name: other[name] for name in numbers} == pytest.approx(numbers, rel=CLOSE, abs=CLOSE)
