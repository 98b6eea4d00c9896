"""The loop for plain text: what a step reads, averaged checkpoints, schedules, and going on where it was stopped."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

import polythink.text.train as text
from helpers.training import killed, same_bits, weights_of, without_times
from polythink.errors import UserError
from polythink.pipeline.recipe import load_recipe
from polythink.pipeline.stage import run_stage
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.text.batches import ByCount, by_tokens, without_long
from polythink.text.data.sets import load_texts
from polythink.text.evaluate import mean_loss
from polythink.text.model import (
    Example,
    TextModel,
    TextModelConfig,
    create_text_model,
    load_text_model,
    make_batch,
    token_losses,
)
from polythink.text.tokenizers import TokenizerConfig, train_tokenizer
from polythink.text.train import TextConfig, accumulate_gradient, last_ones, train_text
from polythink.train.checkpoint import average_weights, keep_weights
from polythink.train.config import OptimiserConfig
from polythink.train.optimiser import learning_rate, make_optimiser, update

TRAIN, VALID = load_texts("copy:train", 60), load_texts("copy:valid", 20)
SHAPE = TextModelConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, dropout=0.2)


def make(encoder: bool = True, **shape) -> TextModel:
    tokenizer = train_tokenizer(TokenizerConfig(), [pair.source for pair in TRAIN])
    return create_text_model(SHAPE.model_copy(update=shape), tokenizer, encoder, seed=0)


def config_of(**changes) -> TextConfig:
    given = {"kind": "text", "data": "copy:train", "steps": 6, "batch": 8, "lr": 1e-2, "validate_every": 2}
    return parse_config(TextConfig, given | {"checkpoint_every": 2} | changes, "test")


# ---- what a step reads ----


def examples(*lengths: tuple[int, int]) -> list[Example]:
    return [Example([4] * source, [5] * target) for source, target in lengths]


def test_every_example_comes_once_an_epoch():
    found = [Example([i], [i]) for i in range(10)]
    batches = ByCount(found, 5, 2, seed=0)
    assert batches.an_epoch == 2
    for epoch in range(2):
        steps = [batches.forwards(2 * epoch + i) for i in range(2)]
        assert all([len(forward) for forward in step] == [2, 2, 1] for step in steps)
        assert sorted(e.source[0] for step in steps for forward in step for e in forward) == list(range(10))
    assert batches.forwards(0) != batches.forwards(2)
    assert batches.forwards(3) == ByCount(found, 5, 2, seed=0).forwards(3)
    assert batches.forwards(3) != ByCount(found, 5, 2, seed=1).forwards(3)


def test_forwards_hold_so_many_tokens_of_the_longer_side():
    found = examples((3, 9), (1, 2), (2, 2), (20, 1), (8, 8), (3, 1), (9, 3), (2, 3))
    batches = by_tokens(found, 16, 1, seed=0)
    sizes = []
    for i in range(int(batches.an_epoch)):
        (forward,) = batches.forwards(i)
        width = max(max(len(e.source), len(e.target)) for e in forward)
        assert width * len(forward) <= 16 or len(forward) == 1
        sizes.append(len(forward))
    assert sum(sizes) == len(found)
    assert max(sizes) > 1
    two = by_tokens(found, 16, 2, seed=0)
    assert two.forwards(1) == batches.forwards(2) + batches.forwards(3)
    assert two.an_epoch == batches.an_epoch / 2


def test_long_examples_are_dropped_and_counted():
    dropped = Counter()
    assert without_long(examples((3, 9), (2, 2), (8, 8)), 8, dropped) == examples((2, 2), (8, 8))
    assert dropped == {"too long": 1}
    with pytest.raises(UserError, match="none of the 1 pairs has at most 2 tokens a side"):
        without_long(examples((3, 1)), 2, dropped)


def test_how_a_batch_is_divided_does_not_matter():
    lm = make(dropout=0)
    pairs = [Example(lm.encode(pair.source), lm.encode(pair.target)) for pair in TRAIN][:8]
    found = []
    for forwards in ([pairs], [pairs[:3], pairs[3:]]):
        lm.model.zero_grad()
        row = accumulate_gradient(lm, config_of(label_smoothing=0.1), forwards)
        found.append((row["loss"], torch.cat([p.grad.flatten() for p in lm.model.parameters()])))
        assert row["tokens"] == sum(len(example.target) for example in pairs)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)
    batch = make_batch(lm, pairs)
    assert found[0][0] == pytest.approx(token_losses(lm, batch)[0].sum().item() / batch.tokens, rel=1e-6)


# ---- the step ----


def test_the_rate_falls_with_the_root_of_the_steps():
    config = OptimiserConfig(lr=2e-3, schedule="inverse_sqrt", warmup=16)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-3 / 16)
    assert rates[7] == pytest.approx(1e-3)
    assert rates[15] == pytest.approx(2e-3)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[63] == pytest.approx(1e-3), "four times the warm-up, half the rate"
    assert rates[999] == pytest.approx(2e-3 * math.sqrt(16 / 1000))


def test_warmup_is_a_share_or_a_number_of_steps():
    share, steps = (OptimiserConfig(lr=1.0, schedule="cosine", warmup=w) for w in (0.1, 20))
    assert [learning_rate(share, i, 200) for i in range(200)] == [learning_rate(steps, i, 200) for i in range(200)]


def test_without_a_bound_the_gradient_stays_whole():
    moved = []
    for clip in (0, 1e9, 0.01):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        before = model.weight.detach().clone()
        model(torch.full((2, 3), 100.0)).sum().backward()
        norm = update(model, optimiser, 1.0, clip)
        moved.append((model.weight - before).norm().item())
        assert norm > 100
    assert moved[0] == moved[1] > 100 > 0.011 > moved[2]


# ---- averaging ----


def test_the_mean_of_checkpoints_by_hand(tmp_path):
    model = torch.nn.Linear(2, 1)
    for step, value in ((2, 1.0), (4, 2.0), (6, 6.0)):
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.constant_(model.bias, -value)
        keep_weights(tmp_path, step, model)
    average_weights(tmp_path, [2, 4, 6], model)
    assert model.weight.tolist() == [[3.0, 3.0]]
    assert model.bias.tolist() == [-3.0]
    average_weights(tmp_path, [4, 6], model)
    assert model.bias.tolist() == [-4.0]


@pytest.mark.parametrize(
    ("steps", "count", "every", "expected"),
    [(10, 1, 1, []), (10, 3, 2, [6, 8, 10]), (5, 4, 2, [1, 3, 5]), (7, 2, 7, [7])],
)
def test_which_checkpoints_are_averaged(steps, count, every, expected):
    assert last_ones(steps, count, every) == expected


def test_a_run_ends_with_the_mean_of_its_last_steps(tmp_path):
    ends = []
    for steps in (4, 5, 6):
        lm = make(dropout=0)
        train_text(lm, config_of(steps=steps), TRAIN, None, 0, tmp_path / str(steps))
        ends.append(weights_of(lm.model))
    lm = make(dropout=0)
    train_text(lm, config_of(steps=6, average=3, average_every=1), TRAIN, None, 0, tmp_path / "mean")
    for name, value in lm.model.state_dict().items():
        torch.testing.assert_close(value, sum(end[name] for end in ends) / 3, rtol=1e-5, atol=1e-7)


# ---- whole runs ----


@pytest.mark.parametrize("encoder", [True, False])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, encoder):
    """With dropout, averaging and validation, stopped behind a checkpoint and between two."""
    config = config_of(average=2, average_every=2, label_smoothing=0.1, block=None if encoder else 7)
    whole = make(encoder)
    expected = train_text(whole, config, TRAIN, VALID, 1, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def until(step):
        def rate(config, at, steps):
            if at == step:
                raise Stopped
            return learning_rate(config, at, steps)

        return rate

    for stop in (3, 5):
        with monkeypatch.context() as patch:
            patch.setattr(text, "learning_rate", until(stop))
            with pytest.raises(Stopped):
                train_text(make(encoder), config, TRAIN, VALID, 1, tmp_path / "stopped")
        torch.rand(7)  # another process has other random numbers
    again = make(encoder)
    found = train_text(again, config, TRAIN, VALID, 1, tmp_path / "stopped")
    assert same_bits(weights_of(again.model), weights_of(whole.model))
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "stopped")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if "valid_loss" in row] == [2, 4, 6]
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    changes = ["model.hidden_size=16", "model.intermediate_size=32", "model.num_hidden_layers=1", "model.dropout=0.1"]
    changes += ["train.valid=null", "train.steps=120", "train.batch=8"]
    for side in ("source", "target"):
        (tmp_path / f"train.{side}").write_text("".join(f"{getattr(pair, side)}\n" for pair in TRAIN))
    changes.append(f"train.data={tmp_path}/train.{{source,target}}")
    plan = load_recipe("translation-reverse", [*changes, "train.checkpoint_every=5", "train.average=2"]).plan()[0]
    run_stage(plan, tmp_path / "whole", log=lambda text: None)
    killed(plan, tmp_path / "killed", 23)
    assert not (tmp_path / "killed" / "result.json").exists()
    run_stage(plan, tmp_path / "killed", resume=True, log=lambda text: None)
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    weights = [weights_of(load_text_model(tmp_path / name / "model").model) for name in ("whole", "killed")]
    assert same_bits(*weights)


def test_the_loss_falls_and_is_that_of_the_model(tmp_path):
    lm = make(dropout=0)
    result = train_text(lm, config_of(steps=40, batch=30, lr=2e-2, max_grad_norm=0), TRAIN, VALID, 0, tmp_path)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    pairs = [Example(lm.encode(pair.source), lm.encode(pair.target)) for pair in VALID]
    assert result["valid_loss"] == pytest.approx(mean_loss(lm, pairs), rel=1e-6)
    assert result["tokens"] == sum(row["tokens"] for row in rows)


def test_epochs_are_so_many_steps(tmp_path):
    result = train_text(make(), config_of(steps=None, epochs=1.5, batch=20), TRAIN, None, 0, tmp_path)
    assert result["steps"] == 4  # 4.5 batches
    with pytest.raises(UserError, match="are less than one step"):
        train_text(make(), config_of(steps=None, epochs=0.1, batch=20), TRAIN, None, 0, tmp_path / "none")


def test_no_weight_is_left_out():
    lm = make()
    assert sum(p.numel() for group in make_optimiser(lm.model, config_of()).param_groups for p in group["params"]) == (
        sum(p.numel() for p in lm.model.parameters())
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "either how many steps or how many epochs"),
        ({"batch_tokens": 10}, "either batch .examples. or batch_tokens"),
        ({"batch": None}, "either batch .examples. or batch_tokens"),
        ({"label_smoothing": 1}, "label_smoothing must be less than 1"),
        ({"schedule": "inverse"}, "schedule must be"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config_of(**changes)
