"""Tiny models with thought embeddings, and traces that use them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import silu

from helpers.device import DEVICE, collate, tensor
from helpers.tiny import family
from polythink.models.lm import LanguageModel, with_settings
from polythink.models.logprobs import masked_logits
from polythink.models.thoughts import attach, thoughts_of
from polythink.trace.layout import Layout, Piece, lay_out

INVENTORY = 9


def make(model_type: str, inventory: int | None = INVENTORY, filled: bool = True) -> LanguageModel:
    """A tiny model whose attention matters, with vectors as large as its keys."""
    lm = family(model_type, head_dim=8)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)  # ones would hide an addition before the norm's weight
            elif name.endswith("bias"):
                parameter.normal_()
    if inventory is not None:
        attach(lm.model, inventory)
        lm = with_settings(lm, thoughts=inventory)
        if filled:
            fill(lm)
    return lm


def fill(lm: LanguageModel, seed: int = 0) -> None:
    table = thoughts_of(lm.model).table
    with torch.no_grad():
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)))


def trace(labels=(7, 2, 4), trained: int = 0, seed: int = 0) -> Layout:
    """Prompt, a block of paths of different lengths, its summary, and main text."""
    rng = np.random.default_rng(seed)

    def piece(kind: str, n: int, block: int = -1, path: int = 0, label: int = 0) -> Piece:
        return Piece(kind, tuple(rng.integers(0, 9, n).tolist()), (kind != "prompt",) * n, block, path, label)

    paths = [piece("path", 3 + i % 3, 0, i, label) for i, label in enumerate(labels, 1)]
    pieces = [piece("prompt", 4), *paths, piece("summary", 3, 0), piece("main", 2)]
    return lay_out(pieces, "structured", trained_paths=trained)


@torch.no_grad()
def forward(lm: LanguageModel, layout: Layout) -> torch.Tensor:
    return masked_logits(lm.model, collate([layout]))[0]


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.isfinite().all()
    assert b.isfinite().all()
    return (a - b).abs().max().item()


@torch.no_grad()
def by_hand(lm: LanguageModel, layout: Layout, before_norm: bool = False) -> torch.Tensor:
    """Logits (T, V) from the weights, without any code of the model: eq. 4-7 of the paper, scaled scores."""
    model, size = lm.model, 8
    segment = tensor(layout.segment)
    label, scale = tensor(layout.labels)[segment], tensor(layout.scales)[segment]
    frequency = 10_000 ** -(torch.arange(0, size, 2, device=DEVICE) / size)
    angle = tensor(layout.position)[:, None] * frequency
    cos, sin = (torch.cat([f(angle), f(angle)], dim=1)[:, None] for f in (torch.cos, torch.sin))

    def norm(module, x):
        return module.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    x = model.model.embed_tokens.weight[torch.from_numpy(layout.tokens).to(DEVICE)]
    for number, layer in enumerate(model.model.layers):
        attention, h = layer.self_attn, norm(layer.input_layernorm, x)
        query, key, value = (
            (h @ p.weight.T + (0 if p.bias is None else p.bias)).view(len(h), -1, size)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        thoughts = thoughts_of(model)
        thought = 0 if thoughts is None else thoughts.table[number][label][:, None]
        key = key + thought if before_norm else key
        if hasattr(attention, "k_norm"):
            query, key = norm(attention.q_norm, query), norm(attention.k_norm, key)
        key, value = key if before_norm else key + thought, value + thought
        query, key = rotate(query), rotate(key)
        key, value = (y.repeat_interleave(query.shape[1] // y.shape[1], dim=1) for y in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) * size**-0.5 * scale[:, None]
        weights = scores.masked_fill(~torch.from_numpy(layout.may_attend()).to(DEVICE), -torch.inf).softmax(-1)
        x = x + torch.einsum("hqk,khd->qhd", weights, value).flatten(1) @ attention.o_proj.weight.T
        h, mlp = norm(layer.post_attention_layernorm, x), layer.mlp
        x = x + (silu(h @ mlp.gate_proj.weight.T) * (h @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    return norm(model.model.norm, x) @ model.lm_head.weight.T
