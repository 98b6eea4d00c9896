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

from polythink.models.architectures.calls import CACHE_NAME, library_call
from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.initial import drawn_by, embedding
from polythink.models.architectures.stack import BackboneModel, Stack, causal_mask, positions_of


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
    @library_call
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V). `attention_mask` is (B, S) of real tokens, or (B, 1, T, S) bool, True = may attend.

        Positions not given are counted from the first real token. `labels` (B, T) are shifted here, `shift_labels`
        stand already where they are predicted; -100 is left out.
        `logits_to_keep`: the number of last positions that get logits (0: all), or the indices of the positions.
        """
        if attention_mask is not None and attention_mask.ndim == 4:
            self.config.check_trace_mask()
        embeddings = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._past(use_cache, cache, DynamicCache)
        past = 0 if cache is None else cache.get_seq_length()
        where = (past, embeddings.shape[1], embeddings.device)
        out = self.decoder(
            embeddings,
            positions_of(attention_mask, *where) if position_ids is None else position_ids,
            causal_mask(attention_mask, *where),
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None or shift_labels is not None:
            how = {"num_items_in_batch": num_items_in_batch, "shift_labels": shift_labels}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **how)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: cache},
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
