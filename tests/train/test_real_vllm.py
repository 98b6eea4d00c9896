"""Rollouts and training through a real vLLM, where POLYTHINK_VLLM names the interpreter that has one.

What is measured here is what the stand-in of the other tests (`helpers.completions_server`) does.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch

from helpers.real_vllm import PATIENCE, RealVllm, real_vllm
from helpers.tiny import drawn, gaps
from helpers.training import PROMPT, make_lm, without_times
from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.probe import Abilities
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.lm import LanguageModel, load, save
from polythink.problems.tasks.countdown import problems
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * PATIENCE)]  # a server takes minutes to start
TOLERANCE = 1e-4  # of log-probabilities, float32
SHORT = dict(
    paths=3, fork_at=1, max_blocks=2, max_main_tokens=12, max_path_tokens=8, max_summary_tokens=6, max_trace_tokens=100
)
CASES = {
    "reread": dict(mode="reread", **SHORT),
    "warm": dict(mode="reread", temperature=0.7, path_temperature=1.3, **SHORT),
    "until the first": dict(mode="reread", join_when="first", temperature=0.7, **SHORT),
    "sequential": dict(mode="sequential", temperature=0.8, max_main_tokens=40),
}
LEARNS = SamplingParams(
    mode="reread", paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=5, max_summary_tokens=3,
    max_trace_tokens=40,
)  # fmt: skip


def policy(seed: int) -> LanguageModel:
    """A random model that opens blocks, of a shape that vLLM's attention for CPUs has.

    Its output matrix is its own: vLLM 0.32 on a CPU keeps the old one of a model whose embeddings are tied.
    """
    lm = make_lm(seed, head_dim=32, tie_word_embeddings=False)
    with torch.no_grad():
        head = lm.model.get_output_embeddings().weight
        head.mul_(4)
        head[lm.tag_ids["<Parallel>"]] *= 3
    return lm


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed in (3, 9):
        save(policy(seed), folder / str(seed))
    return folder


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with real_vllm(models / "3", tmp_path_factory.mktemp("log") / "log") as running:
            yield running


def wanted(lm: LanguageModel) -> list[Request]:
    ids = lm.encode("5 6 7 -> 8")
    return [Request(tuple(ids[: 1 + i % 4]), f"p{i}", i) for i in range(6)]


def test_every_log_probability_is_the_models(server, models):
    lm = load(models / "3")
    with HttpRollouts(RemoteConfig(url=server.base, concurrency=8), lm) as backend:
        assert (backend.served.server.owner, backend.served.model, backend.context) == ("vllm", "tiny", 512)
        assert backend.abilities == Abilities(stops=True, at_temperature=True, cut=True, greedy_at_one=True)
        for name, case in CASES.items():
            found = backend.generate(wanted(lm), SamplingParams(**case), seed=3)
            assert max(gaps(lm, found)) < TOLERANCE, name
            assert {"path", "summary"} <= {s.kind for r in found for s in r.segments} or case["mode"] == "sequential"
            again = backend.generate(wanted(lm), SamplingParams(**case), seed=3)
            assert list(map(drawn, again)) == list(map(drawn, found)), name
        with pytest.raises(UserError, match=r"top_p=0.9 .* cannot be trained on"):
            backend.check(SamplingParams(mode="reread", top_p=0.9))


def test_what_is_drawn_after_a_reload_is_of_the_new_weights(server, models):
    lms = {seed: load(models / seed) for seed in ("3", "9")}
    with HttpRollouts(RemoteConfig(url=server.base, concurrency=8), lms["3"]) as backend:
        for number, seed in enumerate(("9", "3", "9"), 1):
            assert backend.reload(models / seed) == str(number)
            found = backend.generate(wanted(lms["3"]), SamplingParams(**CASES["reread"]), seed=3)
            assert {rollout.weight_version for rollout in found} == {str(number)}
            assert max(gaps(lms[seed], found)) < TOLERANCE
            assert max(gaps(lms["3" if seed == "9" else "9"], found)) > 0.1
        assert httpx.get(f"{server.base}/../weight_info", trust_env=False).json() == {"weight_version": "3"}


def by_letters(given: RewardInput) -> float:
    return float(sum(map(ord, given.text)) % 7)


def train(server: RealVllm, models: Path, folder: Path, weights: Path, **changes) -> list[dict]:
    keys = {"url": server.base, "weights_folder": str(weights), "concurrency": 8}
    keys |= {"retry": {"retries": 1, "wait": 0.01}, **changes.pop("rollouts", {})}
    plain = {"reward": {"function": by_letters}, "steps": 4, "prompts_per_step": 2, "group_size": 4, "lr": 1e-3}
    config = parse_config(GRPOConfig, {**plain, "checkpoint_every": 2, "rollouts": keys, **changes}, "test")
    train_grpo(load(models / "3"), config, problems("mini", "train"), folder, prompt=PROMPT, params=LEARNS)
    return without_times(read_jsonl(folder / "metrics.jsonl"))


def versions(rows: list[dict]) -> list[tuple[int, int]]:
    return [(row["weight_version"], row["staleness"]) for row in rows]


@pytest.mark.parametrize("ahead", [False, True])
def test_reinforcement_learning(server, models, tmp_path, ahead):
    more = {"rollouts": {"max_staleness": 1}, "importance_sampling_mode": "token_truncate"} if ahead else {}
    more |= {"old_logprobs": "recomputed"} if ahead else {}
    rows = train(server, models, tmp_path / "run", tmp_path / "weights", **more)
    stale = [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert versions(rows) == (stale if ahead else [(0, 0), (1, 0), (2, 0), (3, 0)])
    for row in rows:
        assert (row["logprob_gap"] < TOLERANCE) == (not row["staleness"])
        assert row["mismatch_kl"] < (0.5 if row["staleness"] else 1e-6)
    assert max(row["parallel_ratio"] for row in rows) > 0, "blocks are drawn too"


def test_a_server_that_is_killed_in_a_step(server, models, tmp_path, monkeypatch):
    """The last test of this server: one clear sentence, then a new one, and no row lost or doubled."""
    whole = train(server, models, tmp_path / "whole", tmp_path / "weights")
    real, asked = HttpRollouts.draw, []

    def draw(backend, ask, stopped):
        asked.append(ask)
        if ask.trace.state.request.problem != "handed over" and ask.trace.state.seed == 2:
            server.kill()
        return real(backend, ask, stopped)

    with monkeypatch.context() as patch:
        patch.setattr(HttpRollouts, "draw", draw)
        with pytest.raises(UserError, match=r"failed \(2 times\): connection: .*and then this run with --resume"):
            train(server, models, tmp_path / "parts", tmp_path / "weights")
    assert [row["step"] for row in read_jsonl(tmp_path / "parts" / "metrics.jsonl")] == [1, 2]
    with real_vllm(models / "9", tmp_path / "log", server.port) as another:
        rows = train(another, models, tmp_path / "parts", tmp_path / "weights")
    assert versions(rows) == versions(whole)
    for one, other in zip(rows, whole, strict=True):
        for name, value in other.items():
            number = isinstance(value, int | float)
            assert one[name] == (pytest.approx(value, rel=1e-3, abs=1e-3) if number else value), name
    parts, texts = (read_jsonl(tmp_path / name / "samples.jsonl") for name in ("parts", "whole"))
    assert [(row["step"], row["text"]) for row in parts] == [(row["step"], row["text"]) for row in texts]
