"""The engine's attention, registered with transformers: every row of the cache reads what its segments may see.

Linear layers run on the flat list of tokens without padding; only here are tokens put together row by row.
Axis legend: N tokens, G query heads, H key/value heads, g = G/H, D head size, r rows, Q queries of a row, K slots
of a row that are read, C all slots of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from polythink.engine.groups import Group
from polythink.engine.kv_cache import TreeKVCache

NAME = "polythink_tree"

# query (N, G, D), key and value as the cache returned them, scaling, window -> (N, G, D)
Read = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None, int | None], torch.Tensor]

# The attention of the step that runs in this thread. A context variable, because not every model passes keyword
# arguments of its forward down to its attention.
READ: ContextVar[Read] = ContextVar("polythink_read")

# What models hand to their attention beside the tensors and what makes no difference here.
_HARMLESS = {"is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **extras,
) -> tuple[torch.Tensor, None]:
    """`query` (1, G, N, D), `key` and `value` as the cache returned them; returns (1, N, G, D).

    Refuses what it would otherwise drop silently: soft caps, attention sinks, biases, dropout.
    """
    dropped = sorted(k for k, v in extras.items() if k not in _HARMLESS and v is not None and v is not False)
    if dropped or dropout:
        raise NotImplementedError(f"attention with {', '.join(dropped) or 'dropout'}")
    return READ.get()(query[0].transpose(0, 1), key, value, scaling, sliding_window)[None], None


def attend_told(
    cache: TreeKVCache,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """`attend` for a model's attention, which says itself whether it has a window."""
    cache.window_seen |= window is not None
    return attend(cache, query, key, value, scaling, window)


def attend(
    cache: TreeKVCache,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """(N, G, D): what each token of the planned step reads.

    `query` (N, G, D), `key` and `value` (1, H, C, D) as `update` of the cache's layer returns them.
    """
    out = None  # of the attention's dtype, which under autocast is not the query's
    for group in cache.now.groups:
        keys, values = (group.read(x[0].transpose(0, 1)).transpose(1, 2) for x in (key, value))  # (r, H, K, D)
        rows = _attend(group, query, keys, values, scaling, window)
        out = rows.new_empty(*query.shape[:2], rows.shape[-1]) if out is None else out
        out[group.members] = rows.flatten(0, 1)[group.at]
    return out


def _attend(
    group: Group, flat: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    """(r, Q, G, D). The g query heads that share a key head are packed as further query rows of that head."""
    (r, width), (heads, kv_heads) = group.index.shape, (flat.shape[1], key.shape[1])
    share = heads // kv_heads
    query = flat[group.index].view(r, width, kv_heads, share, -1).permute(0, 2, 3, 1, 4).flatten(2, 3)  # (r, H, g*Q, D)
    mask = group.packed_mask(share, window, query.dtype)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)  # (r, H, g*Q, D)
    return out.view(r, kv_heads, share, width, -1).permute(0, 3, 1, 2, 4).flatten(2, 3)


def register() -> None:
    """Make the attention known to transformers, with a mask function: a name without one gets no mask at all."""
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args, **kwargs) -> None:
    """The cache makes its own masks; the model's would have the wrong shape."""
    return None
