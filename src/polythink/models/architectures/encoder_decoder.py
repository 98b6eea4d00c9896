"""The encoder-decoder backbone: one table of word embeddings for source, target and output, two stacks.

The embeddings stand in the encoder, which transformers calls on its own when it generates.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput
from transformers.utils import ModelOutput, can_return_tuple

from polythink.models.architectures.calls import CACHE_NAME, library_call
from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.initial import drawn_by, embedding
from polythink.models.architectures.stack import BackboneModel, Parts, Stack, causal_mask, padding_mask, positions_of


class Encoder(nn.Module):
    """Word embeddings and the source stack."""

    main_input_name = "input_ids"

    def __init__(self, config: BackboneConfig, parts: Parts) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.stack = Stack(config, parts, "source")

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        embeddings = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        positions = positions_of(attention_mask, 0, embeddings.shape[1], embeddings.device)
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return self.stack(embeddings, positions, padding_mask(attention_mask), **wanted)


class EncoderDecoderLM(BackboneModel, GenerationMixin):
    """A sequence-to-sequence model made of the `parts` that a subclass names."""

    _tied_weights_keys = {"lm_head.weight": "encoder.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: BackboneConfig) -> None:
        config = config.with_encoder(is_encoder_decoder=True)
        super().__init__(config)
        self.encoder = Encoder(config, self.parts)
        self.decoder = Stack(config, self.parts, "target")
        self.lm_head = drawn_by(embedding, nn.Linear(config.hidden_size, config.vocab_size, bias=False))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """What the decoder reads to predict `labels` (B, T): the start token, then all labels but the last."""
        start = torch.full_like(labels[:, :1], self.config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    @can_return_tuple
    @library_call
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V) of the target. `labels` (B, T) need no shift: the decoder's input is made from them."""
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, **wanted)
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if decoder_input_ids is None and decoder_inputs_embeds is None and labels is not None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        embeddings = decoder_inputs_embeds
        if embeddings is None:
            embeddings = self.encoder.embed_tokens(decoder_input_ids)
        cache = self._past(use_cache, cache, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()))
        past = 0 if cache is None else cache.get_seq_length()
        where = (past, embeddings.shape[1], embeddings.device)
        out = self.decoder(
            embeddings,
            positions_of(decoder_attention_mask, *where),
            causal_mask(decoder_attention_mask, *where),
            memory=encoder_outputs.last_hidden_state,
            memory_mask=padding_mask(attention_mask),
            cache=cache,
            **wanted,
        )
        logits, loss = self.lm_head(out.last_hidden_state), None
        if labels is not None:  # `shift_labels`: they stand where they are predicted
            sizes = {"vocab_size": self.config.vocab_size, "num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits=logits, labels=None, shift_labels=labels, **sizes)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: cache},
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )
