"""Rewards and terms of one's own: functions, their names, and one sentence for what is wrong with them."""

from __future__ import annotations

import math

import pytest

from polythink.errors import UserError
from polythink.pipeline.recipe import Recipe
from polythink.rewards.combine import RewardConfig, build_reward
from polythink.rewards.functions import source_of
from polythink.run.config import parse_config
from polythink.trace.rollout import Rollout, Segment

ROLLOUT = Rollout("p", 0, "structured", (0,), [Segment("main", -1, 0, [1, 2], [True] * 2, [-0.5] * 2, text="a b")])
MODULE = """
def short(given):
    return 1.0 - 0.1 * given.tokens


def worded(given):
    return "good"


SIZE = 3
"""


def count_tokens(given) -> int:
    return given.tokens


@pytest.fixture
def lengths(tmp_path, monkeypatch):
    """A module in the working folder, under a name that no other test uses."""
    name = f"lengths_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_is_a_whole_reward():
    reward = build_reward(count_tokens)
    assert reward(ROLLOUT, True, 1) == 2.0
    assert reward.terms(ROLLOUT, True, 1) == {"count_tokens": 2.0}
    assert reward.active(1) == "count_tokens"


def test_a_named_function_is_a_reward_a_phase_and_a_term(lengths):
    assert build_reward(f"{lengths}:short")(ROLLOUT, False, 1) == pytest.approx(0.8)
    cycle = {"cycle": [{"steps": 1, "reward": "accuracy"}, {"steps": 1, "reward": f"{lengths}:short"}]}
    assert [build_reward(cycle).active(step) for step in (1, 2)] == ["accuracy", "short"]
    add = [{"term": f"{lengths}:short", "weight": 2}, {"term": count_tokens, "weight": 1, "when": ["wrong"]}]
    reward = build_reward({"preset": "accuracy", "add": add})
    assert reward.terms(ROLLOUT, True, 1) == {"case": 1.0, "short": pytest.approx(1.6), "count_tokens": 0.0}


def test_a_named_function_survives_being_written(lengths):
    for data in (f"{lengths}:short", {"preset": "accuracy", "add": [{"term": f"{lengths}:short", "weight": 2}]}):
        config = parse_config(RewardConfig, data, "reward")
        assert parse_config(RewardConfig, config.model_dump(mode="json"), "reward") == config
        assert list(config.functions()) == [f"{lengths}:short"]


def test_a_stage_is_identified_by_the_source_of_its_reward(lengths, tmp_path):
    def identity() -> str:
        stage = {"kind": "grpo", "problems": ["countdown-mini:train"], "reward": f"{lengths}:short", "steps": 1}
        return parse_config(Recipe, {"name": "own", "stages": {"rl": stage}}, "own").plan()[0].digest

    first = identity()
    assert identity() == first
    assert source_of(f"{lengths}:short") == tmp_path / f"{lengths}.py"
    (tmp_path / f"{lengths}.py").write_text(MODULE + "# changed\n")
    assert identity() != first


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_at_all:short", "no module 'nowhere_at_all' for 'nowhere_at_all:short'"),
        ("LENGTHS:shrot", "has no function 'shrot'; did you mean 'short'"),
        ("LENGTHS:SIZE", "has no function 'SIZE'"),
        ("LENGTHS:", 'named "module:function"'),
    ],
)
def test_what_is_not_there_is_one_sentence(lengths, name, said):
    name = name.replace("LENGTHS", lengths)
    for data in (name, {"add": [{"term": name, "weight": 1}]}):
        with pytest.raises(UserError, match=said) as error:
            build_reward(data)
        assert "\n" not in str(error.value)


def test_a_module_that_cannot_be_imported_says_why(lengths, tmp_path):
    (tmp_path / f"{lengths}_bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UserError, match=r"cannot import .*_bad.*nothing_of_that_name"):
        build_reward(f"{lengths}_bad:short")


@pytest.mark.parametrize("value", ["good", None, math.nan, math.inf, [1, 2]])
def test_what_is_no_finite_number_is_one_sentence(value):
    with pytest.raises(UserError, match=r"the reward .* returned .*; it must return one finite number"):
        build_reward(lambda given: value)(ROLLOUT, True, 1)


def test_an_error_inside_the_function_is_the_users_own():
    def broken(given):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_reward(broken)(ROLLOUT, True, 1)
