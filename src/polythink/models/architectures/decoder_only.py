"""The decoder-only backbone: word embeddings, one causal stack, output layer. An ordinary transformers causal LM.

It takes 4-D bool masks and explicit `position_ids`, so the fork/join engine, fine-tuning and reinforcement learning
run on it.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.initial import drawn_by, embedding
from polythink.models.architectures.stack import CACHE, BackboneModel, Stack, causal_mask, positions_of


class DecoderOnlyLM(BackboneModel, GenerationMixin):
    """A causal language model made of the `parts` that a subclass names."""

    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: BackboneConfig) -> None:
        config = config.with_encoder(is_encoder_decoder=False)
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.decoder = Stack(config, self.parts, "target")
        self.lm_head = drawn_by(embedding, nn.Linear(config.hidden_size, config.vocab_size, bias=False))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **loss_kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V). `attention_mask` is (B, S) of real tokens, or (B, 1, T, S) bool, True = may attend.

        Positions not given are counted from the first real token. `labels` (B, T) are shifted here, -100 is left out.
        `logits_to_keep`: the number of last positions that get logits (0: all), or the indices of the positions.
        """
        if attention_mask is not None and attention_mask.ndim == 4:
            self.config.check_trace_mask()
        embeddings = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past_key_values = self._past(use_cache, (cache, past_key_values), DynamicCache, loss_kwargs)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        where = (past, embeddings.shape[1], embeddings.device)
        out = self.decoder(
            embeddings,
            positions_of(attention_mask, *where) if position_ids is None else position_ids,
            causal_mask(attention_mask, *where),
            past_key_values=past_key_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **loss_kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: past_key_values},
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
