"""E-EIT, the efficient variant of EIT: one pair of convolutions from all pairs of heads to M maps.

    S  = all M*M maps                                                      as in EIT
    S2 = conv_out(relu(conv_in(S)))    M*M -> channels, grouped by M; channels -> M, not grouped

The public sources do not settle its definition: this form follows two independent hints, with 2*M channels.
"""

from __future__ import annotations

from polythink.models.architectures.decoder_only import DecoderOnlyLM
from polythink.models.architectures.eit import InteractiveAttention, Mixing, interactive
from polythink.models.architectures.encoder_decoder import EncoderDecoderLM
from polythink.models.architectures.interaction import InteractionConfig
from polythink.models.architectures.stack import Parts


class EEITConfig(InteractionConfig):
    model_type = "e_eit"

    kernel: int = 1
    channels: int | None = None  # None: 2 M

    def mixings(self) -> list[tuple[int, int]]:
        return [(self.kernel, self.channels or 2 * self.num_attention_heads)]


class EfficientInteractiveAttention(InteractiveAttention):
    def make_mixings(self, config: EEITConfig) -> list[Mixing]:
        heads = config.num_attention_heads
        return [Mixing(config, 0, heads**2, heads, 1)]


PARTS = Parts(attention=interactive(EfficientInteractiveAttention))


class EEITForCausalLM(DecoderOnlyLM):
    config_class = EEITConfig
    parts = PARTS


class EEITForConditionalGeneration(EncoderDecoderLM):
    config_class = EEITConfig
    parts = PARTS
