"""Models of every kind, divided over two processes, learn what one process learns: layers, tied weights, hooks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.ranks import together
from helpers.training import SHAPE, make_lm, mixture, sft_config, without_times
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, checkpoint_activations, load
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.jsonl import read_jsonl
from polythink.train.sft import train_sft
from polythink.train.sharding import blocks_of


def thinker(**more) -> LanguageModel:
    config = ModelConfig(**SHAPE, thought_embeddings=True, thought_init=0.1)
    return from_config(config, "parathinker:4", VOCABULARY, 0)


def checkpointed() -> LanguageModel:
    lm = make_lm()
    checkpoint_activations(lm.model)
    return lm


def checkpointed_thinker() -> LanguageModel:
    lm = thinker()
    checkpoint_activations(lm.model)
    return lm


# name -> (model, mode of the traces, keys of the stage)
KINDS = {
    "untied": (lambda: make_lm(tie_word_embeddings=False), "structured", {}),
    "packed": (make_lm, "structured", {"pack": 128}),
    "pieces": (make_lm, "structured", {"logits_memory_bytes": 4000}),
    "pieces-untied": (lambda: make_lm(tie_word_embeddings=False), "structured", {"logits_memory_bytes": 4000,
                      "float32_head": True}),
    "kept": (make_lm, "structured", {"reshard_after_forward": False}),
    "checkpointed": (checkpointed, "structured", {}),
    "thoughts": (thinker, "structured", {}),
    "thoughts-alone": (thinker, "structured", {"trainable": "thoughts"}),
    "thoughts-checkpointed": (checkpointed_thinker, "structured", {}),
    "eit": (lambda: make_lm(architecture="eit"), "structured", {}),
    "e_eit": (lambda: make_lm(architecture="e_eit"), "structured", {}),
    "partialformer": (lambda: make_lm(architecture="partialformer"), "structured", {}),
    "vanilla": (lambda: make_lm(architecture="vanilla"), "structured", {}),
    "gpt2": (lambda: make_lm(architecture="gpt2", options={"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}),
             "structured", {}),
    "lfm2": (lambda: make_lm(architecture="lfm2", options={"layer_types": ["conv", "full_attention"]}),
             "sequential", {}),
    "mamba2": (lambda: make_lm(architecture="mamba2", options={"num_heads": 4, "head_dim": 16, "state_size": 8,
               "n_groups": 1, "chunk_size": 8}), "sequential", {}),
}  # fmt: skip


def train(names: list[str], folder: Path) -> None:
    for name in names:
        make, mode, keys = KINDS[name]
        lm, config = make(), sft_config(**{"steps": 2, "batch": 5, "micro_batch": 2, **keys})
        train_sft(lm, config, mixture(lm, config, problems("mini", "train"), mode), folder / name)


# biases that move all scores alike, which a softmax cancels: their gradient is rounding, and AdamW makes steps of it
CANCELLED = ("expand.bias", "reduce.bias", "k_proj.bias", "c_attn.bias", "mix.bias")
FAST = ["untied", "pieces", "thoughts-checkpointed", "eit", "lfm2"]


@pytest.mark.parametrize("names", [FAST, pytest.param([n for n in KINDS if n not in FAST], marks=pytest.mark.long)])
def test_every_kind_of_model_learns_the_same(tmp_path, names):
    train(names, tmp_path / "one")
    ended = together(2, train, names, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    for name in names:
        rows = [without_times(read_jsonl(tmp_path / n / name / "metrics.jsonl")) for n in ("one", "two")]
        for ours, theirs in zip(*rows, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6), name
        one, two = (load(tmp_path / n / name / "model").model.state_dict() for n in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key.endswith(CANCELLED):
                continue
            torch.testing.assert_close(two[key], value, rtol=1e-5, atol=2e-5, msg=f"{name}: {key}")


def test_layers_are_gathered_one_at_a_time_unless_they_share_weights():
    for architecture in ("qwen3", "eit", "partialformer", "gpt2"):
        assert len(blocks_of(make_lm(architecture=architecture).model)) == 2
    model = make_lm().model
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    assert blocks_of(model) == []
