"""Masks of blocks against dense ones, as far as a CPU can say: what they allow, and what attention makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from helpers.layouts import block_of, draw, piece, some_layouts
from helpers.tiny import tiny
from polythink.errors import UserError
from polythink.models.batch import BLOCK, collate, pack
from polythink.models.blocks import attending, block_mask, mask_mod
from polythink.models.logprobs import token_logprobs
from polythink.trace.layout import lay_out


def traces(mode: str = "structured", count: int = 4):
    """Traces of two blocks each, of lengths that differ, some longer than a block of the mask."""
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        blocks = [block_of(rng, number, 2 + i % 2, lambda p, i=i: 5 + 17 * i + p)[2] for number in range(2)]
        between = piece("main", draw(rng, 4))
        found.append(lay_out([piece("prompt", draw(rng, 3 + i)), *blocks[0], between, *blocks[1]], mode))
    return found


def batches():
    yield "padded", some_layouts()
    for mode in ("structured", "reread", "sequential"):
        yield mode, traces(mode)
    yield "packed", [pack(traces()), pack(some_layouts(5)), *traces(count=1)]


BATCHES = [pytest.param(layouts, id=name) for name, layouts in batches()]


@pytest.mark.parametrize("layouts", BATCHES)
def test_every_pair_of_tokens(layouts):
    dense, tables = collate(layouts), collate(layouts, tables=True)
    rows, width = tables.tokens.shape
    assert tables.mask is None
    assert width % BLOCK == 0
    grid = torch.meshgrid(*map(torch.arange, (rows, width, width)), indexing="ij")
    allowed = mask_mod(tables.segment, tables.sees)(grid[0], 0, grid[1], grid[2])
    n = dense.tokens.shape[1]
    assert torch.equal(allowed[:, :n, :n], dense.mask[:, 0])
    assert torch.equal(allowed[:, n:], torch.eye(width, dtype=torch.bool)[n:].expand(rows, -1, -1)), "padding: itself"
    for name in ("tokens", "positions", "previous", "sampled", "real", "query_scale"):
        assert torch.equal(getattr(tables, name)[:, :n], getattr(dense, name)), name
    assert not tables.real[:, n:].any()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("layouts", BATCHES[-1:])
def test_attention_over_blocks_is_attention_over_the_dense_mask(layouts):
    dense, tables = collate(layouts), collate(layouts, tables=True)
    n, generator = dense.tokens.shape[1], torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*tables.tokens.shape, 2, 16, generator=generator).transpose(1, 2) for _ in range(3))
    found = flex_attention(q, k, v, block_mask=block_mask(tables.segment, tables.sees))
    right = scaled_dot_product_attention(*(x[:, :, :n] for x in (q, k, v)), attn_mask=dense.mask)
    assert (found[:, :, :n] - right).abs().max() < 1e-5


def test_blocks_that_no_token_sees_are_left_out():
    """Several traces in a row: what one has of another is not computed."""
    layouts = traces(count=4)[2:] * 3
    tables = collate([pack(layouts)], tables=True)
    mask = block_mask(tables.segment, tables.sees)
    causal = block_mask(torch.zeros_like(tables.segment), torch.ones(1, 1, 1, dtype=torch.bool))
    assert mask.sparsity() > causal.sparsity() + 20


def test_flex_attention_is_refused_where_it_would_abort():
    lm = tiny()
    with pytest.raises(UserError, match="runs on CUDA devices"), attending(lm.model, "flex_attention"):
        pass
    assert lm.model.config._attn_implementation == "sdpa"
    with attending(lm.model, "sdpa"), attending(lm.model, "auto"), attending(None, "flex_attention"):
        assert lm.model.config._attn_implementation == "sdpa"
    with pytest.raises(UserError, match="needs attention 'sdpa', or 'flex_attention' with blocks"):
        token_logprobs(lm.model, collate(some_layouts(2), tables=True))
