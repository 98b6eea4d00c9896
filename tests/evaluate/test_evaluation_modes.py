"""Evaluation in every mode: what is graded is the text; what a join reads again is counted, and shown nowhere."""

from __future__ import annotations

import pytest

from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.evaluate.run import evaluate
from polythink.models.build import ModelConfig, from_config
from polythink.problems.problem import ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.jsonl import read_jsonl
from polythink.trace.modes import MODES

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
BUDGETS = dict(paths=3, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, fork_at=0)
EASY = ProblemSet("easy", problems("easy", "heldout", 3))


@pytest.fixture(scope="module")
def lm():
    return from_config(ModelConfig(**SHAPE), "parallel_r1", VOCABULARY, 0)


@pytest.mark.parametrize("name", MODES)
def test_an_evaluation_in_each_mode(lm, name: str, tmp_path) -> None:
    mode, budgets = MODES[name], BUDGETS | ({} if MODES[name].isolated else {"fork_at": None})
    params = SamplingParams(mode=name, max_trace_tokens=200, **budgets)
    result = evaluate(
        Engine(lm), EASY, params=params, samples=2, out=tmp_path, name="easy", log=lambda line: None, greedy=True
    )
    rows = read_jsonl(tmp_path / "samples-easy.jsonl")
    assert result["decoding"]["mode"] == name
    assert len(rows) == 6
    for row in rows:
        copies = [s for s in row["segments"] if s["kind"] == "copy"]
        assert bool(copies) == mode.rereads
        assert sum(s["tokens"] for s in copies) == row["read_again"]
        assert row["text"] == "".join(s["text"] for s in row["segments"])
        assert row["critical_path"] <= row["tokens"] - row["read_again"]
        assert any(s["kind"] == "path" for s in row["segments"]) or not mode.isolated
    tokens = sum(row["tokens"] for row in rows) / len(rows)
    assert result["metrics"]["tokens"]["value"] == pytest.approx(tokens)


def test_paths_are_the_same_in_all_modes_that_isolate_them(lm, tmp_path) -> None:
    """They share their random streams, and what is before a block's join does not depend on how it is joined."""
    found = []
    for name in (name for name, mode in MODES.items() if mode.isolated):
        params = SamplingParams(mode=name, max_trace_tokens=200, **BUDGETS)
        evaluate(Engine(lm), EASY, params=params, samples=2, out=tmp_path, name=name, log=lambda line: None)
        rows = read_jsonl(tmp_path / f"samples-{name}.jsonl")
        found.append([s["text"] for row in rows for s in row["segments"] if s["kind"] == "path"])
    assert len(found[0]) == 18
    assert all(paths == found[0] for paths in found)
