"""Two steps of a tiny run, as they were before objectives had names: without one, the numbers are still the same."""

from __future__ import annotations

import pytest

from helpers.training import PROMPT, forking_lm
from polythink.engine.params import SamplingParams
from polythink.problems.answers import Grader
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=16, max_path_tokens=8, max_summary_tokens=4, max_trace_tokens=60
)
LOSS, GRAD_NORM, CLIPPED = [-0.2460832, -0.0519762], [3.8213716, 2.1251729], [0.0, 0.0893617]


def length_by_three(given) -> float:
    return float(given.tokens % 3)


def test_a_step_without_an_objective_is_what_it_was(mini, tmp_path):
    keys = {"steps": 2, "prompts_per_step": 3, "group_size": 3, "lr": 3e-3, "micro_batch": 4, "mini_batches": 2}
    given = {"reward": length_by_three, "dual_clip": 3.0, "kl_coef": 0.1, **keys}
    with Grader() as grader:
        config = parse_config(GRPOConfig, given, "test")
        train_grpo(forking_lm(), config, mini, tmp_path, prompt=PROMPT, params=PARAMS, grader=grader, seed=4)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    for key, values in {"loss": LOSS, "grad_norm": GRAD_NORM, "clip_fraction": CLIPPED}.items():
        assert [row[key] for row in rows] == pytest.approx(values, rel=1e-3, abs=1e-6), key
