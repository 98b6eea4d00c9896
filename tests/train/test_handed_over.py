"""The policy on a server that is not ours: what it draws is the policy's, or the run stops before it learns from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.completions_server import CompletionsServer, completions_server
from helpers.training import PROMPT, forking_lm, make_lm
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import LanguageModel, load
from polythink.problems.tasks.countdown import problems
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

PARAMS = SamplingParams(
    mode="reread",
    paths=2,
    max_blocks=1,
    max_main_tokens=6,
    max_path_tokens=4,
    max_summary_tokens=3,
    max_trace_tokens=30,
)
CLOSE = 1e-4  # float32


class Weights:
    """A model on the stand-in for vLLM, which takes the weights of a folder; `keeps`: but for the output matrix."""

    def __init__(self, server: CompletionsServer, lm: LanguageModel, keeps: bool = False) -> None:
        self.lm, self.keeps, self.head = lm, keeps, lm.model.get_output_embeddings().weight.detach().clone()
        server.logits, server.takes, server.raw, server.cut = self.logits, self.take, False, True

    @torch.no_grad()
    def logits(self, text: list[int]) -> list[float]:
        state = self.lm.model.model(torch.tensor([text])).last_hidden_state[0, -1]
        head = self.head if self.keeps else self.lm.model.get_output_embeddings().weight
        return (head @ state).tolist()

    def take(self, folder: str) -> None:
        self.lm = load(folder)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lm = forking_lm()
    with completions_server(lm.model.config.vocab_size, lm.ends) as running:
        yield running


def by_letters(given: RewardInput) -> float:
    return float(sum(map(ord, given.text)) % 7)


def train(server: CompletionsServer, folder: Path, **changes) -> list[dict]:
    keys = {"url": server.base, "weights_folder": str(folder / "weights"), "concurrency": 4}
    plain = {"reward": {"function": by_letters}, "steps": 2, "prompts_per_step": 1, "group_size": 3, "lr": 1e-2}
    config = parse_config(GRPOConfig, {**plain, "rollouts": keys, **changes}, "test")
    train_grpo(forking_lm(), config, problems("mini", "train"), folder, prompt=PROMPT, params=PARAMS)
    return read_jsonl(folder / "metrics.jsonl")


def test_what_it_draws_is_of_the_weights_that_it_was_given(server, tmp_path):
    Weights(server, make_lm(9))
    rows = train(server, tmp_path)
    assert [(row["weight_version"], row["staleness"]) for row in rows] == [(0, 0), (1, 0)]
    assert all(row["logprob_gap"] < CLOSE for row in rows)
    assert server.weight_version == "1"


def test_a_server_that_keeps_a_part_of_its_weights_is_noticed(server, tmp_path):
    Weights(server, make_lm(9), keeps=True)
    with pytest.raises(UserError, match=r"vLLM says that it took the policy's weights, and .* nats a token"):
        train(server, tmp_path)
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_a_server_that_was_started_again_in_a_step_is_noticed(server, tmp_path):
    """It has its first weights again: nothing is learnt from what it drew."""
    Weights(server, make_lm(9))

    def act(number: int, body: dict) -> None:
        if server.weight_version == "1" and len(body["prompt"]) > 1 and number > 1:
            server.weight_version = "default"

    server.acts = act
    with pytest.raises(UserError, match=r"drew with weights of the version 'default', and was given version '1'"):
        train(server, tmp_path)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1]
