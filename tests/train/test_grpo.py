"""The reinforcement learning loop on the synthetic task: it learns, it logs what it must, and it resumes exactly."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from helpers.sweep import sweep
from helpers.training import make_lm, same_bits, weights_of, without_times
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.models.logprobs import logits_after
from polythink.problems.answers import Grader
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import problems
from polythink.rewards.combine import build_reward
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo, grpo_step, sharding
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.data import TraceEncoder
from polythink.train.data_keys import DataConfig
from polythink.train.grpo import asked_of, grade_and_reward, train_grpo
from polythink.train.grpo_rows import describe
from polythink.train.mixture import make_mixture
from polythink.train.own_engine import OwnEngine
from polythink.train.sft import train_sft

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=20, max_path_tokens=10, max_summary_tokens=4, max_trace_tokens=80
)
PROMPT = get_prompt("countdown_parallel")
SPEC_ROW = {
    "step", "reward", "reward_name", "reward/case", "accuracy", "parallel_ratio", "well_formed", "tokens",
    "critical_path", "first_block", "logprob_gap", "zero_spread", "truncated", "clip_fraction", "kl", "entropy", "loss",
    "grad_norm", "lr", "draw_seconds", "train_seconds",
}  # fmt: skip


def config_of(**changes) -> GRPOConfig:
    plain = {
        "reward": "accuracy", "steps": 4, "prompts_per_step": 4, "group_size": 4, "lr": 1e-3, "checkpoint_every": 2,
        "micro_batch": 8,
    }  # fmt: skip
    return parse_config(GRPOConfig, {**plain, **changes}, "test")


@pytest.fixture(scope="module")
def taught(mini, tmp_path_factory):
    """Weights that know both forms, after a short fine-tuning."""
    lm = make_lm()
    config = SFTConfig(steps=100, batch=32, lr=1e-2, schedule="cosine", checkpoint_every=100)
    styles = [{"style": style, "paths": 2} for style in ("parallel", "sequential")]
    sources = [DataConfig(problems="mini", weight=1, demonstrations=style) for style in styles]
    encode = TraceEncoder(lm, SamplingParams(mode="structured"), PROMPT)
    data = make_mixture(sources, encode, config, 0, lambda name: mini, lambda source: None)
    train_sft(lm, config, data, tmp_path_factory.mktemp("sft"))
    return weights_of(lm.model)


def taught_lm(taught):
    lm = make_lm()
    lm.model.load_state_dict(taught)
    return lm


OTHERWISE = {"old_logprobs": "recomputed", "autocast": True}


def run(lm, config, mini, folder, params=PARAMS, seed=0):
    with Grader() as grader:
        return train_grpo(lm, config, mini, folder, prompt=PROMPT, params=params, seed=seed, grader=grader)


@pytest.mark.slow
def test_reward_rises(taught, mini, tmp_path):
    """A policy that opens a block half of the time learns to do it always, where that alone is rewarded."""
    lm = taught_lm(taught)
    reward = {"name": "block", "cases": [{"when": ["parallel"], "value": 1}], "otherwise": 0}
    run(lm, config_of(reward=reward, steps=10, group_size=8, lr=1e-3, checkpoint_every=10), mini, tmp_path)
    rewards = [row["reward"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert 0.2 < rewards[0] < 0.8
    assert sum(rewards[-3:]) / 3 > max(0.85, rewards[0] + 0.1)


def test_rows_hold_what_the_report_draws(taught, mini, tmp_path):
    lm = taught_lm(taught)
    config = config_of(reward="alternating", kl_coef=0.1, mini_batches=2, log_samples=3, drop_zero_spread=False)
    found = run(lm, config, mini, tmp_path)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert set(rows[0]) >= SPEC_ROW
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["logprob_gap"] < 1e-4 for row in rows), "drawn = trained, at every step"
    assert all(row["reward_name"] == "accuracy" for row in rows)
    assert rows[-1]["kl"] > 0
    assert all(
        0 <= row[name] <= 1 for row in rows for name in ("parallel_ratio", "well_formed", "zero_spread", "accuracy")
    )
    assert found["steps"] == 4
    assert found["tokens"] == round(sum(row["tokens"] for row in rows) * 16)
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["step"] for row in samples] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert {"problem", "text", "verdict", "segments", "reward"} <= set(samples[0])


def short_and_right(given: RewardInput) -> float:
    """A reward as a user writes it."""
    assert given.question
    assert given.answer
    return float(given.right) - 0.01 * given.tokens


def test_a_python_function_is_a_reward_and_every_term_is_logged(taught, mini, tmp_path):
    """Prompt and sampling parameters are those of the model's settings, the problems a name."""
    lm = taught_lm(taught)
    lm.settings = replace(lm.settings, prompt=PROMPT.text, prompt_name=PROMPT.name, decoding=PARAMS.model_dump())
    add = [{"term": "blocks", "weight": 0.5}, {"term": lambda given: given.critical_path, "weight": -0.01}]
    reward = {"function": short_and_right, "add": add}
    result = train_grpo(lm, config_of(reward=reward, steps=1), "countdown-mini:train", tmp_path)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    terms = {name: row[f"reward/{name}"] for name in ("short_and_right", "blocks", "<lambda>")}
    assert row["reward"] == pytest.approx(sum(terms.values())) == pytest.approx(result["reward"])
    assert terms["short_and_right"] == pytest.approx(row["accuracy"] - 0.01 * row["tokens"])
    assert terms["<lambda>"] == pytest.approx(-0.01 * row["critical_path"])
    assert row["reward_name"] == "short_and_right"
    assert same_bits(load(tmp_path / "model").model.state_dict(), weights_of(lm.model))


