"""A tiny model of the synthetic task, and the pieces that the loops take."""

from __future__ import annotations

import torch

from polythink.models.load import LanguageModel, ModelConfig, create
from polythink.problems.countdown import VOCABULARY
from polythink.problems.prompts import Prompt

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16, intermediate_size=64)
PROMPT = Prompt("plain", "{problem} :")


def make_lm(seed: int = 0, **shape) -> LanguageModel:
    return create(ModelConfig(**{**SHAPE, **shape}), "parallel_r1", VOCABULARY, seed)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]
