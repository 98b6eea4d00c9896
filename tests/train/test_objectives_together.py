"""In two processes a step draws on, credits paths and trains adapters as in one: the same rows, samples and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.ranks import together
from helpers.training import PROMPT, forking_lm, without_times
from polythink.engine.params import SamplingParams
from polythink.models.lm import load
from polythink.problems.answers import Grader
from polythink.problems.tasks.countdown import problems
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=40
)
RUNS = {
    "dynamic": {"objective": "dapo", "max_num_gen_batches": 3},
    "path": {"objective": "gspo", "credit": "path", "entropy_coef": 0.01},
    "lora": {"objective": "dr_grpo", "lora": {"r": 2}, "kl_coef": 0.1, "lr": 1e-2},
}


class Odd(Grader):
    """Paths are right by their length."""

    def grade_path(self, text, problem) -> bool:
        return len(text) % 2 == 0


def some_alike(given) -> float:
    """Rewards that some groups of two share."""
    return float(sum(given.segments[0].tokens) % 2)


def run_all(folder: Path) -> None:
    for name, changes in RUNS.items():
        keys = {"steps": 2, "prompts_per_step": 3, "group_size": 2, "lr": 1e-3, "micro_batch": 2, **changes}
        config = parse_config(GRPOConfig, {"reward": {"function": some_alike}, **keys}, "test")
        with Odd() as grader:
            given = {"prompt": PROMPT, "params": PARAMS, "grader": grader}
            train_grpo(forking_lm(), config, problems("mini", "train"), folder / name, **given)


@pytest.mark.long
def test_two_processes_are_one(tmp_path):
    run_all(tmp_path / "one")
    for ended in together(2, run_all, tmp_path / "two"):
        assert (ended.status, ended.said) == (0, "")
    for name in RUNS:
        one, two = (tmp_path / number / name for number in ("one", "two"))
        rows, others = (without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (one, two))
        for row, other in zip(rows, others, strict=True):
            assert other.keys() == row.keys()
            for key, value in row.items():
                number = isinstance(value, int | float)
                assert other[key] == (pytest.approx(value, rel=1e-5, abs=1e-5) if number else value), (name, key)
        weights, found = (load(folder / "model").model.state_dict() for folder in (one, two))
        for key, value in weights.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")
    assert max(row["gen_batches"] for row in read_jsonl(tmp_path / "one" / "dynamic" / "metrics.jsonl")) > 1
