"""What a run asks and is told: prompts that do not fit, grades that did not come, the streams of two stages."""

from __future__ import annotations

import logging
from statistics import fmean

import pytest

from helpers.training import SHAPE, make_lm, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.pipeline.recipe import Recipe
from polythink.pipeline.stage import run_stage
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import data, mixture
from polythink.train.config import GRPOConfig, check_sampling
from polythink.train.grpo import problems_of_step, train_grpo

BUDGETS = {
    "paths": 2, "max_blocks": 1, "max_main_tokens": 8, "max_path_tokens": 4, "max_summary_tokens": 4,
    "max_trace_tokens": 40,
}  # fmt: skip
BARE = Prompt("bare", "{problem}")
SMALL = {"reward": "accuracy", "prompts_per_step": 4, "group_size": 4, "lr": 1e-3, "drop_zero_spread": False}


def config_of(**changes) -> GRPOConfig:
    return parse_config(GRPOConfig, {**SMALL, "steps": 2, **changes}, "test")


def asked(*questions: str) -> list[Problem]:
    return [Problem(f"p{i}", question, "1", "countdown") for i, question in enumerate(questions)]


FITS = ["1 2 -> 3", "4 3 -> 7", "2 2 -> 4"]


# ---- prompts ----


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("1 " * 64, "64 tokens"),
        ("1 " * 300, "300 tokens"),
        ("1 2 -> hazelnut", "'hazelnut'"),
        ("", "at least one token"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_left_out_before_the_first_step(bad, reason, tmp_path, caplog):
    lm, given = make_lm(max_position_embeddings=64), asked(*FITS, bad)
    with caplog.at_level(logging.WARNING):
        found = train_grpo(lm, config_of(), given, tmp_path, prompt=BARE, params=SamplingParams(**BUDGETS))
    assert (found["steps"], found["skipped_prompts"]) == (2, 1)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "1 of 4 problems" in message
    assert "'p3'" in message
    assert reason in message
    assert {row["problem"] for row in read_jsonl(tmp_path / "samples.jsonl")} == {"p0", "p1", "p2"}


def test_refused_prompts_are_refused_before_anything_is_written(tmp_path):
    given, config = asked(*FITS, "1 " * 100, "1 " * 200), config_of(overlong_prompts="refuse")
    lm = make_lm(max_position_embeddings=64)
    with pytest.raises(UserError, match=r"2 of the 5 problems .* cannot be asked: 'p3': .* 100 tokens .*skip"):
        train_grpo(lm, config, given, tmp_path, prompt=BARE, params=SamplingParams(**BUDGETS))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overlong", ["skip", "refuse"])
def test_where_no_prompt_fits_nothing_is_trained(overlong, tmp_path):
    lm, config = make_lm(max_position_embeddings=64), config_of(overlong_prompts=overlong)
    with pytest.raises(UserError, match="none of the 2 problems of this stage can be asked: 'p0'"):
        train_grpo(lm, config, asked("1 " * 90, "1 kumquat"), tmp_path, prompt=BARE)
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_leaves_no_room_for_a_block_is_left_out(tmp_path):
    """It is shorter than the context; but the runtime of this dialect forks at its end."""
    from polythink.models.build import from_config
    from polythink.models.config import ModelConfig

    shape = ModelConfig(**SHAPE, max_position_embeddings=64)
    lm = from_config(shape, "parathinker", ("1", "2"))
    params = SamplingParams(**{**BUDGETS, "max_trace_tokens": 60})
    found = train_grpo(lm, config_of(steps=1), asked("1 2", "1 " * 60), tmp_path, prompt=BARE, params=params)
    assert found["skipped_prompts"] == 1


WINDOW = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}


def run_with_a_window(lm, folder, **changes):
    longer = {**BUDGETS, "max_main_tokens": 100, "max_trace_tokens": 100, **changes}
    return train_grpo(lm, config_of(), asked(*FITS, "1 " * 24), folder, prompt=BARE, params=SamplingParams(**longer))


def test_rollouts_go_beyond_a_sliding_window(tmp_path):
    """The engine and the training forward see the same positions: what is sampled is what is trained."""
    lm = make_lm(options=WINDOW)
    assert run_with_a_window(lm, tmp_path)["skipped_prompts"] == 0
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert max(row["critical_path"] for row in rows) > 24
    assert all(row["logprob_gap"] < 1e-4 for row in rows)


def test_rollouts_end_where_a_window_does_that_masks_do_not_have(tmp_path):
    """Training forwards are refused beyond it: a single long rollout would end the run at its step."""
    lm = make_lm(options=WINDOW)
    lm.model.config.attention_chunk_size = 24
    assert run_with_a_window(lm, tmp_path)["skipped_prompts"] == 1
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert all(row["critical_path"] <= 20 for row in rows), "prompts have four tokens"
    assert max(row["truncated"] for row in rows) > 0
    with pytest.raises(UserError, match="path_position_stride goes beyond it in training"):
        run_with_a_window(lm, tmp_path / "strided", path_position_stride="auto")


# ---- sampling parameters ----


@pytest.mark.parametrize("given", [{"top_p": 0.95}, {"top_k": 3}, {"temperature": 0}, {"path_temperature": 0}])
def test_parameters_that_cannot_be_trained_with_are_known_without_a_model(given):
    with pytest.raises(UserError, match="reinforcement learning"):
        check_sampling(SamplingParams(**given))
    check_sampling(SamplingParams())


# ---- grades that did not come ----


class Slow(Grader):
    """Runs out of time on the rollouts of these places in every step, and calls all others by turns right and wrong."""

    def __init__(self, late: set[int]) -> None:
        super().__init__()
        self.late = late

    def grade_many(self, answered):
        return [
            Grade("timeout" if i in self.late else "right" if i % 2 else "wrong", "1") for i in range(len(answered))
        ]


def rows_of(late: set[int], folder, **changes) -> list[dict]:
    reward = {"name": "half", "cases": [{"when": ["right"], "value": 1}], "otherwise": 0}
    with Slow(late) as grader:
        train_grpo(
            make_lm(), config_of(reward=reward, **changes), asked(*FITS, "1 3 -> 4"), folder,
            prompt=get_prompt("countdown_parallel"), params=SamplingParams(**BUDGETS), grader=grader,
        )  # fmt: skip
    return read_jsonl(folder / "metrics.jsonl")


def test_a_rollout_whose_grading_timed_out_has_no_reward(tmp_path):
    """Of 16 rollouts half are right. Of the third group one grade is left, which is nothing to compare."""
    late = {0, 2, 4, 8, 9, 10}
    row = rows_of(late, tmp_path, steps=1)[0]
    kept = [i % 2 for i in range(16) if i not in late]
    assert row["timeouts"] == 6
    assert row["reward"] == row["accuracy"] == row["reward/case"] == pytest.approx(fmean(kept))
    assert row["zero_spread"] == pytest.approx(1 / 3), "of the first group both that are left are right"


def test_a_step_in_which_all_gradings_timed_out_trains_nothing(tmp_path):
    rows = rows_of(set(range(16)), tmp_path)
    assert [row["timeouts"] for row in rows] == [16, 16]
    for name in ("reward", "accuracy", "zero_spread", "loss", "grad_norm", "logprob_gap"):
        assert rows[0][name] is None
    assert rows[0]["tokens"] > 0
    assert rows[0]["unsampled"] == 0
    assert {row["reward"] for row in read_jsonl(tmp_path / "samples.jsonl")} == {None}


# ---- two stages, one seed ----


def stage(kind: str, **changes) -> dict:
    if kind == "sft":
        source = {"problems": "countdown-mini:train", "weight": 1}
        return {"kind": "sft", "steps": 2, "batch": 8, "lr": 1e-9, "data": [source], **changes}
    plain = {"kind": "grpo", "problems": ["countdown-mini:train"], "steps": 2, "log_samples": 9, **SMALL, "lr": 1e-9}
    return {**plain, **changes}


def plans(**stages):
    given = {"name": "test", "prompt": "countdown_parallel", "decoding": BUDGETS, "model": SHAPE, "stages": stages}
    return parse_config(Recipe, given, "test").plan()


def quiet(*args) -> None:
    pass


def test_two_stages_of_one_seed_ask_other_problems_and_draw_other_answers(tmp_path):
    """The rates are tiny, so both stages have the same policy, and only their names tell them apart."""
    first, second = plans(one=stage("grpo"), two=stage("grpo"))
    run_stage(first, tmp_path / "one", log=quiet)
    run_stage(second, tmp_path / "two", tmp_path / "one", log=quiet)
    run_stage(first, tmp_path / "again", log=quiet)
    one, two, again = (read_jsonl(tmp_path / name / "samples.jsonl") for name in ("one", "two", "again"))
    assert [row["problem"] for row in one] != [row["problem"] for row in two]
    assert without_times(one) == without_times(again), "and each is the same whenever it runs"


def test_streams_of_two_stages_differ_on_one_problem(mini):
    """Asked the same problem in the same step, they must not draw the same answer."""
    from polythink.engine.engine import Engine
    from polythink.train.grpo import asked_of
    from polythink.train.own_engine import OwnEngine

    source, params, prompt = OwnEngine(Engine(make_lm())), SamplingParams(**BUDGETS), get_prompt("countdown_parallel")
    texts = []
    for name in ("one", "two", "one"):
        seed = data.stage_seed(0, name) * 1_000_003
        texts.append([r.text for r in source.draw(asked_of(source, mini[:2], 4, prompt, params, seed))])
    assert texts[0] == texts[2]
    assert not set(texts[0]) & set(texts[1])


def test_two_fine_tuning_stages_read_in_other_orders(tmp_path, monkeypatch):
    read: dict[str, list] = {}
    batch = mixture.Mixture.batch

    def recorded(self, step):
        layouts = batch(self, step)
        read.setdefault(current, []).extend(tuple(x.tokens.tolist()) for x in layouts)
        return layouts

    monkeypatch.setattr(mixture.Mixture, "batch", recorded)
    for plan in plans(one=stage("sft"), two=stage("sft")):
        current = plan.name
        run_stage(plan, tmp_path / plan.name, tmp_path / plan.previous if plan.previous else None, log=quiet)
    assert len(read["one"]) == len(read["two"]) == 16
    assert not set(read["one"]) & set(read["two"])


def test_seeds_of_stages_are_their_own():
    seeds = {(seed, name): data.stage_seed(seed, name) for seed in (0, 1, 11) for name in ("rl", "rl_1", "1/rl", "sft")}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= value < 2**32 for value in seeds.values())
    orders = [problems_of_step(range(100), 10, data.stage_seed(0, name), 0) for name in ("rl", "sft")]
    assert orders[0] != orders[1]
