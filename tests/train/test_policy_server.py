"""Reinforcement learning on rollouts from a real server process: the same as with the engine in this process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.ranks import together
from helpers.served import PATIENCE, Served, program_of, served, start
from helpers.training import PROMPT, forking_lm, make_lm, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.lm import LanguageModel, save
from polythink.pipeline.recipe import load_recipe
from polythink.problems.tasks.countdown import problems
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train import grpo
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

PARAMS = SamplingParams(
    mode="reread", paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=5, max_summary_tokens=3,
    max_trace_tokens=40,
)  # fmt: skip
SERVED = ("weight_version", "staleness")  # what only rows of a server have
CLOSE = 1e-4  # float32: the engine forwards the same tokens in other batches


def by_letters(given: RewardInput) -> float:
    """A reward that differs within every group of these rollouts."""
    return float(sum(map(ord, given.text)) % 7)


def config_of(rollouts: dict | None = None, **changes) -> GRPOConfig:
    plain = {
        "reward": {"function": by_letters}, "steps": 3, "prompts_per_step": 2, "group_size": 3, "lr": 1e-3,
        "checkpoint_every": 2, "rollouts": rollouts,
    }  # fmt: skip
    return parse_config(GRPOConfig, {**plain, **changes}, "test")


def run(config: GRPOConfig, folder: Path) -> LanguageModel:
    lm = forking_lm()
    train_grpo(lm, config, problems("mini", "train"), folder, prompt=PROMPT, params=PARAMS)
    return lm


def rows_of(folder: Path, leave_out: tuple[str, ...] = ()) -> list[dict]:
    rows = without_times(read_jsonl(folder / "metrics.jsonl"))
    return [{name: value for name, value in row.items() if name not in leave_out} for row in rows]


def texts_of(folder: Path) -> list[tuple]:
    return [(row["step"], row["problem"], row["text"]) for row in read_jsonl(folder / "samples.jsonl")]


def assert_close(rows: list[dict], others: list[dict]) -> None:
    assert len(rows) == len(others)
    for one, other in zip(rows, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            number = isinstance(value, int | float)
            assert one[name] == (pytest.approx(value, rel=CLOSE, abs=CLOSE) if number else value), name


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def server(weights, tmp_path_factory):
    """It begins with other weights than the policy's."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    with served(lambda: make_lm(9), tmp_path_factory.mktemp("server"), weights_folder=str(weights)) as running:
        yield running


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Three steps with the engine in this process: the folder, and the model."""
    folder = tmp_path_factory.mktemp("here")
    return folder, run(config_of(), folder)


def keys_of(server: Served, weights: Path, **changes) -> dict:
    quick = {"retries": 1, "wait": 0.01}
    return {"url": f"{server.url}/v1", "weights_folder": str(weights), "concurrency": 8, "retry": quick, **changes}


def test_steps_over_http_are_those_of_this_process(server, weights, here, tmp_path):
    folder, lm = here
    found = run(config_of(keys_of(server, weights)), tmp_path)
    rows = rows_of(tmp_path)
    assert [(row["weight_version"], row["staleness"]) for row in rows] == [(0, 0), (1, 0), (2, 0)]
    assert_close(rows_of(tmp_path, SERVED), rows_of(folder))
    assert texts_of(tmp_path) == texts_of(folder)
    assert all(row["logprob_gap"] < CLOSE for row in rows)
    assert max(row["parallel_ratio"] for row in rows) > 0, "blocks are drawn too"
    start = weights_of(forking_lm().model)
    for name, value in weights_of(lm.model).items():
        torch.testing.assert_close(weights_of(found.model)[name], value, rtol=CLOSE, atol=CLOSE, msg=name)
    assert any(not torch.equal(start[name], value) for name, value in weights_of(lm.model).items())
    assert [path.name for path in weights.iterdir() if path.name != "lock"] == ["policy-2"], "older ones are removed"


@pytest.mark.long  # importing peft takes seconds
def test_pass_rates_are_measured_with_the_policys_weights(server, weights, tmp_path):
    changes = {"steps": 1, "pass_rate": {"samples": 2, "at_least": 0, "problems": 3}}
    run(config_of(**changes), tmp_path / "here")
    run(config_of(keys_of(server, weights), **changes), tmp_path / "there")
    rates = [read_jsonl(tmp_path / place / "pass_rates.jsonl") for place in ("here", "there")]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 3
    assert texts_of(tmp_path / "there") == texts_of(tmp_path / "here")
    assert [row["weight_version"] for row in rows_of(tmp_path / "there")] == [0]


def test_adapters_are_added_to_what_the_server_is_given(server, weights, tmp_path):
    changes = {"lora": {"r": 2}, "steps": 2, "lr": 1e-2}
    run(config_of(**changes), tmp_path / "here")
    run(config_of(keys_of(server, weights), **changes), tmp_path / "there")
    assert_close(rows_of(tmp_path / "there", SERVED), rows_of(tmp_path / "here"))


def test_one_step_off_policy(server, weights, tmp_path):
    """The second step's rollouts are of the first weights; after a checkpoint nothing is stale, so that a resumed run
    draws the same.
    """
    run(config_of(keys_of(server, weights, max_staleness=1)), tmp_path / "ahead")
    rows = rows_of(tmp_path / "ahead")
    assert [(row["weight_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (2, 0)]
    assert [row["logprob_gap"] > CLOSE for row in rows] == [False, True, False]
    run(config_of(steps=2, lr=1e-12), tmp_path / "still")
    assert texts_of(tmp_path / "ahead")[:4] == texts_of(tmp_path / "still")


@pytest.mark.long
def test_weights_are_handed_over_every_few_steps(server, weights, tmp_path):
    keys = keys_of(server, weights, reload_every=2, max_staleness=1)
    run(config_of(keys, steps=4, checkpoint_every=3), tmp_path)
    rows = rows_of(tmp_path)
    assert [(row["weight_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (2, 0), (3, 0)]


class Once:
    """Does something once, before a completion of the step with this number, counted from 0, is asked for."""

    def __init__(self, monkeypatch, step: int, act: Callable[[], object]) -> None:
        self.asked, real = 0, HttpRollouts.draw

        def draw(backend, ask, stopped):
            if ask.trace.state.seed == step:
                self.asked += 1
                if self.asked == 4:
                    act()
            return real(backend, ask, stopped)

        monkeypatch.setattr(HttpRollouts, "draw", draw)


def test_other_weights_in_a_step_are_noticed(server, weights, tmp_path, monkeypatch):
    save(make_lm(9), weights / "other")
    lm = forking_lm()

    def act() -> None:
        with HttpRollouts(config_of(keys_of(server, weights)).rollouts, lm) as another:
            another.reload(weights / "other", "other")

    Once(monkeypatch, 0, act)
    with pytest.raises(UserError, match=r"drew with weights of the version .*'other', and was given version '0'"):
        run(config_of(keys_of(server, weights)), tmp_path)
    assert rows_of(tmp_path) == []


def test_what_is_drawn_ahead_ends_with_the_run(server, weights, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    before = threading.active_count()
    monkeypatch.setattr(grpo, "update_policy", fails)
    with pytest.raises(ZeroDivisionError):
        run(config_of(keys_of(server, weights, max_staleness=1)), tmp_path)
    end = time.monotonic() + PATIENCE
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        ({"reload_every": 3}, {}, "rollouts up to 2 steps old.* set max_staleness to 2 or 3, not 0"),
        ({"max_staleness": 2}, {}, "set max_staleness to 0 or 1, not 2"),
        ({"logprobs": "none"}, {}, "training needs logprobs: exact"),
        ({"max_staleness": 1}, {"old_logprobs": "recomputed"}, "max_staleness: 1 .* set an importance_sampling_mode"),
        ({"weights_foldr": "w"}, {}, "did you mean 'weights_folder'"),
    ],
)
def test_keys_that_do_not_go_together(keys, changes, message):
    with pytest.raises(UserError, match=message):
        config_of({"url": "http://localhost:1/v1", "weights_folder": "w", **keys}, **changes)


def test_what_a_server_cannot_draw_is_refused_first(server, weights, tmp_path):
    lm, given = forking_lm(), SamplingParams(paths=2)
    with pytest.raises(UserError, match="mode=structured joins the paths' own keys and values"):
        train_grpo(lm, config_of(keys_of(server, weights)), problems("mini", "train"), tmp_path, params=given)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_recipe_is_the_same_wherever_its_server_is(tmp_path):
    stage = {"kind": "grpo", "problems": ["countdown-easy:train"], "reward": "accuracy", "steps": 2}
    (tmp_path / "recipe.yaml").write_text(
        f"name: small\nmode: reread\nprompt: countdown_parallel\nstages: {{rl: {json.dumps(stage)}}}\n"
    )

    def digest(*overrides: str) -> str:
        (plan,) = load_recipe(tmp_path / "recipe.yaml", overrides).plan()
        return plan.digest

    here = ["rl.rollouts.url=http://a:1/v1", "rl.rollouts.weights_folder=a"]
    there = ["rl.rollouts.url=http://b:1/v1", "rl.rollouts.weights_folder=b", "rl.rollouts.concurrency=3"]
    assert digest(*here) == digest(*there) != digest()
    assert digest(*here, "rl.rollouts.max_staleness=1") != digest(*here)
    with pytest.raises(UserError, match="rollouts: mode=structured joins the paths' own keys and values"):
        digest(*here, "mode=structured")


def run_http(folder: Path, keys: dict) -> None:
    os.environ["NO_PROXY"] = "127.0.0.1"
    run(config_of(keys), folder)


@pytest.mark.long
@pytest.mark.parametrize("max_staleness", [0, 1])
def test_of_two_processes_the_first_asks_for_both(server, weights, tmp_path, max_staleness):
    keys = keys_of(server, weights, max_staleness=max_staleness)
    run(config_of(keys), tmp_path / "one")
    ended = together(2, run_http, tmp_path / "two", keys)
    assert [end.status for end in ended] == [0, 0], ended
    assert_close(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"))
    assert texts_of(tmp_path / "two") == texts_of(tmp_path / "one")


# ---- a server that is killed: the last tests, which have other ones afterwards ----


def killed_and_resumed(server: Served, config: GRPOConfig, folder: Path, monkeypatch, step: int) -> None:
    """A run whose server is killed while it draws this step, started again, and resumed."""
    weights = config.rollouts.weights_folder
    with monkeypatch.context() as patch:
        Once(patch, step, lambda: server.stop(signal.SIGKILL))
        with pytest.raises(UserError, match=r"failed \(2 times\): connection: .*and then this run with --resume"):
            run(config, folder)
    assert len(rows_of(folder)) == step
    with served(lambda: make_lm(9), folder, port=server.port, weights_folder=weights):
        run(config, folder)


@pytest.mark.long
def test_a_server_that_is_killed_while_it_draws_ahead(server, weights, tmp_path, monkeypatch):
    run(config_of(keys_of(server, weights, max_staleness=1), steps=5), tmp_path / "whole")
    own = tmp_path / "weights"
    other = start(program_of(lambda: make_lm(9), weights_folder=str(own)), tmp_path)
    config = config_of(keys_of(other, own, max_staleness=1), steps=5)
    killed_and_resumed(other, config, tmp_path / "parts", monkeypatch, 3)
    assert_close(rows_of(tmp_path / "parts"), rows_of(tmp_path / "whole"))
    assert texts_of(tmp_path / "parts") == texts_of(tmp_path / "whole")


def test_a_server_that_is_killed_in_a_step(server, weights, here, tmp_path, monkeypatch):
    """One clear sentence; started again, and the run resumed: the rows of the run that nothing disturbed."""
    killed_and_resumed(server, config_of(keys_of(server, weights)), tmp_path, monkeypatch, 2)
    assert_close(rows_of(tmp_path, SERVED), rows_of(here[0]))
    assert texts_of(tmp_path) == texts_of(here[0])
