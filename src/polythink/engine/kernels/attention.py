"""Attention over pages of keys and values: partial results of items of work, merged per query by log-sum-exp.

Each item is a tile of queries and a list of pages; the lists come from `polythink.engine.paged.work`, where their form
is told. The g query heads that share a key head are packed as rows of one tile, so a page is read once for all heads
and all queries of the tile. `attend_pages` is the Triton form, `attend_pages_twin` the same in plain torch.

Axis legend: N tokens (padded), G query heads, H key and value heads, g = G / H, D head size, C pages of the arena,
M partial results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polythink.engine.paged.arena import PAGE
from polythink.engine.paged.work import COUNT_BITS, ITEM, Launch


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the attention of one layer reads besides the queries. Columns of int32 may be longer than what is used."""

    keys: torch.Tensor  # (C * 16, H, D)
    values: torch.Tensor  # (C * 16, H, D)
    scale: torch.Tensor  # (N,) float32: factor on the query's scores
    launches: Sequence[Launch]
    items: torch.Tensor  # (I * 5,): first query, queries, first entry, entries, first partial; all zero: empty
    queries: torch.Tensor  # (Q,): token numbers, tile by tile
    entries: torch.Tensor  # (E,): page << 5 | tokens written
    bits: torch.Tensor  # (E,): bit i: the tile's query i sees the page
    merge_start: torch.Tensor  # (N + 1,)
    merge: torch.Tensor  # (M,): the partials of token n at merge_start[n] .. merge_start[n + 1]
    parts: int  # the most partials of a token
    partial_out: torch.Tensor  # (M, G, D) float32, scratch
    partial_lse: torch.Tensor  # (M, G) float32, scratch: log2 of the sum of exponentials
    stamps: tuple[torch.Tensor, torch.Tensor] | None = None  # (C * 16,) of keys and (N,) of queries: key <= query
    positions: tuple[torch.Tensor, torch.Tensor] | None = None  # (C * 16,) and (N,), int32, where there is a window
    window: int | None = None  # query position minus key position must be below it


def widest_block(share: int, head_size: int, dtype: torch.dtype) -> int:
    """Packed rows of a wide tile for `share` query heads per key head: what registers and a word's 32 bits allow."""
    if dtype.itemsize > 2:
        return 32  # more would spill
    return 128 if share >= 4 and head_size <= 128 else 64


def attend_pages(query: torch.Tensor, inputs: Inputs, scaling: float, out: torch.Tensor) -> torch.Tensor:
    """`query` (N, G, D) -> `out` (N, G, D) of the same dtype, which is returned; float32 inside. Zero for padding.

    Launches one kernel per entry of `launches` and one to merge. Float32 inputs are multiplied in full precision.
    """
    from polythink.engine.kernels.attention_triton import launch_merge, launch_split

    assert query.is_contiguous()
    assert out.is_contiguous()
    for launch in inputs.launches:
        launch_split(query, inputs, scaling, launch)
    launch_merge(inputs, out)
    return out


def attend_pages_twin(query: torch.Tensor, inputs: Inputs, scaling: float, out: torch.Tensor) -> torch.Tensor:
    """The same, item by item: gather, mask, softmax; partial results are merged by the tokens of the items."""
    items = inputs.items[: ITEM * sum(launch.items for launch in inputs.launches)].view(-1, ITEM).tolist()
    parts = [_partial(query, inputs, scaling, *item[:4]) for item in items if item[1]]
    tokens, lse, partial = (torch.cat(column) for column in zip(*parts, strict=True))
    top = lse.new_full((len(query), lse.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, tokens[:, None].expand_as(lse), lse, "amax")
    weight = torch.exp(lse - top[tokens].clamp_min(torch.finfo(lse.dtype).min))  # (M, G)
    total = torch.zeros_like(top).index_add_(0, tokens, weight)
    merged = lse.new_zeros(query.shape).index_add_(0, tokens, weight[..., None] * partial)
    out.copy_(merged / total.masked_fill(total == 0, 1)[..., None])
    return out


def _partial(
    query: torch.Tensor, inputs: Inputs, scaling: float, first: int, count: int, begin: int, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (q,), log of the sum of exponentials (q, G), attention (q, G, D) of one item, in float32 or better."""
    tokens = inputs.queries[first : first + count].long()
    entries = inputs.entries[begin : begin + length]
    number = torch.arange(PAGE, device=entries.device)
    written = number < (entries & (1 << COUNT_BITS) - 1)[:, None]  # (pages, 16)
    slots = ((entries >> COUNT_BITS).long()[:, None] * PAGE + number)[written]  # (K,)
    bits = inputs.bits[begin : begin + length, None].expand(-1, PAGE)[written]
    mask = (bits >> torch.arange(count, dtype=torch.int32, device=bits.device)[:, None] & 1).bool()  # (q, K)
    if inputs.stamps is not None:
        of_keys, of_queries = inputs.stamps
        mask &= of_keys[slots] <= of_queries[tokens, None]
    if inputs.positions is not None:
        of_keys, of_queries = inputs.positions
        mask &= of_queries[tokens, None] - of_keys[slots] < inputs.window
    wide = torch.promote_types(query.dtype, torch.float32)
    share = query.shape[1] // inputs.keys.shape[1]
    keys, values = (x[slots].to(wide).repeat_interleave(share, 1) for x in (inputs.keys, inputs.values))  # (K, G, D)
    factor = scaling * inputs.scale[tokens, None, None].to(wide)
    scores = torch.einsum("qgd,kgd->qgk", query[tokens].to(wide), keys) * factor
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.clamp_min(torch.finfo(wide).min)[..., None])
    return tokens, lse, torch.einsum("qgk,kgd->qgd", weights, values)
