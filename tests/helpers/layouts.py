"""Traces of random tokens and a tiny model with sharp attention, for the tests of batches and log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from helpers.device import DEVICE, tensor
from polythink.trace.layout import Piece, lay_out

VOCABULARY = 50
TOLERANCE = 1e-4


def sharp_model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, intermediate_size=64, max_position_embeddings=512, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():  # sharp attention and logits: a wrong table must show
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(8)
    return model.to(DEVICE)


def draw(rng, n: int) -> list[int]:
    return rng.integers(0, VOCABULARY, n).tolist()


def piece(kind: str, tokens: list[int], block: int = -1, path: int = 0) -> Piece:
    return Piece(kind, tuple(tokens), (kind != "prompt",) * len(tokens), block, path)


def plain_logits(model, ids: list[int]) -> torch.Tensor:
    """(T, V): an ordinary causal language model reading ids from left to right."""
    with torch.no_grad():
        return model(input_ids=tensor([ids])).logits[0]


def block_of(
    rng, number: int, paths: int, length=lambda i: 3 + (i * 5) % 4
) -> tuple[list[list[int]], list[int], list[Piece]]:
    """Path token lists, summary tokens, and their pieces."""
    written = [draw(rng, length(i)) for i in range(paths)]
    summary = draw(rng, 4)
    pieces = [piece("path", tokens, number, i) for i, tokens in enumerate(written, 1)]
    return written, summary, [*pieces, piece("summary", summary, number)]


def some_layouts(count: int = 8):
    layouts = []
    for i in range(count):
        rng = np.random.default_rng(20 + i)
        block = block_of(rng, 0, 1 + i % 3)[2] if i % 4 else []
        pieces = [piece("prompt", draw(rng, 3 + i)), piece("main", draw(rng, 2 + i % 3)), *block]
        layouts.append(lay_out([*pieces, *([piece("main", draw(rng, 3))] if block else [])], "structured"))
    return layouts
