"""What others call our keys: the hint at an unknown key is our name for it, the nearest one, or the list."""

from __future__ import annotations

import pytest

from polythink.cli.topics import recipe_sections
from polythink.engine.params import SamplingParams
from polythink.errors import did_you_mean
from polythink.models.config import ModelConfig
from polythink.pipeline.plan import ColdstartConfig, EvalConfig, GRPOStage, SFTStage
from polythink.pipeline.recipe import Recipe
from polythink.pipeline.text import TextStageConfig
from polythink.run.other_names import OTHERWISE, TRAINING
from polythink.teachers.endpoint import EndpointConfig
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.lora_keys import LoraKeys

SERVED = {"max_output_tokens"}  # a field of /v1/responses, not of a recipe


def test_what_is_hinted_at_is_a_key():
    """Of a recipe; and a name that is ours already is none of others."""
    sections = [section for several in recipe_sections().values() for section in several]
    keys = {f"{section.place}.{key.name}" for section in sections for key in section.keys}
    for table in (TRAINING, OTHERWISE):
        for ours in (key for several in table.values() for one in several for key in one.split(" and ")):
            assert ours in SERVED or any(f".{key}".endswith(f".{ours}") for key in keys), ours
    for stage in (SFTStage, GRPOStage, TextStageConfig):
        assert not stage.model_fields.keys() & TRAINING.keys()


@pytest.mark.parametrize(
    ("place", "name", "said"),
    [
        (GRPOStage, "learning_rate", "'lr'?"),
        (GRPOStage, "beta", "'kl_coef'?"),
        (GRPOStage, "num_generations", "'group_size'?"),
        (GRPOStage, "n", "'group_size'?"),
        (GRPOStage, "save_steps", "'checkpoint_every'?"),
        (GRPOStage, "epsilon", "'clip_low' and 'clip_high'?"),
        (GRPOStage, "train_batch_size", "'prompts_per_step'?"),
        (GRPOStage, "lora_r", "'lora.r'?"),
        (GRPOStage, "max_completion_length", "'decoding.max_trace_tokens'?"),
        (GRPOStage, "temperature", "'decoding.temperature'?"),
        (GRPOConfig, "warmup_ratio", "'warmup'?"),
        (SFTStage, "gradient_checkpointing", "the recipe's 'model.gradient_checkpointing'?"),
        (SFTStage, "max_new_tokens", "'decoding.max_trace_tokens'?"),
        (SFTConfig, "max_steps", "'steps'?"),
        (SFTConfig, "max_length", "'max_tokens'?"),
        (SFTConfig, "gradient_accumulation_steps", "'batch' and 'micro_batch'?"),
        (TextStageConfig, "gradient_accumulation_steps", "'accumulate'?"),
        (EvalConfig, "n", "'samples'?"),
        (ColdstartConfig, "n", "'samples'?"),
        (SamplingParams, "max_tokens", "'max_trace_tokens'?"),
        (ModelConfig, "torch_dtype", "'dtype'?"),
        (LoraKeys, "lora_r", "'r'?"),
        (Recipe, "temperature", "'decoding.temperature'?"),
        (Recipe, "model_name_or_path", "'model.path'?"),
    ],
)
def test_another_name_of_a_key_leads_to_ours(place, name, said):
    assert place.hint(name) == f"; did you mean {said}"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (GRPOStage, "num_iterations"),  # passes over the same rollouts: not mini_batches
        (GRPOStage, "logging_steps"),
        (GRPOStage, "optim"),
        (GRPOConfig, "max_completion_length"),  # not loss_length; there is no decoding beside it
        (GRPOConfig, "temperature"),
        (SFTConfig, "gradient_checkpointing"),
        (SFTConfig, "max_new_tokens"),  # not max_tokens, which is of whole traces
        (EndpointConfig, "max_length"),  # not max_tokens, which is of the response alone
        (ColdstartConfig, "temperature"),  # the teacher has its own
        (SamplingParams, "stop"),
    ],
)
def test_what_has_no_counterpart_gets_the_list(place, name):
    assert place.hint(name) == f"; known: {', '.join(sorted(place.model_fields))}"


@pytest.mark.parametrize("typo", ["stf", "sfft", "sf", "ftt", "zzz"])
def test_a_slip_of_the_fingers_is_near_and_another_word_is_not(typo):
    near = typo in ("stf", "sfft", "sf")
    assert did_you_mean(typo, ["sft", "grpo"]) == ("; did you mean 'sft'?" if near else "; known: grpo, sft")