def test_a_published_mode_gap_is_seen(taught, mini, tmp_path):
    """Drawn in one layout and trained in another: the gap is real, measured, and not hidden by the ratio."""
    lm = taught_lm(taught)
    reward = {"name": "block", "cases": [{"when": ["parallel"], "value": 1}]}
    run(lm, config_of(train_mode="sequential", steps=1, reward=reward, drop_zero_spread=False), mini, tmp_path)
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["logprob_gap"] > 0.01


def test_sequential_mode(taught, mini, tmp_path):
    lm = taught_lm(taught)
    run(lm, config_of(steps=2), mini, tmp_path, PARAMS.model_copy(update={"mode": "sequential"}))
    assert all(row["logprob_gap"] < 1e-4 for row in read_jsonl(tmp_path / "metrics.jsonl"))


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("changes", sweep([{"old_logprobs": "engine"}, OTHERWISE], [OTHERWISE]))
def test_resumed_is_uninterrupted_bit_for_bit(taught, mini, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(sharding, "draws_from_copy", lambda lm, config: config.autocast)
    config = config_of(kl_coef=0.05, mini_batches=2, schedule="linear", drop_zero_spread=False, **changes)
    whole, parts, again = (taught_lm(taught) for _ in range(3))
    run(whole, config, mini, tmp_path / "whole")
    with monkeypatch.context() as patch:
        real = grpo.save_checkpoint

        def save(folder, step, *state):
            if step == 4:
                raise Stopped
            real(folder, step, *state)

        patch.setattr(grpo, "save_checkpoint", save)
        with pytest.raises(Stopped):
            run(parts, config, mini, tmp_path / "parts")
    assert len(read_jsonl(tmp_path / "parts" / "metrics.jsonl")) == 4, "rows beyond the checkpoint are written again"
    run(again, config, mini, tmp_path / "parts")
    assert same_bits(weights_of(whole.model), weights_of(again.model))
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = [without_times(read_jsonl(tmp_path / run_name / name)) for run_name in ("whole", "parts")]
        assert rows[0] == rows[1]


def test_seeds_differ_and_repeat(taught, mini, tmp_path):
    config = config_of(steps=1)
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(taught_lm(taught), config, mini, tmp_path / name, seed=seed)
        texts.append([row["text"] for row in read_jsonl(tmp_path / name / "samples.jsonl")])
    assert texts[0] == texts[1] != texts[2]


def test_a_problem_asked_twice_is_not_answered_twice_alike(taught, mini, tmp_path):
    run(taught_lm(taught), config_of(steps=1, prompts_per_step=2), mini[:1], tmp_path)
    texts = [row["text"] for row in read_jsonl(tmp_path / "samples.jsonl")]
    assert len(texts) == 2
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"top_p": 0.9}, "whole distribution"), ({"top_k": 5}, "whole distribution"), ({"temperature": 0}, "above 0"),
     ({"path_temperature": 0}, "above 0")],
)  # fmt: skip
def test_parameters_that_cannot_be_trained_with_are_refused(lm, mini, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(lm, config_of(), mini, tmp_path, SamplingParams(**{**PARAMS.model_dump(), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size"),
        ({"mini_batches": 9}, "mini_batches is 9, but a step has 4 groups"),
        ({"reward": "acuracy"}, "did you mean 'accuracy'"),
        ({"los_type": "token-mean"}, "did you mean 'loss_type'"),
        ({"train_mode": "seen_published"}, "train_mode"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config_of(**changes)


def test_entropy_estimate_is_the_mean_surprisal(lm):
    """At the start a random model is nearly uniform: its entropy is about the log of the vocabulary."""
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(1e-3)
    asked = problems("mini", "train", limit=2)
    with Grader() as grader:
        source = OwnEngine(Engine(lm))
        rollouts = source.draw(asked_of(source, asked, 4, PROMPT, PARAMS, seed=0))
        batch = grade_and_reward(rollouts, asked, grader, build_reward("accuracy"), 1)
    found = describe(batch, lm.dialect)
    assert found["entropy"] == pytest.approx(torch.tensor(82.0).log().item(), rel=1e-3)
    assert found["sampled_tokens"] == sum(sum(s.sampled) for r in rollouts for s in r.segments) / len(rollouts)


def test_with_autocast_the_engine_draws_in_the_arithmetic_of_training(taught, mini, tmp_path, monkeypatch):
    """Rounded alike on both sides: much nearer than what is drawn in float32 is to a bfloat16 forward."""
    monkeypatch.setattr(grpo_step, "training_logits", lambda *_: logits_after)  # which rounds in the same places
    config = config_of(autocast=True, steps=1, drop_zero_spread=False)
    run(taught_lm(taught), config, mini, tmp_path / "alike")
    monkeypatch.setattr(grpo, "autocast", lambda *args: nullcontext())
    run(taught_lm(taught), config, mini, tmp_path / "apart")
    alike, apart = (read_jsonl(tmp_path / name / "metrics.jsonl")[0]["logprob_gap_mean"] for name in ("alike", "apart"))
    assert apart > 1e-3, "bfloat16 must be at work"
    assert 0 < alike < apart / 2


def test_with_autocast_the_engine_is_checked_in_that_arithmetic(taught):
    """So that a run says what its rollouts are off by."""
    lm = taught_lm(taught)
    exact, rounded = (OwnEngine.of(lm, config_of(autocast=on)).engine.backend.logprob_error for on in (False, True))
    assert exact < 1e-5
    assert rounded > 1e-4


def test_rollouts_of_autocast_may_come_from_a_copy_in_bfloat16(taught, mini, tmp_path, monkeypatch):
    """As one process does on CUDA. The copy follows the weights, which stay float32; what is trained is saved."""
    monkeypatch.setattr(sharding, "draws_from_copy", lambda lm, config: config.autocast)
    seen = []

    def generate(engine, *args):
        weight = engine.lm.model.get_input_embeddings().weight
        seen.append((weight.dtype, weight.detach().clone()))
        return real(engine, *args)

    real = Engine.generate
    monkeypatch.setattr(Engine, "generate", generate)
    lm, config = taught_lm(taught), config_of(autocast=True, steps=3, drop_zero_spread=False)
    before = weights_of(lm.model)
    run(lm, config, mini, tmp_path)
    (first, *_), (later, last) = seen[0], seen[-1]
    assert first == later == torch.bfloat16
    assert not torch.equal(last, seen[0][1])
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert not same_bits(weights_of(lm.model), before)
    assert same_bits(weights_of(load(tmp_path / "model").model), weights_of(lm.model))
    assert all(row["logprob_gap_mean"] < 0.05 for row in read_jsonl(tmp_path / "metrics.jsonl"))
