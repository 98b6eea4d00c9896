"""Dropout: off in reinforcement learning, and in fine-tuning the same in every process and after every kill."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers.device import tensor
from helpers.program import die, forked
from helpers.sweep import sweep
from helpers.training import checkpointed, make_lm, mixture, same_bits, sft_config, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.models.lm import checkpoint_activations
from polythink.problems.prompts import get_prompt
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo, sft
from polythink.train.config import GRPOConfig
from polythink.train.dropout import seeded, without_dropout
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=16, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=60
)


def dropping(checkpointing: bool = False, architecture: str = "gpt2"):
    """A small model with the dropout of 0.1 that its architecture has by default."""
    lm = make_lm(architecture=architecture)
    if checkpointing:
        checkpoint_activations(lm.model)
    return lm


def reinforced(lm, mini, folder, **changes):
    plain = {"reward": "parallel", "steps": 2, "prompts_per_step": 3, "group_size": 4, "lr": 1e-3, "micro_batch": 5}
    config = parse_config(GRPOConfig, {**plain, "drop_zero_spread": False, **changes}, "test")
    train_grpo(lm, config, mini, folder, prompt=get_prompt("countdown_parallel"), params=PARAMS)
    return read_jsonl(folder / "metrics.jsonl")


@pytest.mark.parametrize(
    ("old", "checkpointing"),
    sweep(
        [(old, checkpointing) for old in ("engine", "recomputed") for checkpointing in (False, True)],
        [("engine", True), ("recomputed", False)],
    ),
)
def test_what_is_drawn_is_what_is_trained(mini, tmp_path, old, checkpointing):
    """At a tiny rate the policy stays the reference, so its divergence is nothing but dropout would have made it."""
    rows = reinforced(dropping(checkpointing), mini, tmp_path, lr=1e-12, kl_coef=0.1, mini_batches=3, old_logprobs=old)
    for row in rows:
        assert row["logprob_gap"] < 1e-4
        assert row["kl"] < 1e-8
        assert row["clip_fraction"] == 0


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("training", [False, True])
def test_activations_are_checkpointed_without_dropout(architecture, training):
    """Forward and gradient are those of evaluation mode, and every layer is still run again in the backward pass."""
    tokens = tensor([[5, 6, 7, 8, 9]])
    lm, plain = dropping(True, architecture), dropping(False, architecture)
    plain.model.load_state_dict(lm.model.state_dict())
    lm.model.train(training)
    modes = {name: module.training for name, module in lm.model.named_modules()}
    runs: list[str] = []
    inner = [m for n, m in lm.model.named_modules() if n.endswith((".mlp", ".fc1"))]
    for module in inner:
        module.register_forward_pre_hook(lambda module, _: runs.append(type(module).__name__))
    plain.model(tokens).logits.square().mean().backward()
    with without_dropout(lm.model):
        lm.model(tokens, use_cache=False).logits.square().mean().backward()
    assert len(runs) == 2 * len(inner) > 0, "once forwards and once again backwards"
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(parameter.grad, dict(lm.model.named_parameters())[name].grad), name
    assert {name: module.training for name, module in lm.model.named_modules()} == modes


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_dropped_without_gradients_either(architecture, training):
    """transformers 5.24 checkpoints nothing then, so a layer that stays in training mode would drop by itself."""
    tokens = tensor([[5, 6, 7, 8, 9]])
    lm, plain = dropping(True, architecture), dropping(False, architecture)
    plain.model.load_state_dict(lm.model.state_dict())
    lm.model.train(training)
    modes = {name: module.training for name, module in lm.model.named_modules()}
    hooks = hooks_of(lm.model)
    with without_dropout(lm.model):
        with torch.no_grad():
            before = lm.model(tokens, use_cache=False).logits
        lm.model(tokens, use_cache=False).logits.square().mean().backward()  # checkpointed as if nothing had been
        with torch.no_grad():
            after = lm.model(tokens, use_cache=False).logits
    expected = plain.model(tokens).logits
    assert torch.equal(before, expected)
    assert torch.equal(after, expected)
    assert {name: module.training for name, module in lm.model.named_modules()} == modes
    assert hooks_of(lm.model) == hooks


def test_random_numbers_depend_on_seed_and_step_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = {}
    for seed, step in ((0, 1), (1, 0), (0, 2), (0, 1)):
        with seeded(seed, step, torch.device("cpu")):
            drawn = torch.rand(3)
        assert torch.equal(found.setdefault((seed, step), drawn), drawn)
        torch.rand(1)
        torch.set_rng_state(before)
    assert len({tuple(x.tolist()) for x in found.values()}) == 3
    with seeded(0, 1, torch.device("cpu")):
        torch.rand(100)
    assert torch.equal(torch.get_rng_state(), before), "the stream around it goes on as if nothing was drawn"


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_two_processes_do_the_same(mini, tmp_path, kind):
    """Whatever torch's global stream was: neither loop may read it."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        lm, folder = dropping(), tmp_path / str(seed)
        if kind == "sft":
            config = sft_config(steps=2)
            train_sft(lm, config, mixture(lm, config, mini), folder)
        else:
            reinforced(lm, mini, folder)
        found.append((weights_of(lm.model), without_times(read_jsonl(folder / "metrics.jsonl"))))
    assert same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_seeds_and_steps_drop_differently(mini, tmp_path):
    losses = []
    for seed in (0, 1):
        lm = dropping()
        config = sft_config(steps=1)
        data = mixture(lm, config, mini)  # the same batch for both
        losses.append(train_sft(lm, config, data, tmp_path / str(seed), seed=seed)["loss"])
    assert losses[0] != losses[1]


def run_until(call: int, kind: str, update: str, mini, folder: Path) -> None:
    """`whole_run` until something is saved or the model changed as often as `call` says."""
    loop, calls = {"sft": sft, "grpo": grpo}[kind], [0]

    def dying(real):
        def one(*args, **kwargs):
            calls[0] += 1
            if calls[0] == call:
                die()
            return real(*args, **kwargs)

        return one

    for name in ("save_checkpoint", "save", update):
        setattr(loop, name, dying(getattr(loop, name)))
    whole_run(kind, mini, folder)


def whole_run(kind: str, mini, folder: Path) -> None:
    lm = dropping()
    if kind == "sft":
        config = sft_config(steps=5, checkpoint_every=2)
        train_sft(lm, config, mixture(lm, config, mini), folder)
    else:
        reinforced(lm, mini, folder, steps=5, checkpoint_every=2, mini_batches=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "update"), sweep([("sft", "update"), ("grpo", "update_policy")], [("grpo", "update_policy")])
)
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(mini, tmp_path, kind, update):
    """Killed between two checkpoints, in a process of its own, and again after going on from the first of them."""
    for call in (5, 5):  # before update 4, past the checkpoint of step 2; then at the last checkpoint
        assert forked(partial(run_until, call, kind, update, mini, tmp_path / "parts")) == -signal.SIGKILL
    for name in ("whole", "parts"):
        whole_run(kind, mini, tmp_path / name)
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5]
    assert same_bits(*(checkpointed(tmp_path / name / "checkpoint") for name in ("whole", "parts")))
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]
