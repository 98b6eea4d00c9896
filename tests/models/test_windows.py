"""Sliding windows in the masks of whole traces: against the model's own, and blocks against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_block_masks import traces
from torch.nn.attention.flex_attention import create_block_mask

from helpers.device import DEVICE
from helpers.layouts import VOCABULARY, draw, piece, some_layouts
from helpers.tiny import family
from polythink.errors import UserError
from polythink.models.batch import collate, pack
from polythink.models.blocks import block_mask, mask_mod
from polythink.models.logprobs import masked_logits, token_logprobs, window_limit
from polythink.trace.layout import lay_out

WINDOW = 6
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "gemma3_text": {"head_dim": 8, **LAYERS},
    "mistral": {},
    "qwen3": {"head_dim": 8, "use_sliding_window": True, **LAYERS},
}


def windowed(model_type: str):
    return family(model_type, sliding_window=WINDOW, vocab_size=VOCABULARY, **FAMILIES[model_type]).model


@pytest.mark.parametrize("model_type", FAMILIES)
def test_plain_text_is_what_the_model_makes_of_it(model_type):
    """Five windows long; the model's own masks have the window."""
    model, rng = windowed(model_type), np.random.default_rng(0)
    ids = draw(rng, 5 * WINDOW)
    batch = collate([lay_out([piece("prompt", ids[:4]), piece("main", ids[4:])], "structured")]).to(DEVICE)
    with torch.no_grad():
        found, right = masked_logits(model, batch), model(input_ids=batch.tokens, use_cache=False).logits
        model.config.get_text_config().sliding_window = 10**6
        without = masked_logits(model, batch)
    assert (found - right).abs().max() < 1e-5 * right.abs().max()
    assert (without - right).abs().max() > 1e-2 * right.abs().max(), "the window makes a difference"


def test_a_window_is_one_of_positions():
    """Paths stand side by side: the last of four is as near to the prompt as the first."""
    prompt, paths = piece("prompt", [3, 4]), [piece("path", [5, 6, 7], 0, i) for i in range(1, 5)]
    batch = collate([lay_out([prompt, *paths], "structured")])
    rows = torch.arange(batch.tokens.shape[1])
    seen = mask_mod(
        torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]]), torch.eye(5, dtype=torch.bool)[None].logical_or(
            torch.eye(5)[0].bool()
        ), batch.positions, 4,
    )(0, 0, rows[:, None], rows[None])  # fmt: skip
    assert seen[13, :2].tolist() == [False, True], "position 4 sees positions from 1 on"
    assert seen[12, :2].tolist() == [True, True]
    assert not seen[13, 2:11].any(), "and no other path"


@pytest.mark.parametrize("window", [None, 1, 40, 130, 1000])
@pytest.mark.parametrize("layouts", [traces(), [pack(traces()), pack(traces("sequential"))]], ids=["rows", "packed"])
def test_blocks_hold_every_pair_and_whole_ones_nothing_else(layouts, window):
    batch = collate(layouts, tables=True)
    mask = block_mask(batch.segment, batch.sees, batch.positions, window)
    rows, width = batch.tokens.shape
    grid = torch.meshgrid(*map(torch.arange, (rows, width, width)), indexing="ij")
    cells = mask_mod(batch.segment, batch.sees, batch.positions, window)(grid[0], 0, grid[1], grid[2])
    pairs = cells.view(rows, width // 128, 128, width // 128, 128).transpose(2, 3)
    some, every = pairs.any(-1).any(-1), pairs.all(-1).all(-1)
    partial = listed(mask.kv_num_blocks, mask.kv_indices)
    whole = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (partial & whole).any()
    assert not (some & ~partial & ~whole).any(), "no pair is lost"
    assert not (whole & ~every).any(), "none is added"
    if window is None:
        twin = create_block_mask(mask_mod(batch.segment, batch.sees), rows, None, width, width, device="cpu")
        assert torch.equal(some, partial | whole), "nothing is read in vain"
        assert torch.equal(listed(twin.full_kv_num_blocks, twin.full_kv_indices), whole)


def listed(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(B, Q, K) bool from the lists of flex attention."""
    found = torch.zeros(indices.shape, dtype=torch.bool)
    place = torch.arange(indices.shape[-1]).expand(indices.shape) < counts[..., None]
    return found.scatter(-1, indices.long(), place)[:, 0]


def test_windows_of_a_kind_that_masks_do_not_have_are_refused():
    chunked = windowed("gemma3_text")
    assert window_limit(chunked) is None
    chunked.config.attention_chunk_size = WINDOW
    assert window_limit(chunked) == WINDOW
    with pytest.raises(UserError, match="a sliding window of 6 positions, of a kind that an explicit mask would"):
        token_logprobs(chunked, collate(some_layouts()).to(DEVICE))
    other = family("llama").model  # reads no such key
    other.config.sliding_window = WINDOW
    assert window_limit(other) == WINDOW
