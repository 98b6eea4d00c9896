"""A stack of pre-norm layers, encoder or decoder: embeddings in, hidden states out. Everything the two backbones share.

x <- x + dropout(attention(LN(x)))    for self-attention, then attention to the encoder, then the feed-forward layer

Axis legend: B rows, T tokens, S keys, d model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from polythink.models.architectures import initial
from polythink.models.architectures.attention import Attention, own_cache
from polythink.models.architectures.calls import CACHE_NAME, CACHE_NAMES
from polythink.models.architectures.config import BackboneConfig


class FeedForward(nn.Module):
    """relu(x W_1 + b_1) W_2 + b_2, d -> intermediate_size -> d."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.reduce = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduce(self.dropout(self.expand(x).relu()))


@dataclass(frozen=True)
class Parts:
    """What an architecture puts on the backbones: everything in which it differs from the others."""

    attention: Callable[[BackboneConfig, str, int], Attention]  # of a role, in a layer
    feed_forward: Callable[[BackboneConfig], nn.Module] | None = FeedForward
    # computed once per stack from (input, cache) and given to every layer
    shared: Callable[[BackboneConfig, str], nn.Module | None] | None = None


class Layer(GradientCheckpointingLayer):
    """Self-attention, cross-attention (a decoder with an encoder), feed-forward: each after a norm, with a residual."""

    def __init__(self, config: BackboneConfig, parts: Parts, role: str, index: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(config.hidden_size)
        self.self_attention = parts.attention(config, role, index)
        self.cross_attention = self.feed_forward = None
        if role == "target" and config.is_encoder_decoder:
            self.cross_norm = nn.LayerNorm(config.hidden_size)
            self.cross_attention = parts.attention(config, "cross", index)
        if parts.feed_forward is not None:
            self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
            self.feed_forward = parts.feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None,
        *shared: torch.Tensor,
        mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """x (B, T, d) -> x, and the weights of self- and cross-attention if they are asked for."""
        how = {"cache": cache, "output_attentions": output_attentions}
        cross_weights = None
        out, weights = self.self_attention(self.self_norm(x), None, *shared, mask=mask, **how)
        x = x + self.dropout(out)
        if self.cross_attention is not None:
            out, cross_weights = self.cross_attention(self.cross_norm(x), memory, mask=memory_mask, **how)
            x = x + self.dropout(out)
        if self.feed_forward is not None:
            x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x, weights, cross_weights


class Stack(nn.Module):
    """The layers of one side. Word embeddings come in; positions are added here."""

    def __init__(self, config: BackboneConfig, parts: Parts, role: str) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.shared = parts.shared(config, role) if parts.shared else None
        self.layers = nn.ModuleList(Layer(config, parts, role, i) for i in range(config.layers_of(role)))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """embeddings (B, T, d), positions (B or 1, T), masks (B or 1, 1, T or 1, S) bool or None for no restriction.

        Hidden states are the input of every layer, and the output; attentions are (B, H, T, S) per layer.
        """
        scale = math.sqrt(self.config.hidden_size)
        x = self.dropout(scale * embeddings + sinusoids(positions, self.config.hidden_size).to(embeddings.dtype))
        shared = () if self.shared is None else self.shared(x, cache)
        with_states = bool(output_hidden_states or self.config.output_hidden_states)
        with_weights = bool(output_attentions or self.config.output_attentions)
        how = {"mask": mask, "memory_mask": memory_mask, "cache": cache}
        states, weights, cross = (), (), ()
        for layer in self.layers:
            states += (x,) if with_states else ()  # not kept alive unless they are asked for
            x, own, to_memory = layer(x, memory, *shared, **how, output_attentions=with_weights)
            weights, cross = (*weights, own), (*cross, to_memory)
        x = self.norm(x)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x,
            **{CACHE_NAME: cache},
            hidden_states=(*states, x) if with_states else None,
            attentions=weights if with_weights else None,
            cross_attentions=cross if with_weights and memory is not None else None,
        )


class BackboneModel(PreTrainedModel):
    """Base of all models here: what transformers needs to know about them, and their initialisation."""

    config_class = BackboneConfig
    parts: Parts
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # a trainer asks: the forwards take `num_items_in_batch`
    _no_split_modules = ("Layer",)
    _skip_keys_device_placement = CACHE_NAMES
    _supports_sdpa = True  # masks are bool; architectures that SDPA cannot compute use their own kernel under that name
    _supports_attention_backend = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers would guess it from the source of the class's file

    def _init_weights(self, module: nn.Module) -> None:
        initial.initialise(module)

    def _past(self, use_cache: bool | None, past: Cache | None, new: Callable[[], Cache]) -> Cache | None:
        """The cache of this call, made by `new` where none was given, with room for all that the stack keeps."""
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        layer = self.decoder.layers[0]  # its mode, not the model's: a trainer may set them apart
        if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
            if past is not None and past.get_seq_length():
                raise ValueError(
                    "a cache that holds tokens is given under gradient checkpointing, whose layers run twice and would "
                    "write to it twice; give the whole sequence instead, or turn the checkpointing off"
                )
            return None
        past = new() if use_cache and past is None else past
        if past is not None:
            own = own_cache(past)
            while isinstance(own, DynamicCache) and 0 < len(own.layers) < self.config.cache_slots:
                own.layers.append(DynamicLayer())
        return past


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """(B, T) -> (B, T, width) float32: the sines, then the cosines, of positions / 10000^(i / (width/2 - 1))."""
    half = width // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * torch.exp(-math.log(10_000.0) / max(1, half - 1) * steps)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width - 2 * half))


def positions_of(mask: torch.Tensor | None, past: int, tokens: int, device: torch.device) -> torch.Tensor:
    """(B or 1, T) positions counted from the first real token of each row, padding left out."""
    if mask is None or mask.ndim != 2 or mask.shape[1] != past + tokens:
        return torch.arange(past, past + tokens, device=device)[None]
    return (mask.long().cumsum(1) - 1).clamp(min=0)[:, past:]


def causal_mask(mask: torch.Tensor | None, past: int, tokens: int, device: torch.device) -> torch.Tensor | None:
    """The mask (B or 1, 1, T, S) bool of a decoder, None where it is plainly causal.

    A 4-D mask is taken as it is (bool, or additive as eager attention has it). Padding attends to itself alone, so that
    no row is without a key.
    """
    if mask is not None and mask.ndim == 4:
        return as_bool(mask)
    padded = mask is not None and not bool(mask.all())
    if not padded and (past == 0 or tokens == 1):
        return None
    slots = torch.arange(past + tokens, device=device)
    allowed = slots <= slots[past:, None]  # (T, S)
    if padded:
        real = mask.to(torch.bool)[:, None, None, :]
        allowed = allowed & (real | (slots == slots[past:, None]))
    return allowed if allowed.ndim == 4 else allowed[None, None]


def padding_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask (B, 1, 1, S) bool of attention to an encoder's tokens (B, S), None where all are real."""
    if mask is None or mask.ndim == 4:
        return mask if mask is None else as_bool(mask)
    return None if bool(mask.all()) else mask.to(torch.bool)[:, None, None, :]


def as_bool(mask: torch.Tensor) -> torch.Tensor:
    """An additive mask (0 or a huge negative number) as a bool one."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
