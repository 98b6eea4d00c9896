"""Dynamic sampling: which groups a step trains on, what it counts, and that a resumed run draws the same."""

from __future__ import annotations

import pytest
import torch

from helpers.training import PROMPT, make_lm, same_bits, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.problems.answers import Grader
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo
from polythink.train.config import GRPOConfig
from polythink.train.dynamic_sampling import draw_step, draw_until_full
from polythink.train.grpo import train_grpo
from polythink.train.own_engine import OwnEngine

FLAGS = [[True, False, False], [False, True, True], [True, True, True]]


def draw(number: int) -> tuple[str, list[bool]]:
    return "abc"[number], FLAGS[number]


@pytest.mark.parametrize(
    ("wanted", "most", "batches", "kept"),
    [
        (1, 3, "a", [[True, False, False]]),
        (2, 3, "ab", [[True, False, False], [False, True, False]]),
        (3, 3, "ab", [[True, False, False], [False, True, True]]),
        (4, 3, "abc", [[True, False, False], [False, True, True], [True, False, False]]),
        (9, 3, "abc", FLAGS),
        (9, 1, "a", [[True, False, False]]),
    ],
)
def test_the_first_groups_with_spread_are_kept(wanted, most, batches, kept):
    assert draw_until_full(draw, wanted, most) == (list(batches), kept)


def config_of(**changes) -> GRPOConfig:
    plain = {"steps": 2, "prompts_per_step": 3, "group_size": 2, "lr": 1e-3, "micro_batch": 8, "checkpoint_every": 1}
    return parse_config(GRPOConfig, {**plain, "reward": odd, "max_num_gen_batches": 3, **changes}, "test")


def odd(given) -> float:
    """A reward that groups of two share half of the time."""
    return float(given.tokens % 2)


def test_one_batch_is_what_it_was():
    zero = torch.tensor([True, False])
    found = draw_step(lambda number: ("batch", [[1], [2]], zero), config_of(max_num_gen_batches=1))
    assert found == ("batch", [[1], [2]], zero, zero, {})


def run(lm, folder, mini, **changes) -> list[dict]:
    params = SamplingParams(max_blocks=0, max_main_tokens=12, max_trace_tokens=24, mode="sequential")
    with Grader() as grader:
        train_grpo(lm, config_of(**changes), mini, folder, prompt=PROMPT, params=params, grader=grader)
    return read_jsonl(folder / "metrics.jsonl")


def test_a_step_draws_on_and_a_resumed_run_draws_the_same(mini, tmp_path, monkeypatch):
    asked, trained, update = [], [], grpo.update_policy
    real = OwnEngine.draw
    monkeypatch.setattr(OwnEngine, "draw", lambda *args: asked.append(real(*args)) or asked[-1])

    def watch(lm, config, groups, left_out_P, *rest):
        trained.append([g for g, out in zip(groups, left_out_P.tolist(), strict=True) if not out])
        return update(lm, config, groups, left_out_P, *rest)

    monkeypatch.setattr(grpo, "update_policy", watch)
    whole = make_lm()
    rows = run(whole, tmp_path / "whole", mini)
    assert sum(row["gen_batches"] for row in rows) == len(asked) > 2, "some step must have drawn on"
    for row, groups in zip(rows, trained, strict=True):
        assert row["groups"] == len(groups) <= 3
        assert row["groups"] == 3 or row["gen_batches"] == 3
        assert all(len({item.advantage for item in group}) == 2 for group in groups), "every one of them has spread"
    drawn = [(r.problem, r.sample) for rollouts in asked[: rows[0]["gen_batches"]] for r in rollouts]
    assert len(set(drawn)) == len(drawn), "no sample of a step is drawn twice"
    assert rows[0]["tokens"] * 6 * rows[0]["gen_batches"] == pytest.approx(
        sum(r.tokens for rollouts in asked[: rows[0]["gen_batches"]] for r in rollouts)
    ), "what is reported is all that was drawn"

    run(make_lm(), tmp_path / "parts", mini, steps=1)
    parts = make_lm()
    again = run(parts, tmp_path / "parts", mini)
    assert without_times(again) == without_times(rows)
    assert same_bits(weights_of(parts.model), weights_of(whole.model))
