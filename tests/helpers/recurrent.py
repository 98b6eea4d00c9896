"""Tiny random models with recurrent, linear or convolutional layers, and their decoding by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tiny import family
from polythink.engine.backends.recurrent import RecurrentBackend
from polythink.engine.step import StepBatch
from polythink.models.lm import LanguageModel
from polythink.trace.layout import Layout

_DELTA = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, head_dim=8,
    layer_types=["linear_attention", "full_attention"],
)  # fmt: skip
_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
_MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)
FAMILIES: dict[str, dict] = {
    "qwen3_next": _DELTA | _EXPERTS,
    "qwen3_5_text": _DELTA,
    "olmo_hybrid": _DELTA,
    "bamba": _MAMBA2 | {"attn_layer_indices": [1]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "mamba": {"state_size": 8},  # several tokens on top of a state come out wrong: token by token
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "rwkv": {"attention_hidden_size": 32, "context_length": 256},  # a batch comes out wrong: branch by branch
}
# the most used, one with a state alone, one with convolutions; the others are slow tests
EACH = [
    name if name in ("qwen3_next", "qwen3_5_text", "mamba2", "lfm2") else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
]


def hybrid(name: str) -> LanguageModel:
    """A tiny random model of one of `FAMILIES`."""
    return family(name, **FAMILIES[name])


def decoded(backend: RecurrentBackend, layout: Layout) -> torch.Tensor:
    """Logits (T, V) of all tokens of a layout without joins of caches, run as an engine does.

    Prompts and copies are read as a whole; the forced first tokens of paths and summaries run in the same step as what
    they follow; all else token by token, paths in lock step.
    """
    when = np.zeros(len(layout), int)
    for token, (segment, before) in enumerate(zip(layout.segment, layout.previous, strict=True)):
        kind, first = layout.kinds[segment], token == 0 or layout.segment[token - 1] != segment
        if kind == "copy":
            when[token] = max(when[i] for i in range(token) if layout.kinds[layout.segment[i]] != "copy")
        elif kind != "prompt":
            when[token] = when[before] + (not (first and kind in ("path", "summary")))
    logits: list[torch.Tensor | None] = [None] * len(layout)
    with backend.hold():
        for segment, follows in enumerate(layout.follows):
            backend.open(0, segment, follows)
        for moment in range(when.max() + 1):
            tokens = np.flatnonzero(when == moment)
            for token, row in zip(tokens, backend.logits(step_of(layout, tokens)), strict=True):
                logits[token] = row
        backend.clear()
    return torch.stack(logits)


def step_of(layout: Layout, tokens: np.ndarray) -> StepBatch:
    """A step of these tokens of the layout in row 0; the logits after each are wanted."""
    return StepBatch.every(layout.tokens[tokens], layout.segment[tokens], layout.position[tokens])
