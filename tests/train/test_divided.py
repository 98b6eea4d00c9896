"""Models of every kind, divided over two processes, learn what one process learns: layers, tied weights, hooks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.ranks import together
from helpers.training import SHAPE, checkpointed, make_lm, mixture, sft_config, without_times
from polythink.models import compiled
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, checkpoint_activations, load
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.jsonl import read_jsonl
from polythink.train.checkpoint import MOMENTS
from polythink.train.sft import train_sft
from polythink.train.sharding import blocks_of


def thinker(**more) -> LanguageModel:
    config = ModelConfig(**SHAPE, thought_embeddings=True, thought_init=0.1)
    return from_config(config, "parathinker:4", VOCABULARY, 0)


def thrifty(lm: LanguageModel) -> LanguageModel:
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
    "checkpointed": (lambda: thrifty(make_lm()), "structured", {}),
    "thoughts": (thinker, "structured", {}),
    "thoughts-alone": (thinker, "structured", {"trainable": "thoughts"}),
    "thoughts-checkpointed": (lambda: thrifty(thinker()), "structured", {}),
    "compiled": (make_lm, "structured", {"compile": True, "pack": 128}),
    "compiled-pieces": (lambda: thrifty(make_lm()), "structured", {"compile": True, "logits_memory_bytes": 4000}),
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
    compiled.BACKEND = "eager"  # traced only; in the processes too
    for name in names:
        make, mode, keys = KINDS[name]
        lm, config = make(), sft_config(**{"steps": 2, "batch": 5, "micro_batch": 2, **keys})
        train_sft(lm, config, mixture(lm, config, problems("mini", "train"), mode), folder / name)


# AdamW makes whole steps of gradients that are nothing but rounding, as those of biases are that move all scores alike,
# which a softmax cancels. So gradients are compared; and weights where their gradient is more than this part of all.
ROUNDING = 1e-4


@pytest.mark.long
@pytest.mark.parametrize("names", [list(KINDS)[:7], list(KINDS)[7:11], list(KINDS)[11:]])
def test_every_kind_of_model_learns_the_same(tmp_path, names):
    train(names, tmp_path / "one")
    ended = together(2, train, names, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    for name in names:
        one, two = (tmp_path / number / name for number in ("one", "two"))
        rows = [without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (one, two)]
        for ours, theirs in zip(*rows, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6), name
        assert_same(checkpointed(one / "checkpoint"), checkpointed(two / "checkpoint"), name)
        weights, found = (load(folder / "model").model.state_dict() for folder in (one, two))
        assert found.keys() == weights.keys(), name


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], name: str) -> None:
    """The tensors of two checkpoints: AdamW's means of gradients, to 1e-5 of the norm of all; and the weights."""
    assert two.keys() == one.keys(), name
    means, squares = ({key: value for key, value in one.items() if key.startswith(f"{moment}.")} for moment in MOMENTS)
    norm = torch.stack([value.norm() for value in means.values()]).norm().item()
    size = torch.stack([value.sum() for value in squares.values()]).sum().sqrt().item()
    compared = []
    for key in means:
        torch.testing.assert_close(
            two[key], one[key], rtol=0, atol=1e-5 * norm, msg=lambda m, k=key: f"{name} {k}: {m}"
        )
    for key in (key for key in one if key.startswith("model.")):
        square = one.get(key.replace("model.", "exp_avg_sq.", 1))
        clear = torch.ones_like(one[key], dtype=torch.bool)
        if square is not None:
            clear = (square == 0) | (square.sqrt() > ROUNDING * size)
            compared.append(clear.flatten())
        ours, theirs = one[key][clear], two[key][clear]
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=2e-5, msg=lambda m, k=key: f"{name} {k}: {m}")
    assert torch.cat(compared).float().mean() > 0.5, f"{name}: most weights are compared"


def test_layers_are_gathered_one_at_a_time_unless_they_share_weights():
    for architecture in ("qwen3", "eit", "partialformer", "gpt2"):
        assert len(blocks_of(make_lm(architecture=architecture).model)) == 2
    model = make_lm().model
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    assert blocks_of(model) == []
