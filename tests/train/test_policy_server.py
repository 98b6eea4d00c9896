"""Reinforcement learning on rollouts from a real server process: the same as with the engine in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from helpers.served import Served, served
from helpers.training import PROMPT, forking_lm, make_lm, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.models.lm import LanguageModel
from polythink.problems.tasks.countdown import problems
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

PARAMS = SamplingParams(
    mode="reread", paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=5, max_summary_tokens=3,
    max_trace_tokens=40,
)  # fmt: skip
CLOSE = 1e-4  # float32: the engine forwards the same tokens in other batches


def by_length(given: RewardInput) -> float:
    """A reward that differs within every group of these rollouts."""
    return float(given.tokens % 5)


def config_of(rollouts: dict | None = None, **changes) -> GRPOConfig:
    plain = {
        "reward": {"function": by_length}, "steps": 3, "prompts_per_step": 2, "group_size": 3, "lr": 1e-3,
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
        assert one == pytest.approx(other, rel=CLOSE, abs=CLOSE)


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
    assert_close(rows_of(tmp_path, ("weight_version", "staleness")), rows_of(folder))
    assert texts_of(tmp_path) == texts_of(folder)
    assert all(row["logprob_gap"] < CLOSE for row in rows)
    assert max(row["parallel_ratio"] for row in rows) > 0, "blocks are drawn too"
    start = weights_of(forking_lm().model)
    for name, value in weights_of(lm.model).items():
        torch.testing.assert_close(weights_of(found.model)[name], value, rtol=CLOSE, atol=CLOSE, msg=name)
    assert any(not torch.equal(start[name], value) for name, value in weights_of(lm.model).items())
    assert [path.name for path in weights.iterdir() if path.name != "lock"] == ["policy-2"], "older ones are removed"
