"""Training on plain text: what a step reads, averaged checkpoints, and resuming where a run was stopped or killed."""

from __future__ import annotations

import pytest
import torch

import polythink.text.train as text
from helpers.sweep import sweep
from helpers.training import killed, same_bits, weights_of, without_times
from polythink.errors import UserError
from polythink.pipeline.recipe import load_recipe
from polythink.pipeline.stage import run_stage
from polythink.run.config import parse_config
from polythink.run.folder import write_json
from polythink.run.jsonl import read_jsonl
from polythink.text.config import TextConfig, TextModelConfig, TokenizerConfig
from polythink.text.data.sets import load_texts
from polythink.text.evaluate import mean_loss
from polythink.text.model import Example, TextModel, create_text_model, load_text_model, make_batch, save_text_model
from polythink.text.tokenizers import train_tokenizer
from polythink.text.train import (
    Forwards,
    averaged_steps,
    drop_long,
    load_average,
    train_text,
)
from polythink.train.optimiser import learning_rate

TRAIN, VALID = load_texts("copy:train", 60), load_texts("copy:valid", 20)
SHAPE = TextModelConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, dropout=0.2)


def make(encoder: bool = True, **shape) -> TextModel:
    tokenizer = train_tokenizer(TokenizerConfig(), [pair.source for pair in TRAIN])
    return create_text_model(SHAPE.model_copy(update=shape), tokenizer, encoder, seed=0)


def config_of(**changes) -> TextConfig:
    given = {"steps": 6, "batch": 8, "lr": 1e-2, "validate_every": 2, "checkpoint_every": 2}
    return parse_config(TextConfig, given | changes, "test")


# ---- what a step reads ----


def examples(*lengths: tuple[int, int]) -> list[Example]:
    return [Example([4] * source, [5] * target) for source, target in lengths]


def test_every_example_comes_once_per_epoch():
    found = [Example([i], [i]) for i in range(10)]
    forwards = Forwards(found, config_of(batch=5, micro_batch=2, steps=4), seed=0)
    assert forwards.epoch == 2
    assert (forwards.steps, [len(forwards.of_step(step)) for step in range(4)]) == (4, [3] * 4)
    for epoch in range(2):
        steps = [forwards.of_step(2 * epoch + i) for i in range(2)]
        assert all([len(indices) for indices in step] == [2, 2, 1] for step in steps)
        assert sorted(i for step in steps for indices in step for i in indices) == list(range(10))
    assert forwards.of_step(0) != forwards.of_step(2)
    again, other = (Forwards(found, config_of(batch=5, micro_batch=2), seed) for seed in (0, 1))
    assert again.of_step(3) == forwards.of_step(3) != other.of_step(3)


def test_a_forward_holds_at_most_batch_tokens_of_the_longer_side():
    found = examples((3, 9), (1, 2), (2, 2), (20, 1), (8, 8), (3, 1), (9, 3), (2, 3))
    forwards = Forwards(found, config_of(batch=None, batch_tokens=16), seed=0)
    read = []
    for step in range(int(forwards.epoch)):
        (indices,) = forwards.of_step(step)
        width = max(found[i].longest for i in indices)
        assert width * len(indices) <= 16 or len(indices) == 1
        read.append(indices)
    assert sorted(i for indices in read for i in indices) == list(range(len(found)))
    assert max(map(len, read)) > 1
    two = Forwards(found, config_of(batch=None, batch_tokens=16, accumulate=2), seed=0)
    assert two.of_step(1) == [*forwards.of_step(2), *forwards.of_step(3)]
    assert two.epoch == forwards.epoch / 2


