"""The vanilla pre-norm Transformer: the baseline that both papers compare with.

softmax(Q_i K_i^T / sqrt(D)) V_i for each of H heads, concatenated, projected    (Vaswani et al. 2017)
"""

from __future__ import annotations

import torch
from torch import nn

from polythink.models.architectures.attention import Attention, library_attention, split
from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.decoder_only import DecoderOnlyLM
from polythink.models.architectures.encoder_decoder import EncoderDecoderLM
from polythink.models.architectures.initial import drawn_by, output, projection
from polythink.models.architectures.stack import Parts


class VanillaConfig(BackboneConfig):
    model_type = "vanilla"


class MultiHeadAttention(Attention):
    """Q, K, V, O: d -> d, with biases."""

    def __init__(self, config: BackboneConfig, role: str, layer: int) -> None:
        super().__init__(config, role, layer)
        width = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj = (drawn_by(projection, nn.Linear(width, width)) for _ in range(3))
        self.o_proj = drawn_by(output, nn.Linear(width, width))

    def keys_and_values(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads = self.config.num_attention_heads
        return split(self.k_proj(y), heads), split(self.v_proj(y), heads)

    def attend(self, x, keys, values, mask, *, wanted) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = split(self.q_proj(x), self.config.num_attention_heads)
        out, weights = library_attention(self, query, keys, values, mask, wanted)
        return self.o_proj(out.flatten(2)), weights


PARTS = Parts(attention=MultiHeadAttention)


class VanillaForCausalLM(DecoderOnlyLM):
    config_class = VanillaConfig
    parts = PARTS


class VanillaForConditionalGeneration(EncoderDecoderLM):
    config_class = VanillaConfig
    parts = PARTS
