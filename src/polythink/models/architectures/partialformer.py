"""PartialFormer (arXiv 2310.14921): no feed-forward sub-layer; a small one, shared by all heads, inside attention.

Symbols: G logit heads, E expanded heads, D = d / H head size, r ratio; x (T, d) the queries' side after its norm, y
(S, d) the keys' side, x0 the stack's input.

    P   = Q K^T / sqrt(D)                      Q, K: d -> G*D                         (G, T, S)
    A   = W_2 relu(W_1 P + b_1) + b_2          over the head axis at each (t, s)      (E, T, S)    head scaling
    A  += Q_0 K_0^T / sqrt(D)                  Q_0, K_0: LN(x0), d -> E*D, the same for all layers, residual attention
    Z   = softmax(mask(A)) V                   V: d -> E*D                            (E, T, D)
    Z  += relu(Z F_1 + c_1) F_2 + c_2          D -> r*D -> D, one pair for all heads
    out = (concat(Z) * relu(x W_u + b_u)) W_o + b_o                                   (T, d)

Without the head MLP (`head_mlp=False`: Q, K: d -> E*D) the two sums of products are one, softmax([Q; Q_0] [K; K_0]^T),
which SDPA computes. With it E maps are formed: T * S * E floats per layer, in chunks of query rows above
`chunk_elements`, and E more that all layers share.
Decoding keeps K and V of every layer and one K_0 of the stack, in a cache slot of its own.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from transformers import Cache

from polythink.errors import UserError
from polythink.models.architectures.attention import (
    Attention,
    library_attention,
    mapped_attention,
    own_cache,
    refuse_foreign_attention,
    split,
    to_weights,
)
from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.decoder_only import DecoderOnlyLM
from polythink.models.architectures.encoder_decoder import EncoderDecoderLM
from polythink.models.architectures.initial import drawn_by, orthogonal, output, projection
from polythink.models.architectures.stack import Parts


class PartialFormerConfig(BackboneConfig):
    """E, r and residual attention of the decoder (or the only stack); `source_..`: of the encoder, None: the same."""

    model_type = "partialformer"

    logit_heads: int | None = None  # G; None: num_attention_heads
    expanded_heads: int | None = None  # E; None: twice num_attention_heads
    source_expanded_heads: int | None = None
    ffn_ratio: int = 4  # r
    source_ffn_ratio: int | None = None
    head_mlp: bool = True  # E maps from G by an MLP over heads; False: E full heads
    residual_attention: bool = True
    source_residual_attention: bool | None = None
    add_dropout: bool = False  # dropout of F_2's output too, before it is added to Z; as --add-dropout of the code
    hidden_dropout: float = 0.1  # its probability; as --hidden-dropout, whose default is this

    def __post_init__(self, **kwargs) -> None:
        self.logit_heads = self.logit_heads or self.num_attention_heads
        self.expanded_heads = self.expanded_heads or 2 * self.num_attention_heads
        super().__post_init__(**kwargs)
        if not 0 <= self.hidden_dropout < 1:
            raise UserError(f"hidden_dropout is a probability from 0 to below 1, not {self.hidden_dropout}")

    def _of(self, name: str, role: str):
        own = getattr(self, f"source_{name}") if role == "source" else None
        return getattr(self, name) if own is None else own

    def heads(self, role: str) -> int:
        return self._of("expanded_heads", role)

    def ratio(self, role: str) -> int:
        return self._of("ffn_ratio", role)

    def has_residual(self, role: str) -> bool:
        return role != "cross" and self._of("residual_attention", role)

    @property
    def cache_slots(self) -> int:
        return self.num_hidden_layers + self.has_residual("target")


class ResidualAttention(nn.Module):
    """Q_0 and K_0 of a stack, computed once from its input. With the head MLP, their product."""

    def __init__(self, config: PartialFormerConfig, role: str) -> None:
        super().__init__()
        self.config, self.heads = config, config.heads(role)
        self.norm = nn.LayerNorm(config.hidden_size)
        wide = (config.hidden_size, self.heads * config.head_size)
        self.q_proj, self.k_proj = (drawn_by(projection, nn.Linear(*wide)) for _ in range(2))

    def forward(self, x: torch.Tensor, past: Cache | None) -> tuple[torch.Tensor, ...]:
        """x (B, T, d) -> logits (B, E, T, S), or without the head MLP query (B, E, T, D) and keys (B, E, S, D)."""
        if self.config.head_mlp:
            refuse_foreign_attention(self.config)
        x = self.norm(x)
        query, keys = split(self.q_proj(x), self.heads), split(self.k_proj(x), self.heads)
        if past is not None:
            nothing = keys.new_empty(*keys.shape[:3], 0)
            keys, _ = own_cache(past).update(keys, nothing, self.config.num_hidden_layers)
        if self.config.head_mlp:
            return (query @ keys.transpose(-1, -2) * self.config.head_size**-0.5,)
        return query, keys


class HeadScaling(nn.Module):
    """G maps -> E maps: W_2 relu(W_1 P + b_1) + b_2 over the head axis.

    The published initialisation, torch's default, shrinks the logits about tenfold; "alive" makes both orthogonal, with
    gains sqrt(E/G) and sqrt(2).
    """

    def __init__(self, config: PartialFormerConfig, heads: int) -> None:
        super().__init__()
        groups = config.logit_heads
        self.expand, self.mix = nn.Conv2d(groups, heads, 1), nn.Conv2d(heads, heads, 1)
        if config.initialisation == "alive":
            drawn_by(partial(orthogonal, gain=(heads / groups) ** 0.5), self.expand)
            drawn_by(partial(orthogonal, gain=2**0.5), self.mix)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.mix(self.expand(maps).relu())


class PartialAttention(Attention):
    """The whole block: attention, head feed-forward, gate."""

    def __init__(self, config: PartialFormerConfig, role: str, layer: int) -> None:
        super().__init__(config, role, layer)
        width, size = config.hidden_size, config.head_size
        self.heads, self.hidden = config.heads(role), config.ratio(role) * size
        self.logit_heads = config.logit_heads if config.head_mlp else self.heads
        narrow, wide = (width, self.logit_heads * size), (width, self.heads * size)
        self.q_proj, self.k_proj = (drawn_by(projection, nn.Linear(*narrow)) for _ in range(2))
        self.v_proj, self.gate_proj = (drawn_by(projection, nn.Linear(*wide)) for _ in range(2))
        self.o_proj = drawn_by(output, nn.Linear(self.heads * size, width))
        self.expand, self.reduce = nn.Linear(size, self.hidden), nn.Linear(self.hidden, size)
        self.head_scaling = HeadScaling(config, self.heads) if config.head_mlp else None
        self.dropout = nn.Dropout(config.activation_dropout)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout if config.add_dropout else 0.0)

    def keys_and_values(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (B, G, S, D), values (B, E, S, D)."""
        return split(self.k_proj(y), self.logit_heads), split(self.v_proj(y), self.heads)

    def attend(self, x, keys, values, mask, *shared, wanted) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = split(self.q_proj(x), self.logit_heads)
        if self.head_scaling is not None:
            maps = self.logit_heads + 3 * self.heads
            weigh = partial(self._weigh, keys)
            z, weights = mapped_attention(self, weigh, maps, query, values, mask, *shared, wanted=wanted)
        else:
            if shared:
                query, keys = torch.cat([query, shared[0]], -1), torch.cat([keys, shared[1]], -1)
            z, weights = library_attention(self, query, keys, values, mask, wanted)
        z = z + self.hidden_dropout(self.reduce(self.dropout(self.expand(z).relu())))  # (B, T, E, D)
        return self.o_proj(z.flatten(2) * self.gate_proj(x).relu()), weights

    def _weigh(self, keys, query, mask, shared=None) -> torch.Tensor:
        """Weights (B, E, T, S): G maps, head scaling, residual attention, softmax."""
        logits = self.head_scaling(query @ keys.transpose(-1, -2) * self.config.head_size**-0.5)
        return to_weights(self, logits if shared is None else logits + shared, mask)


def residual_attention(config: PartialFormerConfig, role: str) -> ResidualAttention | None:
    return ResidualAttention(config, role) if config.has_residual(role) else None


PARTS = Parts(attention=PartialAttention, feed_forward=None, shared=residual_attention)


class PartialFormerForCausalLM(DecoderOnlyLM):
    config_class = PartialFormerConfig
    parts = PARTS


class PartialFormerForConditionalGeneration(EncoderDecoderLM):
    config_class = PartialFormerConfig
    parts = PARTS