def test_long_examples_are_dropped_and_counted(tmp_path):
    assert drop_long(examples((3, 9), (2, 2), (8, 8)), 8) == examples((2, 2), (8, 8))
    with pytest.raises(UserError, match="none of the 1 pairs has at most 2 tokens per side"):
        drop_long(examples((3, 1)), 2)
    lengths = [len(pair.source.split()) + 1 for pair in TRAIN]
    result = train_text(make(), config_of(steps=1, max_tokens=9), TRAIN, None, tmp_path)
    assert result["dropped"] == {"too long": sum(length > 9 for length in lengths)}
    assert 0 < result["dropped"]["too long"] == len(TRAIN) - result["examples"]


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [True, False])
def test_how_a_step_is_divided_into_forwards_does_not_matter(tmp_path, encoder):
    found = []
    for micro in (8, 3):
        config = config_of(steps=3, micro_batch=micro, label_smoothing=0.1)
        train_text(make(encoder, dropout=0), config, TRAIN, None, tmp_path / str(micro))
        found.append(read_jsonl(tmp_path / str(micro) / "metrics.jsonl"))
    for one, other in zip(*found, strict=True):
        assert one["tokens"] == other["tokens"]
        for name in ("loss", "grad_norm"):  # of later steps too: they follow from the gradients of the earlier ones
            assert one[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [True, False])
def test_the_loss_of_a_step_is_per_target_token_without_smoothing(tmp_path, encoder):
    lm = make(encoder, dropout=0)
    pairs = [Example(lm.encode(pair.source), lm.encode(pair.target)) for pair in TRAIN]
    expected = mean_loss(lm, pairs)
    train_text(lm, config_of(steps=1, batch=len(TRAIN), label_smoothing=0.3), TRAIN, None, tmp_path)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["loss"] == pytest.approx(expected, rel=1e-6)
    assert row["tokens"] == sum(len(pair.target) for pair in pairs)


# ---- averaging ----


def test_the_mean_of_checkpoints_by_hand(tmp_path):
    model = torch.nn.Linear(2, 1)
    for step, value in ((2, 1.0), (4, 2.0), (6, 6.0)):
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.constant_(model.bias, -value)
        torch.save(model.state_dict(), tmp_path / f"{step}.pt")
    load_average(model, [tmp_path / f"{step}.pt" for step in (2, 4, 6)])
    assert model.weight.tolist() == [[3.0, 3.0]]
    assert model.bias.tolist() == [-3.0]
    load_average(model, [tmp_path / "4.pt", tmp_path / "6.pt"])
    assert model.bias.tolist() == [-4.0]


@pytest.mark.parametrize(
    ("steps", "count", "every", "expected"),
    [(10, 1, 1, []), (10, 3, 2, [6, 8, 10]), (5, 4, 2, [1, 3, 5]), (7, 2, 7, [7])],
)
def test_which_checkpoints_are_averaged(steps, count, every, expected):
    assert averaged_steps(steps, count, every) == expected


@pytest.mark.slow
def test_a_run_ends_with_the_mean_of_its_last_steps(tmp_path):
    ends = []
    for steps in (2, 3):
        lm = make(dropout=0)
        train_text(lm, config_of(steps=steps), TRAIN, None, tmp_path / str(steps))
        ends.append(weights_of(lm.model))
    lm = make(dropout=0)
    train_text(lm, config_of(steps=3, average=2, average_every=1), TRAIN, None, tmp_path / "mean")
    for name, value in lm.model.state_dict().items():
        torch.testing.assert_close(value, sum(end[name] for end in ends) / 2, rtol=1e-5, atol=1e-7)


# ---- whole runs ----


