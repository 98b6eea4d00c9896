"""Supervised fine-tuning: one loss however a batch is divided, and resuming as if never stopped."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.sweep import sweep
from helpers.training import PROMPT, gradients, make_lm, mixture, same_bits, sft_config, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.lm import load
from polythink.models.logprobs import token_logprobs
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.run.progress import Progress
from polythink.train.config import GRPOConfig
from polythink.train.cost import cost_of
from polythink.train.grpo import train_grpo
from polythink.train.sft import accumulate_gradient, count_scored, train_sft

# ---- one loss ----


def test_loss_and_gradient_do_not_depend_on_the_division(lm, mini):
    layouts = mixture(lm, sft_config(), mini).batch(0)
    found = []
    for changes in ({"micro_batch": 12}, {"micro_batch": 1}, {"micro_batch": 5}, {"pack": 150, "micro_batch": 2}):
        lm.model.zero_grad(set_to_none=True)
        found.append((*accumulate_gradient(lm, sft_config(**changes), layouts), gradients(lm.model).clone()))
    lm.model.zero_grad(set_to_none=True)
    found.append((*accumulate_gradient(lm, sft_config(), layouts[::-1]), gradients(lm.model).clone()))
    for loss, tokens, gradient in found[1:]:
        assert tokens == found[0][1]
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        assert torch.allclose(gradient, found[0][2], atol=1e-6)


def test_loss_by_hand(lm, mini):
    layouts = mixture(lm, sft_config(), mini).batch(0)
    total, count = 0.0, 0
    with torch.no_grad():
        for layout in layouts:
            logprobs = token_logprobs(lm.model, collate([layout]))[0].numpy()
            total -= logprobs[layout.sampled].sum()
            count += layout.sampled.sum()
    loss, tokens = accumulate_gradient(lm, sft_config(), layouts)
    assert tokens == count
    assert loss == pytest.approx(total / count, abs=1e-5)


def test_forced_tokens_count_only_where_the_response_is_asked_for(lm, mini):
    (layout,) = [x for x in mixture(lm, sft_config(), mini).batch(0) if "path" in x.kinds][:1]
    forced = int((~layout.sampled & (layout.segment > 0)).sum())
    assert forced == 3 + 2, "three path_prefixes of paths, the block's closing and the summary's opening"
    assert count_scored(layout, "response") - count_scored(layout, "sampled") == forced


def test_sequential_layouts_sample_every_tag(lm, mini):
    structured, sequential = (mixture(lm, sft_config(), mini, mode).batch(0) for mode in ("structured", "sequential"))
    for a, b in zip(structured, sequential, strict=True):
        assert (a.tokens == b.tokens).all(), "a mode is another layout of the same tokens"
        assert b.sampled.sum() == count_scored(a, "response")
        assert (b.position == np.arange(len(b))).all()


def test_the_bar_moves_within_a_step_and_says_what_it_costs(lm, mini):
    parts: list[float] = []
    bar = Progress(1, "")
    bar.part = parts.append
    accumulate_gradient(lm, sft_config(micro_batch=3), mixture(lm, sft_config(), mini).batch(0), bar)
    assert parts == [0.25, 0.5, 0.75]
    cost = cost_of(300, 2.0, lm.device)
    assert cost["tokens/s"] == 150
    assert re.fullmatch(r"\d+\.\d GiB", cost["memory"])


def test_loss_falls(lm, mini, tmp_path):
    config = sft_config(steps=40, batch=24, micro_batch=24, lr=1e-2, schedule="cosine", checkpoint_every=40)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2


# ---- rows given as they are ----


ROWS = [
    {"question": f"{a} {b} -> {a + b}", "trace": f"{a} + {b} = {a + b} ok \\boxed{{ + }}"}
    for a in (1, 2)
    for b in (3, 4)
]


def test_rows_and_files_of_rows_are_data(tmp_path):
    config = sft_config(batch=2, steps=2)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    found = []
    for data in (ROWS, tmp_path / "rows.jsonl", str(tmp_path / "rows.jsonl")):
        lm = make_lm()
        result = train_sft(lm, config, data, tmp_path / f"run{len(found)}", prompt=PROMPT, seed=3)
        assert (result["steps"], result["dropped"]) == (2, {})
        found.append(weights_of(lm.model))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    assert same_bits(found[0], load(tmp_path / "run0" / "model").model.state_dict())


def test_prompt_and_mode_are_those_of_the_model_unless_given(tmp_path):
    config = sft_config(batch=4, steps=1)
    lm = make_lm()
    lm.settings = replace(lm.settings, prompt=PROMPT.text, prompt_name=PROMPT.name, mode="sequential")
    as_set, as_given, other = (
        train_sft(lm, config, ROWS, tmp_path / "set")["loss"],
        train_sft(make_lm(), config, ROWS, tmp_path / "given", prompt=PROMPT, params=SamplingParams(mode="sequential"))[
            "loss"
        ],
        train_sft(make_lm(), config, ROWS, tmp_path / "other")["loss"],
    )
    assert as_set == as_given != other


# ---- going on ----


class Stopped(Exception):
    pass


def stop_after(monkeypatch, steps: int):
    """The optimiser fails after so many updates, as a killed process would."""
    from polythink.train import sft

    real, count = sft.update, [0]

    def update(*args):
        if count[0] == steps:
            raise Stopped
        count[0] += 1
        return real(*args)

    monkeypatch.setattr(sft, "update", update)


@pytest.mark.slow
@pytest.mark.parametrize("stop", sweep([1, 4], [4]))
def test_resumed_is_uninterrupted_bit_for_bit(mini, tmp_path, monkeypatch, stop):
    config = sft_config(schedule="cosine", warmup=0.2)
    whole, parts = make_lm(), make_lm()
    train_sft(whole, config, mixture(whole, config, mini), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Stopped):
            train_sft(parts, config, mixture(parts, config, mini), tmp_path / "parts")
    again = make_lm()
    train_sft(again, config, mixture(again, config, mini), tmp_path / "parts")
    assert same_bits(weights_of(whole.model), weights_of(again.model))
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_not_trained_further(mini, tmp_path):
    config = sft_config()
    lm, again = make_lm(), make_lm()
    first = train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    assert train_sft(again, config, mixture(again, config, mini), tmp_path) == first
    assert same_bits(weights_of(lm.model), weights_of(again.model))


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_broken_checkpoint_is_named(mini, tmp_path, name):
    config = sft_config(steps=2)
    train_sft(make_lm(), config, mixture(make_lm(), config, mini), tmp_path)
    (tmp_path / "checkpoint" / "step-000002" / name).write_bytes(b"not a checkpoint")
    lm = make_lm()
    with pytest.raises(UserError, match=r"cannot go on from .*step-000002: it is damaged; delete it"):
        train_sft(lm, config, mixture(lm, config, mini), tmp_path)


def test_a_checkpoint_of_an_older_version_is_named(lm, mini, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint\.pt: an older version .*delete it"):
        train_sft(lm, sft_config(), mixture(lm, sft_config(), mini), tmp_path)


def test_a_checkpoint_of_another_shape_is_named(mini, tmp_path):
    config = sft_config(steps=2)
    lm, other = make_lm(), make_lm(hidden_size=16)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    (tmp_path / "checkpoint" / "training.json").unlink()  # an earlier version wrote none
    with pytest.raises(UserError, match="cannot go on"):
        train_sft(other, config, mixture(other, config, mini), tmp_path)


def test_demonstrations_have_no_epochs(lm, mini, tmp_path):
    config = sft_config(steps=None, epochs=1)
    with pytest.raises(UserError, match="give steps instead"):
        train_sft(lm, config, mixture(lm, config, mini), tmp_path)


def test_autocast_trains(lm, mini, tmp_path):
    config = sft_config(autocast=True, steps=2)
    full = accumulate_gradient(lm, sft_config(), mixture(lm, config, mini).batch(0))[0]
    lm.model.zero_grad()
    half = accumulate_gradient(lm, config, mixture(lm, config, mini).batch(0))[0]
    assert half != full
    assert half == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "give either steps or epochs"),
        ({"learning_rate": 1}, "unknown key learning_rate"),
        ({"schedule": "cosin"}, "schedule must be 'constant', 'cosine', 'linear' or 'inverse_sqrt'"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        sft_config(**changes)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"question": "7 4 -> 11", "trace": "7"}, "data, row 1 is text; a row is a mapping with question and trace"),
        (["7 4 -> 11"], "data, row 1 is text; a row is a mapping"),
        ([3], "data, row 1 is a number; a row is a mapping"),
        (None, "data is null; give a file, rows with question and trace, or a Mixture"),
        (5, "data is a number; give"),
    ],
)
def test_data_that_holds_no_rows_is_one_sentence(lm, tmp_path, data, said):
    with pytest.raises(UserError, match=said):
        train_sft(lm, sft_config(), data, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("given", [None, 5])
def test_problems_that_are_none_are_one_sentence(lm, tmp_path, given):
    with pytest.raises(UserError, match="the problems are "):
        train_grpo(lm, GRPOConfig(reward="accuracy", steps=1), given, tmp_path)
