"""Credit by path: the worked example, nested blocks, every layout, and one step that learns from it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.training import PROMPT, forking_lm, same_bits, weights_of
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.trace.rollout import Rollout, Segment
from polythink.train.config import GRPOConfig, PolicyConfig
from polythink.train.credit import (
    credit_segments,
    grade_paths,
    path_advantages,
    path_credit,
    path_texts,
    paths_that_hold,
)
from polythink.train.grpo import train_grpo
from polythink.train.grpo_step import to_item

RIGHT, WRONG = "<Path>\\boxed{7}</Path>", "<Path>\\boxed{8}</Path>"


def segment(kind: str, block: int = -1, path: int = 0, text: str = "x", tokens: int = 2) -> Segment:
    sampled = [kind != "copy"] * tokens
    return Segment(
        kind, block, path, list(range(tokens)), sampled, [-0.5] * tokens, text="" if kind == "copy" else text
    )


def rollout(*paths: str, mode: str = "structured") -> Rollout:
    drawn = [segment("path", 0, i, text, i + 1) for i, text in enumerate(paths, 1)]
    again = [segment("copy", 0, 0, tokens=sum(len(s.tokens) for s in drawn))] if mode == "reread" else []
    segments = [segment("main"), *drawn, *again, segment("summary", 0), segment("main", tokens=1)]
    return Rollout("p", 0, mode, (0,), segments)


NESTED = Rollout(
    "p", 0, "structured", (0,),
    [
        segment("main", text="a"), segment("path", 0, 1, "<Path>b"), segment("path", 1, 1, "<Path>c</Path>"),
        segment("path", 1, 2, "<Path>d</Path>"), segment("summary", 1, 0, "e"), segment("path", 0, 1, "f</Path>"),
        segment("path", 0, 2, "<Path>g</Path>"), segment("summary", 0, 0, "h"), segment("path", 2, 1, "<Path>i</Path>"),
        segment("summary", 2, 0, "j"), segment("main", text="k"),
    ],
)  # fmt: skip


def test_the_example_of_the_docstring():
    rollouts = [rollout(RIGHT, WRONG), rollout(WRONG, WRONG)]
    with Grader() as grader:
        right = grade_paths(rollouts, [Problem("p", "?", "7", "math")] * 2, grader)
    assert right == [{(0, 1): True, (0, 2): False}, {(0, 1): False, (0, 2): False}]
    trace = 2**-0.5
    found, alike = path_credit(rollouts, right, [True, True], torch.tensor([[trace, -trace]]), PolicyConfig())
    assert found[0] == pytest.approx([trace, 1.5, -0.5, trace, trace], rel=1e-4)
    assert found[1] == pytest.approx([-trace, -0.5, -0.5, -trace, -trace], rel=1e-4)
    assert alike.tolist() == [False]


def test_without_deviation_and_by_the_mean():
    right = [{(0, 1): True, (0, 2): False}, {(0, 1): False, (0, 2): False}]
    assert path_advantages(right, [True, True], False, 1.0)[0] == {(0, 1): 0.75, (0, 2): -0.25}
    assert path_advantages(right, [True, True], "mean", 1.0)[0] == pytest.approx({(0, 1): 3, (0, 2): -1}, rel=1e-4)
    assert path_advantages(right, [True, True], False, 0.2)[1] == pytest.approx({(0, 1): -0.05, (0, 2): -0.05})


def test_a_groups_paths_sum_to_zero_and_each_group_is_its_own():
    rng = random.Random(0)
    for _ in range(50):
        right = [{(b, p): rng.random() < 0.4 for b in range(2) for p in range(1, rng.randint(2, 4))} for _ in range(4)]
        graded = [rng.random() < 0.8 for _ in range(4)]
        found = path_advantages(right, graded, True, 1.0)
        assert sum(value for own in found for value in own.values()) == pytest.approx(0, abs=1e-5)
        assert all(value == 0 for own, fine in zip(found, graded, strict=True) if not fine for value in own.values())
    both = [{(0, 1): True, (0, 2): False}] * 2 + [{(0, 1): True, (0, 2): True}] * 2
    rollouts = [rollout(RIGHT, WRONG)] * 4
    found, alike = path_credit(rollouts, both, [True] * 4, torch.zeros(2, 2), PolicyConfig())
    assert alike.tolist() == [False, True]
    assert found[2] == [0.0] * 5


def test_alone_or_silent_paths_learn_nothing():
    assert path_advantages([{(0, 1): True}], [True], True, 1.0) == [{(0, 1): 0.0}]
    with Grader() as grader:
        assert grade_paths([rollout("<Path>hm</Path>")], [Problem("p", "?", "7", "math")], grader) == [{(0, 1): False}]


def test_a_token_belongs_to_its_innermost_path():
    assert paths_that_hold(NESTED) == [
        (), ((0, 1),), ((1, 1), (0, 1)), ((1, 2), (0, 1)), ((0, 1),), ((0, 1),), ((0, 2),), (), ((2, 1),), (), (),
    ]  # fmt: skip
    texts = path_texts(NESTED)
    assert texts[0, 1] == "<Path>b<Path>c</Path><Path>d</Path>ef</Path>"
    assert texts[1, 2] == "<Path>d</Path>"
    values = {(0, 1): 1.0, (1, 1): 2.0, (1, 2): 3.0, (0, 2): 4.0, (2, 1): 5.0}
    assert credit_segments(NESTED, 9.0, values) == [9, 1, 2, 3, 1, 1, 4, 9, 5, 9, 9]


@pytest.mark.parametrize("mode", ["structured", "reread"])
@pytest.mark.parametrize("train_mode", [None, "sequential"])
def test_advantages_lie_on_their_tokens_in_every_layout(mode, train_mode):
    drawn = rollout(RIGHT, WRONG, mode=mode)
    credit = [0.5 if s.kind != "path" else float(s.path) for s in drawn.segments]
    item = to_item(drawn, 0.5, train_mode, credit)
    own = item.along()[item.layout.sampled]
    assert own.tolist() == [0.5] * 2 + [1.0] * 2 + [2.0] * 3 + [0.5] * 3
    kinds = np.array(item.layout.kinds)[item.layout.segment]
    assert not item.layout.sampled[kinds == "copy"].any()
    assert (kinds == "copy").any() == (mode == "reread" and train_mode is None)
    assert to_item(drawn, 0.5, train_mode).along().tolist() == [0.5] * len(item.layout)


def config_of(**changes) -> GRPOConfig:
    plain = {"steps": 1, "prompts_per_step": 3, "group_size": 4, "lr": 1e-3, "micro_batch": 8}
    return parse_config(GRPOConfig, {**plain, "reward": "accuracy", **changes}, "test")


PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=20, max_path_tokens=9, max_summary_tokens=4, max_trace_tokens=80
)


def one_step(folder, mini, grader, params=PARAMS, **changes):
    lm = forking_lm()
    train_grpo(lm, config_of(**changes), mini, folder, prompt=PROMPT, params=params, grader=grader)
    (row,) = read_jsonl(folder / "metrics.jsonl")
    return weights_of(lm.model), row


def test_a_step_learns_from_its_paths_where_the_traces_are_all_wrong(mini, tmp_path):
    """A random model is never right, so the trace teaches nothing; paths that are said to be right do."""
    with Grader() as grader:
        before = weights_of(forking_lm().model)
        by_trace, row = one_step(tmp_path / "trace", mini, grader)
        assert same_bits(by_trace, before)
        assert row["zero_spread"] == 1
        assert "path_right" not in row
        grader.grade_path = lambda text, problem: len(text) % 2 == 0
        by_path, row = one_step(tmp_path / "path", mini, grader, credit="path")
        assert not same_bits(by_path, before)
        assert row["zero_spread"] < 1
        assert 0 < row["path_right"] < 1
        with pytest.raises(UserError, match="credit: path needs paths that the runtime opens, and mode: sequential"):
            one_step(tmp_path / "flat", mini, grader, PARAMS.model_copy(update={"mode": "sequential"}), credit="path")
