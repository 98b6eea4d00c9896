"""A model with linear layers through the whole program: fine-tuning, reinforcement learning, evaluation, one answer."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.program import invoke
from polythink.cli.app import app
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.run.folder import read_json, write_text
from polythink.run.jsonl import read_jsonl

polythink = partial(invoke, app)
RECIPE = """
name: hybrid
mode: sequential
prompt: countdown_parallel
decoding:
  {paths: 2, max_blocks: 1, max_main_tokens: 12, max_path_tokens: 8, max_summary_tokens: 4, max_trace_tokens: 96}
model:
  architecture: qwen3_next
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  head_dim: 16
  intermediate_size: 48
  options:
    layer_types: [linear_attention, full_attention]
    linear_num_key_heads: 2
    linear_num_value_heads: 4
    linear_key_head_dim: 8
    linear_value_head_dim: 8
    num_experts: 4
    num_experts_per_tok: 2
    moe_intermediate_size: 16
    shared_expert_intermediate_size: 16
stages:
  sft:
    kind: sft
    data: [{problems: "countdown-mini:train", weight: 1, demonstrations: {style: parallel}}]
    steps: 1
    batch: 4
  rl:
    kind: grpo
    problems: ["countdown-mini:train"]
    reward: accuracy
    steps: 1
    prompts_per_step: 2
    group_size: 2
    drop_zero_spread: false
  final: {kind: eval, problems: ["countdown-mini:heldout"], limit: 2, samples: 2}
"""


@pytest.fixture
def recipe(tmp_path):
    write_text(tmp_path / "hybrid.yaml", RECIPE)
    return tmp_path / "hybrid.yaml"


@pytest.mark.parametrize("mode", ["reread", pytest.param("sequential", marks=pytest.mark.long)])
def test_a_recipe_on_a_hybrid_model(recipe, tmp_path, mode):
    run = tmp_path / "run"
    run_recipe(load_recipe(recipe, [f"mode={mode}"]), run, log=lambda line: None)
    assert all(read_json(run / name / "result.json") for name in ("sft", "rl", "final"))
    (step,) = read_jsonl(run / "rl" / "metrics.jsonl")
    assert 0 <= step["logprob_gap"] < 1e-4
    assert load(run / "rl" / "model").model.config.model_type == "qwen3_next"
    said = polythink("generate", run / "rl" / "model", "9 8 -> 17", "--json")
    assert said.exit_code == 0
    with pytest.raises(UserError, match="use mode: reread"):
        polythink("generate", run / "rl" / "model", "9 8 -> 17", "--mode", "structured")


def test_a_mode_that_joins_caches_is_refused_before_the_first_step(recipe, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="qwen3_next folds what it has read into a state"):
        run_recipe(load_recipe(recipe, ["mode=structured"]), run, log=lambda line: None)
    assert not list(run.rglob("metrics.jsonl"))
    with pytest.raises(UserError, match="qwen3_next folds what it has read into a state"):
        run_recipe(load_recipe(recipe, ["rl.train_mode=structured"]), tmp_path / "other", log=lambda line: None)
    assert not (tmp_path / "other" / "rl" / "metrics.jsonl").exists()
