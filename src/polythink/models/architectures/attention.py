"""What the attentions of all architectures share: splitting heads, the cache, masks, and two ways to compute.

Axis legend: B rows, T queries, S keys, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from polythink.models.architectures.config import BackboneConfig

ROLES = ("source", "target", "cross")  # encoder self-attention, decoder self-attention, decoder to encoder


class Attention(nn.Module):
    """Base of all attentions: a subclass defines its keys and values, and how it attends to them.

    `role` is one of `ROLES`; `layer` numbers the cache slot.
    """

    def __init__(self, config: BackboneConfig, role: str, layer: int) -> None:
        super().__init__()
        assert role in ROLES, role
        self.config, self.role, self.layer = config, role, layer
        self.is_causal = role == "target"  # the meaning of no mask; transformers' attention functions read it

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        *shared: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x (B, T, d) and mask (B or 1, 1, T or 1, S) bool -> output (B, T, d), weights (B, H, T, S) or None.

        `shared` is what the stack computed once for all its layers (PartialFormer).
        """
        keys, values = self._read(x if memory is None else memory, cache)
        return self.attend(x, keys, values, mask, *shared, wanted=output_attentions)

    def keys_and_values(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, H, S, D) of y (B, S, d). Their numbers of heads may differ."""
        raise NotImplementedError

    def attend(self, x, keys, values, mask, *shared, wanted: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output (B, T, d), and the weights (B, H, T, S) if they are `wanted`."""
        raise NotImplementedError

    def _read(self, y: torch.Tensor, past: Cache | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of y after the cached ones. Those of the encoder's output are computed once."""
        if past is None:
            return self.keys_and_values(y)
        if self.role != "cross":
            return own_cache(past).update(*self.keys_and_values(y), self.layer)
        if not past.is_updated.get(self.layer):
            past.cross_attention_cache.update(*self.keys_and_values(y), self.layer)
            past.is_updated[self.layer] = True
        kept = past.cross_attention_cache.layers[self.layer]
        return kept.keys, kept.values


def own_cache(past: Cache) -> Cache:
    """The part of a cache that is the decoder's own."""
    return past.self_attention_cache if isinstance(past, EncoderDecoderCache) else past


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def library_attention(
    module: Attention,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    wanted: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """softmax(q k^T / sqrt(head size)) v by the configured attention function: (B, T, H, D), and weights if `wanted`.

    SDPA unless the model is set to another; the fork/join engine sets its own. Wanted weights are computed eagerly.
    """
    config, implementation = module.config, module.config._attn_implementation
    scaling = config.head_size**-0.5  # of the architecture's heads: the concatenated ones of PartialFormer are wider
    if wanted or implementation == "eager":
        logits = scaling * query @ keys.transpose(-1, -2)
        weights = to_weights(module, logits, explicit(mask, module.is_causal, query.shape[2], query.device))
        return (weights @ values).transpose(1, 2), weights
    dropout = config.attention_dropout if module.training else 0.0
    attend = ALL_ATTENTION_FUNCTIONS[implementation]
    return attend(module, query, keys, values, mask, scaling=scaling, dropout=dropout)


def refuse_foreign_attention(config: BackboneConfig) -> None:
    """`NotImplementedError` for an attention function that does not form the maps which the architecture works on."""
    if config._attn_implementation not in ("sdpa", "eager"):
        raise NotImplementedError(
            f"{config.model_type} works on the attention maps themselves; attention function "
            f"{config._attn_implementation!r} does not form them"
        )


def mapped_attention(
    module: Attention,
    weigh: Callable[..., torch.Tensor],
    maps: int,
    query: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *rows: torch.Tensor,
    wanted: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """weigh(query, mask, *rows) v, where `weigh` forms `maps` maps: (B, T, H, D), and the weights if `wanted`."""
    refuse_foreign_attention(module.config)
    mask = explicit(mask, module.is_causal, query.shape[2], query.device)
    if wanted:
        weights = weigh(query, mask, *rows)
        return (weights @ values).transpose(1, 2), weights
    per_row = len(query) * values.shape[2] * maps
    limit = module.config.chunk_elements
    out = by_query_rows(lambda *chunk: weigh(*chunk) @ values, limit, per_row, query, mask, *rows)
    return out.transpose(1, 2), None


def to_weights(module: Attention, logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Masked softmax over keys, in float32 at least, with the attention's dropout: (B, H, T, S) -> the same."""
    if mask is not None:  # the smallest number, not -inf: a row without any key stays finite
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    weights = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)
    return nn.functional.dropout(weights, module.config.attention_dropout, module.training)


def explicit(mask: torch.Tensor | None, causal: bool, queries: int, device: torch.device) -> torch.Tensor | None:
    """The mask that `None` stands for: causal in a decoder (a single query sees all), nothing elsewhere."""
    if mask is None and causal and queries > 1:
        return torch.ones(queries, queries, dtype=torch.bool, device=device).tril()[None, None]
    return mask


def by_query_rows(
    function: Callable[..., torch.Tensor], limit: int, per_row: int, query: torch.Tensor, *rows: torch.Tensor | None
) -> torch.Tensor:
    """function(query (B, H, T, D), *rows) -> (B, H, T, D), in chunks of query rows where the maps would be too big.

    `per_row` is the number of floats of one query row's maps, `limit` the number that may be alive. Each of `rows` has
    the queries on axis -2, or one row for all queries, or is None. A chunk's maps are computed again in the backward
    pass. Exact, since no architecture here mixes query rows.
    """
    queries = query.shape[2]
    size = max(1, limit // per_row)
    if size >= queries:
        return function(query, *rows)

    def chunk(x: torch.Tensor | None, span: slice) -> torch.Tensor | None:
        return x if x is None or x.shape[-2] == 1 else x[..., span, :]

    spans = [slice(i, i + size) for i in range(0, queries, size)]
    parts = [[chunk(x, span) for x in (query, *rows)] for span in spans]
    if not torch.is_grad_enabled():
        return torch.cat([function(*part) for part in parts], dim=2)
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts], dim=2)
