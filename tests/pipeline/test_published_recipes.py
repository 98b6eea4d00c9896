"""The recipes of published runs against one table of their values, and against what their headers say is ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from helpers.states import A, Fed
from polythink.engine.structured import StructuredState
from polythink.pipeline.recipe import load_recipe
from polythink.run.config import RECIPES

# recipe -> stage ("": the recipe itself) -> key -> value of the published scripts, or of the paper without a script
RL = {
    "lr": 1e-6, "schedule": "constant", "warmup": 0, "betas": (0.9, 0.999), "weight_decay": 0.01, "max_grad_norm": 1.0,
    "prompts_per_step": 256, "group_size": 8, "mini_batches": 2, "micro_batch": 2, "steps": 300, "clip_low": 0.2,
    "dual_clip": 3, "kl_coef": 0, "scale_rewards": True, "loss_type": "token-mean", "drop_zero_spread": False,
    "old_logprobs": "recomputed", "negative_scale": 1,
}  # fmt: skip
R1_SFT = {
    "batch": 128, "micro_batch": 1, "lr": 1e-5, "schedule": "cosine", "warmup": 0.1, "betas": (0.9, 0.95),
    "weight_decay": 0.01, "max_grad_norm": 1.0, "max_tokens": 4096, "loss_on": "response", "autocast": True,
}  # fmt: skip
R1_DECODING = {"paths": 2, "max_blocks": 4, "max_trace_tokens": 3000, "temperature": 1, "top_p": 1}
PARTIALFORMER = {
    "lr": 2e-3, "schedule": "inverse_sqrt", "warmup": 16_000, "betas": (0.9, 0.997), "weight_decay": 0,
    "max_grad_norm": 0, "label_smoothing": 0.1, "batch_tokens": 4096, "accumulate": 16, "epochs": 30, "average": 10,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "parallel-r1-seen-qwen3-4b": {
        "decoding": R1_DECODING,
        "sft": {**R1_SFT, "steps": 58},
        "rl_easy": {
            "prompts_per_step": 1024, "group_size": 5, "steps": 35, "lr": 1e-6, "betas": (0.9, 0.999),
            "weight_decay": 0.01, "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3, "kl_coef": 0,
        },
        "rl_hard": {**RL, "clip_high": 0.2},
        "eval": {"samples": 16, "problems": ("aime25", "aime24", "amc23")},
        "eval_math": {"samples": 1, "problems": ("math300",)},
    },
    "parallel-r1-unseen-qwen3-4b": {
        "decoding": R1_DECODING,
        "sft": {**R1_SFT, "steps": 230},
        "rl_hard": {**RL, "clip_high": 0.28},
        "eval": {"samples": 16},
        "eval_math": {"samples": 1},
    },
    "parathinker-deepseek-1.5b": {
        "decoding": {
            "paths": 8, "join_when": "first", "max_path_tokens": 16_384, "max_summary_tokens": 128, "temperature": 0.5,
            "top_p": 1, "length_scaling_above": 0, "labels": "ordered",
        },
        "model": {"thought_embeddings": True, "thought_init": 0.02, "gradient_checkpointing": True},
        "sft": {
            "epochs": 3, "batch": 64, "micro_batch": 1, "max_tokens": 28_672, "lr": 1e-5, "schedule": "constant",
            "warmup": 0, "betas": (0.9, 0.999), "weight_decay": 0.05, "no_decay": ("biases",), "max_grad_norm": 0.5,
        },
        "final": {"samples": 16, "problems": ("aime24", "aime25", "amc23")},
        "math": {"samples": 4, "problems": ("math500",)},
    },
    "translation-wmt14-ende-partialformer": {
        "": {"seed": 1},
        "model": {
            "hidden_size": 360, "num_hidden_layers": 6, "num_source_layers": 24, "num_attention_heads": 8,
            "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
        },
        "train": PARTIALFORMER,
        "test": {"beams": 4, "length_penalty": 0.6, "max_new_tokens": 200, "min_new_tokens": 0},
    },
    "translation-wmt14-enfr-partialformer": {
        "train": {**PARTIALFORMER, "accumulate": 64, "epochs": 20, "average": 5},
        "test": {"beams": 4, "length_penalty": 0.8},
    },
    "translation-wmt16-enro-partialformer": {
        "train": {**PARTIALFORMER, "accumulate": 8, "epochs": 20, "average": 5},
        "test": {"beams": 5, "length_penalty": 1.3},
    },
    "lm-wikitext103-partialformer": {
        "": {"seed": 1},
        "model": {
            "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "dropout": 0.3,
            "attention_dropout": 0.1, "activation_dropout": 0.1,
        },
        "train": {
            "block": 2048, "batch": 8 * 4, "micro_batch": 1, "steps": 286_000, "schedule": "cosine", "warmup": 16_000,
            "weight_decay": 0, "max_grad_norm": 0.1,
        },
    },
    "summarisation-cnndm-partialformer": {
        "test": {
            "beams": 4, "length_penalty": 2.0, "min_new_tokens": 55, "max_new_tokens": 140, "no_repeat_ngram_size": 3,
            "max_source_tokens": 500,
        },
    },
}  # fmt: skip
OPTIONS = {
    "translation-wmt14-ende-partialformer": {
        "logit_heads": 8, "source_expanded_heads": 30, "expanded_heads": 16, "source_ffn_ratio": 4, "ffn_ratio": 2,
        "head_mlp": True, "residual_attention": True,
    },
    "lm-wikitext103-partialformer": {
        "logit_heads": 8, "expanded_heads": 16, "ffn_ratio": 4, "head_mlp": True, "residual_attention": True,
        "add_dropout": True, "hidden_dropout": 0.1,
    },
}  # fmt: skip

# What is ours: recipe -> stage -> key -> our value. A published recipe says of each in its header or beside the key.
ROWS = {"pack": "auto", "attention": "auto", "compile": "auto"}  # on a GPU; on a CPU nothing of it is done
OURS = {
    "parallel-r1-seen-qwen3-4b": {
        "coldstart": {"rule": "reference", "right_only": True, "samples": 1},
        "sft": ROWS,
        "rl_easy": ROWS,
        "rl_hard": ROWS,
        "": {"mode": "sequential", "prompt": "parallel"},
    },
    "parallel-r1-seen-qwen3-0.6b": {"sft": ROWS, "rl_easy": ROWS, "rl_hard": ROWS},
    "parallel-r1-unseen-qwen3-4b": {
        "coldstart": {"rule": "stack", "right_only": True},
        "": {"mode": "structured"},
        "sft": ROWS,
        "rl_hard": ROWS,
    },
    "parathinker-deepseek-1.5b": {
        "teach": {"limit": 6200, "samples": 6, "right_only": False},
        "sft": {"pack": "auto", "attention": "auto"},
    },
    "lm-wikitext103-partialformer": {"train": {"lr": 5e-4, "betas": (0.9, 0.98)}, "test": {"block": 2048}},
}


def part(recipe: Any, name: str) -> Any:
    """The recipe, its `decoding` or `model`, or one of its stages."""
    if name == "decoding":
        return recipe.plan()[-1].decoding
    return recipe if not name else getattr(recipe, name) if hasattr(recipe, name) else recipe.stages[name]


@pytest.mark.parametrize("table", [PUBLISHED, OURS], ids=["published", "ours"])
def test_the_recipes_hold_the_values_of_the_table(table):
    for name, parts in table.items():
        recipe = load_recipe(name)
        for where, values in parts.items():
            found = {key: getattr(part(recipe, where), key) for key in values}
            assert found == values, (name, where)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_shapes_of_partialformer_are_the_scripts(name):
    assert load_recipe(name).model.options == OPTIONS[name]


def test_the_alternating_reward_and_the_published_rule():
    reward = load_recipe("parallel-r1-unseen-qwen3-4b").stages["rl_hard"].reward
    assert [(phase.steps, phase.reward.name) for phase in reward.cycle] == [(8, "accuracy"), (2, "tiered")]
    assert reward.rule == "reference"
    seen = load_recipe("parallel-r1-seen-qwen3-4b").stages
    assert [seen[name].reward.name for name in ("rl_easy", "rl_hard")] == ["gsm8k_parallel", "accuracy"]


@pytest.mark.parametrize(("before", "each"), [(0, 997), (1000, 664), (2000, 330)])
def test_the_path_budgets_that_the_recipe_for_unseen_names(before, each):
    """Two paths that never stop, after so many tokens of main text, in a response of 3,000."""
    params = load_recipe("parallel-r1-unseen-qwen3-4b").plan()[-1].decoding
    it = Fed(StructuredState, context=10_000, **params.model_dump(exclude={"mode"}))
    it.feed(*[A] * before, "<Parallel>")
    while len(it.inputs.wanted) == 2:
        it.feed((A, A))
    paths = [record for record in it.state.records if record.kind == "path"]
    assert [sum(path.sampled) for path in paths] == [each, each]
    said = header("parallel-r1-unseen-qwen3-4b")
    assert str(each) in said
    assert "a path may take all that is left of 5,000 tokens" in said


# ---- what the headers say ----


def header(name: str) -> str:
    """The comment that a recipe begins with, as running text."""
    text = (RECIPES / f"{name}.yaml").read_text()
    lines = text[: text.index("\n\n")].splitlines()
    return " ".join(" ".join(line.lstrip("#").split()) for line in lines)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("parallel-r1-seen-qwen3-4b", "cold start There all 7,473 traces, whatever their form"),
        ("parallel-r1-seen-qwen3-4b", "SFT loss There the mean over each trace"),
        ("parallel-r1-seen-qwen3-4b", "rows There every trace is a row of its own, padded to 4,096 tokens"),
        ("parallel-r1-seen-qwen3-4b", "RL loss There the mean over tokens of a micro-batch of two"),
        ("parallel-r1-seen-qwen3-4b", "grading The answer after the last join"),
        ("parallel-r1-unseen-qwen3-4b", "end of a path An end token that a path draws is replaced by </Path> there"),
        ("parallel-r1-unseen-qwen3-4b", "first tokens <Path> of every path is predicted from the fork"),
        ("parathinker-deepseek-1.5b", "the release joins it open"),
        ("parathinker-deepseek-1.5b", "There `</think>` ends a path too, and the end token is ignored"),
        ("parathinker-deepseek-1.5b", "up to six paths there, and always six here"),
        ("lm-wikitext103-partialformer", "AdamW; there Nesterov's gradient"),
        ("translation-wmt14-ende-partialformer", "warm-up from 1.25e-7"),
        ("translation-wmt14-ende-partialformer", "positions counted from 0; there from 2"),
    ],
)
def test_a_difference_is_named_in_the_header(name, said):
    assert said in header(name)


def test_no_recipe_claims_more_than_it_runs():
    seen = (RECIPES / "parallel-r1-seen-qwen3-4b.yaml").read_text()
    assert re.search(r"17,228 questions; 17,917 rows there", seen)
    assert len(re.findall(r"^ +(?:temperature|max_tokens): \S+ +# ours$", seen, re.MULTILINE)) == 2  # of the teacher
    para = (RECIPES / "parathinker-deepseek-1.5b.yaml").read_text()
    assert "# 4 samples of MATH-500 averaged\n    kind: eval\n    problems: [math500]" in para
