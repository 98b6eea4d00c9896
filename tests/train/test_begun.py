"""A folder that holds another training is refused, and the model that was given stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.training import PROMPT, forking_lm, make_lm, same_bits, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.rewards.functions import code_of
from polythink.rewards.terms import RewardInput
from polythink.run.jsonl import read_jsonl
from polythink.train import sft
from polythink.train.begun import FILE
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

ROWS = [
    {"question": "9 8 5 -> 12", "trace": "9 + 8 = 17 - 5 = 12 ok \\boxed{ 9 + 8 - 5 }"},
    {"question": "7 4 -> 11", "trace": "7 + 4 = 11 ok \\boxed{ 7 + 4 }"},
]
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=6, max_path_tokens=4, max_summary_tokens=3, max_trace_tokens=30
)
GIVEN = {"steps": 2, "batch": 2, "lr": 1e-3, "checkpoint_every": 1}


def fine_tune(folder: Path, lm=None, rows=ROWS, seed=0, prompt=PROMPT, params=PARAMS, **changes):
    lm = lm or make_lm()
    train_sft(lm, SFTConfig(**{**GIVEN, **changes}), rows, folder, prompt=prompt, params=params, seed=seed)
    return lm


def by_letters(given: RewardInput) -> float:
    return float(sum(map(ord, given.text)) % 7)


def reinforce(folder: Path, mini, lm=None, reward=by_letters, **changes):
    lm = lm or forking_lm()
    given = {"steps": 4, "prompts_per_step": 2, "group_size": 3, "lr": 3e-3, "checkpoint_every": 1}
    train_grpo(lm, GRPOConfig(reward=reward, **{**given, **changes}), mini, folder, prompt=PROMPT, params=PARAMS)
    return lm


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 1e-1}, r"\(lr: 0.001 -> 0.1\)"),
        ({"rows": ROWS[:1]}, r"\(data: \w+ -> \w+\)"),
        ({"seed": 1}, r"seed: 0 -> 1"),
        ({"params": PARAMS.model_copy(update={"mode": "sequential"})}, r"decoding.mode: structured -> sequential"),
        ({"lora": {"r": 2}}, r"lora: None -> \{"),
        ({"steps": 3, "schedule": "cosine"}, r"schedule: constant -> cosine"),
    ],
)
def test_another_training_is_refused_and_its_model_stays(tmp_path, changes, said):
    fine_tune(tmp_path)
    lm = make_lm()
    before = weights_of(lm.model)
    with pytest.raises(UserError, match=rf"holds another training .*{said}.*give another folder, or delete this one"):
        fine_tune(tmp_path, lm, **changes)
    assert same_bits(before, weights_of(lm.model))


def test_grpo_in_the_folder_of_a_fine_tuning_is_refused(mini, tmp_path):
    lm = fine_tune(tmp_path, forking_lm())
    with pytest.raises(UserError, match=r"holds another training \(kind: sft -> grpo\)"):
        reinforce(tmp_path, mini, lm, steps=2)


def test_what_changes_length_and_memory_alone_is_the_same_training(tmp_path):
    fine_tune(tmp_path)
    fine_tune(tmp_path, steps=3, checkpoint_every=2, micro_batch=1, logits_memory_bytes=1 << 20)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_where_the_learning_rate_depends_on_all_steps_their_number_counts(tmp_path):
    fine_tune(tmp_path, schedule="linear")
    with pytest.raises(UserError, match=r"\(steps: 2 -> 3\)"):
        fine_tune(tmp_path, steps=3, schedule="linear")


def test_another_model_is_refused_and_stays(tmp_path):
    fine_tune(tmp_path)
    lm = make_lm(5)
    before = weights_of(lm.model)
    with pytest.raises(UserError, match="began with another model: the weights of this one differ"):
        fine_tune(tmp_path, lm)
    assert same_bits(before, weights_of(lm.model))


def test_the_model_that_was_trained_here_goes_on(tmp_path):
    """As when a cell of a notebook is run again: the checkpoint's weights are those that count."""
    lm = fine_tune(tmp_path)
    after = weights_of(lm.model)
    fine_tune(tmp_path, lm)
    assert same_bits(after, weights_of(lm.model))


def test_kl_is_not_measured_from_a_model_that_is_trained_already(mini, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reinforce(whole, mini, kl_coef=0.1)
    lm = reinforce(cut, mini, steps=2, kl_coef=0.1)
    with pytest.raises(UserError, match=r"compares with the model that it began with \(kl_coef\)"):
        reinforce(cut, mini, lm, kl_coef=0.1)
    reinforce(cut, mini, kl_coef=0.1)
    rows = [without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (whole, cut)]
    assert [row["kl"] for row in rows[1]] == pytest.approx([row["kl"] for row in rows[0]], abs=1e-6)


def test_a_folder_of_an_earlier_version_goes_on(tmp_path):
    fine_tune(tmp_path)
    (tmp_path / "checkpoint" / FILE).unlink()
    fine_tune(tmp_path, steps=3)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 3


def test_a_damaged_file_is_one_sentence(tmp_path):
    fine_tune(tmp_path)
    (tmp_path / "checkpoint" / FILE).write_text("[]")
    with pytest.raises(UserError, match=r"training.json is damaged: .* delete it to go on without it"):
        fine_tune(tmp_path)


def test_without_a_checkpoint_another_training_may_begin(tmp_path, monkeypatch):
    def fail(*args):
        raise UserError("the gradient is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(sft, "update", fail)
        with pytest.raises(UserError, match="not finite"):
            fine_tune(tmp_path)
    fine_tune(tmp_path, lr=1e-4)
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["lr"] == 1e-4


def test_rewards_of_one_name_are_told_apart_by_their_code(mini, tmp_path):
    reinforce(tmp_path, mini, steps=1)
    first = by_letters

    def other(given: RewardInput) -> float:
        return float(len(given.text))

    other.__name__, other.__module__ = first.__name__, first.__module__
    with pytest.raises(UserError, match=r"another training \(functions.*by_letters: \w+ -> \w+\)"):
        reinforce(tmp_path, mini, reward=other)


def test_code_is_read_where_its_source_is_and_is_one_functions_alone():
    alone = lambda x: 1.0  # noqa: E731
    again = lambda x: 1.0  # noqa: E731
    two = (lambda x: 1.0), (lambda x: 2.0)
    assert code_of(alone) == code_of(again) != code_of(by_letters)
    assert [code_of(function) for function in two] == [None, None]
    assert code_of("no_such_module:f") is None
    assert code_of(by_letters) == code_of(f"{__name__}:by_letters")