@pytest.mark.slow
@pytest.mark.parametrize("encoder", sweep([True, False], [True]))
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch, encoder):
    """With dropout, averaging and validation, stopped right after a checkpoint and between two."""
    config = config_of(average=2, average_every=2, label_smoothing=0.1, block=None if encoder else 7)
    whole = make(encoder)
    expected = train_text(whole, config, TRAIN, VALID, tmp_path / "whole", seed=1)

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
                train_text(make(encoder), config, TRAIN, VALID, tmp_path / "stopped", seed=1)
        torch.rand(7)  # another process has other random numbers
    for _ in range(2):  # the second time there is nothing left to do
        again = make(encoder)
        found = train_text(again, config, TRAIN, VALID, tmp_path / "stopped", seed=1)
        assert same_bits(weights_of(again.model), weights_of(whole.model))
        rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "stopped")]
        assert rows[0] == rows[1]
        assert [row["step"] for row in rows[0] if "valid_loss" in row] == [2, 4, 6]
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def test_metrics_that_are_gone_are_one_sentence(tmp_path):
    train_text(make(), config_of(), TRAIN, None, tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl lacks 6 of the 6 steps"):
        train_text(make(), config_of(), TRAIN, None, tmp_path)


def test_a_checkpoint_of_the_librarys_trainer_is_refused(tmp_path):
    write_json(tmp_path / "checkpoint" / "checkpoint-2" / "trainer_state.json", {})
    with pytest.raises(UserError, match=r"cannot go on from .*checkpoint-2: an older version of polythink wrote it"):
        train_text(make(), config_of(), TRAIN, None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_killed_stage_resumes_to_the_same_bits(tmp_path, fresh):
    changes = ["model.hidden_size=16", "model.intermediate_size=32", "model.num_hidden_layers=1", "model.dropout=0.1"]
    changes += ["train.valid=null", "train.steps=20", "train.batch=8", "train.checkpoint_every=5", "train.average=2"]
    for side in ("source", "target"):
        (tmp_path / f"train.{side}").write_text("".join(f"{getattr(pair, side)}\n" for pair in TRAIN))
    changes.append(f"train.data={tmp_path}/train.{{source,target}}")
    plan = load_recipe("translation-reverse", changes).plan()[0]
    run_stage(plan, tmp_path / "whole", log=lambda text: None)
    killed(plan, tmp_path / "killed", 13, fresh)
    assert not (tmp_path / "killed" / "result.json").exists()
    run_stage(plan, tmp_path / "killed", resume=True, log=lambda text: None)
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    weights = [weights_of(load_text_model(tmp_path / name / "model").model) for name in ("whole", "killed")]
    assert same_bits(*weights)


@pytest.mark.slow
def test_the_loss_falls_and_is_that_of_the_model(tmp_path, capsys):
    lm = make(dropout=0)
    result = train_text(lm, config_of(steps=30, batch=30, lr=2e-2, max_grad_norm=0), TRAIN, VALID, tmp_path)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    pairs = [Example(lm.encode(pair.source), lm.encode(pair.target)) for pair in VALID]
    assert result["valid_loss"] == pytest.approx(mean_loss(lm, pairs), rel=1e-6)
    assert result["tokens"] == sum(row["tokens"] for row in rows)
    assert capsys.readouterr() == ("", "")


def test_autocast_ends_with_the_training(tmp_path):
    lm = make(dropout=0)
    train_text(lm, config_of(steps=1, autocast=True), TRAIN, None, tmp_path)
    save_text_model(lm, tmp_path / "model")
    batch = make_batch(lm, [Example(lm.encode("a b c"), lm.encode("c"))])
    fresh = load_text_model(tmp_path / "model")
    assert torch.equal(lm.model(**batch).logits, fresh.model(**batch).logits)


def test_epochs_are_converted_to_steps(tmp_path):
    result = train_text(make(), config_of(steps=None, epochs=1.5, batch=20), TRAIN, None, tmp_path)
    assert result["steps"] == 4  # 4.5 batches
    with pytest.raises(UserError, match="are less than one step"):
        train_text(make(), config_of(steps=None, epochs=0.1, batch=20), TRAIN, None, tmp_path / "none")


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(UserError, match=r"the gradient is not finite at lr 1e\+30"):
        train_text(make(), config_of(lr=1e30), TRAIN, None, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "give either steps or epochs"),
        ({"batch_tokens": 10}, "either batch .examples. or batch_tokens"),
        ({"batch": None}, "either batch .examples. or batch_tokens"),
        ({"label_smoothing": 1}, "label_smoothing must be less than 1"),
        ({"schedule": "inverse"}, "schedule must be"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config_of(**changes)
