"""Masks for flex attention: blocks of 128 x 128 that are read whole, in part or not at all, built on the device.

What a token sees follows from two small tables of the batch, the segment of each token and which segments see which:
no (T, T) array is made, on the host or elsewhere. The twin is the dense mask of `batch.masks`.

Axis legend: B rows, T tokens of a row, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from polythink.errors import UserError
from polythink.models.forward import heeds_masks
from polythink.models.head import plain_head

FLEX = "flex_attention"  # its name in transformers


def mask_mod(segment: torch.Tensor, sees: torch.Tensor) -> Callable[..., torch.Tensor]:
    """May token q of row b attend to token k? From segments (B, T) int64 and tables (B, S, S) bool.

    As `batch.masks`: its segment sees that of k, which is not after it; and every token attends to itself.
    """

    def allowed(b, h, q, k):
        return (sees[b, segment[b, q], segment[b, k]] & (k <= q)) | (q == k)

    return allowed


def block_mask(segment: torch.Tensor, sees: torch.Tensor) -> BlockMask:
    """The mask of a batch, the same for all heads. On CUDA it is built by a compiled kernel."""
    rows, width = segment.shape
    create = _compiled() if segment.device.type == "cuda" else create_block_mask
    return create(mask_mod(segment, sees), rows, None, width, width, device=segment.device.type)


@cache
def _compiled() -> Callable[..., BlockMask]:
    """Eagerly it would form the whole (B, T, T) mask first."""
    return torch.compile(create_block_mask)


def reads_blocks(model: nn.Module) -> bool:
    """Whether a batch of this model is to be collated with tables in place of a dense mask."""
    return model.config._attn_implementation == FLEX


@contextmanager
def attending(model: nn.Module | None, attention: str) -> Iterator[None]:
    """While this is entered, forwards and backward passes use flex attention, if that is asked for; None: no model.

    `UserError` where it is, and the device or the model does not have it.
    """
    if model is None or attention != FLEX or reads_blocks(model):
        yield
        return
    _check_flex(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(FLEX)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _check_flex(model: nn.Module) -> None:
    kind = model.config.model_type
    if (device := next(model.parameters()).device).type != "cuda":
        raise UserError(
            f"attention: {FLEX} runs on CUDA devices, and the model is on {device.type!r}, where it would abort the "
            "process; set attention: sdpa"
        )
    if not getattr(model, "_supports_flex_attn", False) or not heeds_masks(model):
        raise UserError(f"{kind} has no attention of that kind; set attention: sdpa instead of {FLEX}")
    if model.training and getattr(model.config, "attention_dropout", 0):
        raise UserError(f"attention: {FLEX} knows no dropout, and {kind} is set to attention_dropout; set it to 0")
    plain_head(model)  # found out by a forward, as `heeds_masks` is: both with the model's usual attention
