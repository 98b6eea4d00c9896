"""Masks for flex attention: blocks of 128 x 128 that are read whole, in part or not at all, built on the device.

What a token sees follows from two small tables of the batch, the segment of each token and which segments see which:
no (T, T) array is made, on the host or elsewhere. The twin is the dense mask of `batch.masks`.

Axis legend: B rows, T tokens of a row, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from polythink.errors import UserError
from polythink.models.batch import BLOCK
from polythink.models.forward import heeds_masks, product_dtype
from polythink.models.head import plain_head

FLEX = "flex_attention"  # its name in transformers


def mask_mod(
    segment: torch.Tensor, sees: torch.Tensor, positions: torch.Tensor | None = None, window: int | None = None
) -> Callable[..., torch.Tensor]:
    """May token q of row b attend to token k? From segments (B, T) int64 and tables (B, S, S) bool.

    As `batch.masks`: its segment sees that of k, which is not after it; and every token attends to itself. With a
    `window` only to those less than so many `positions` (B, T) before it.
    """

    def allowed(b, h, q, k):
        return (sees[b, segment[b, q], segment[b, k]] & (k <= q)) | (q == k)

    def near(b, h, q, k):
        return allowed(b, h, q, k) & (positions[b, q] - positions[b, k] < window)

    return allowed if window is None else near


def block_mask(
    segment: torch.Tensor, sees: torch.Tensor, positions: torch.Tensor | None = None, window: int | None = None
) -> BlockMask:
    """The mask of a batch, the same for all heads; its width is in whole blocks.

    Which blocks are read, and which of them whole, follows from the segments in each: a few small products, where
    `create_block_mask` would look at every pair of tokens.
    """
    rows, width = segment.shape
    count = width // BLOCK
    present = torch.zeros(rows, count, sees.shape[1], device=segment.device)
    present.scatter_(2, segment.view(rows, count, BLOCK), 1.0)
    some = _any_pair(present, sees)
    whole = ~_any_pair(present, ~sees)
    if window is not None:
        first, last = positions.view(rows, count, BLOCK).aminmax(dim=2)
        some &= first[:, :, None] - last[:, None, :] < window
        whole &= last[:, :, None] - first[:, None, :] < window
    before = torch.ones(count, count, dtype=torch.bool, device=segment.device).tril(-1)
    diagonal = torch.eye(count, dtype=torch.bool, device=segment.device)  # holds pairs of both kinds
    partial = (some & ~whole & before) | diagonal
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(some & whole & before), BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod(segment, sees, positions, window), seq_lengths=(width, width),
    )  # fmt: skip


def _any_pair(present: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(B, Q, K) bool: does any segment of block q stand in the table (B, S, S) with any of block k?"""
    return present @ table.to(present.dtype) @ present.mT > 0


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The blocks (B, Q, K) bool as flex attention reads them: (B, 1, Q) how many of each row, (B, 1, Q, K) which."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]


def reads_blocks(model: nn.Module) -> bool:
    """Whether a batch of this model is to be collated with tables in place of a dense mask."""
    return model.config._attn_implementation == FLEX


@contextmanager
def attending(model: nn.Module | None, attention: str) -> Iterator[None]:
    """While this is entered, forwards and backward passes use flex attention, if that is asked for; None: no model.

    `attention` "auto": on CUDA, where the model has it. `UserError` where it is asked for and cannot be.
    """
    wanted = model is not None and attention in (FLEX, "auto") and not reads_blocks(model)
    why_not = _why_not(model) if wanted else ""
    if not wanted or (why_not and attention == "auto"):
        yield
        return
    if why_not:
        raise UserError(f"attention: {FLEX} {why_not}")
    plain_head(model)  # found out by a forward, as `heeds_masks` is: both with the model's usual attention
    before, function = model.config._attn_implementation, ALL_ATTENTION_FUNCTIONS[FLEX]
    model.set_attn_implementation(FLEX)
    ALL_ATTENTION_FUNCTIONS[FLEX] = _attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[FLEX] = function
        model.set_attn_implementation(before)


def _attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask, **more):
    """Flex attention of transformers in the type that autocast asks for, as SDPA is: over float32 weights norms and
    rotation make queries and keys float32 beside values in bfloat16, which torch itself mends in newer releases only.
    """
    if torch.is_autocast_enabled(device := query.device.type):
        query, key, value = (x.to(product_dtype(x.dtype, device)) for x in (query, key, value))
    return flex_attention_forward(module, query, key, value, mask, **more)


def _why_not(model: nn.Module) -> str:
    """Why this model cannot have flex attention now, and what to set instead; "" where it can."""
    kind, device = model.config.model_type, next(model.parameters()).device.type
    if device != "cuda":
        return (
            f"runs on CUDA devices, and the model is on {device!r}, where it would abort the process; set "
            "attention: sdpa"
        )
    if not getattr(model, "_supports_flex_attn", False) or not heeds_masks(model):
        return f"is not an attention that {kind} has; set attention: sdpa"
    if model.training and getattr(model.config, "attention_dropout", 0):
        return f"knows no dropout, and {kind} is set to attention_dropout; set it to 0"
    return ""
