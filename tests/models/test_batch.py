"""Rung 4 of the parity ladder: what a layout says inside one masked forward is what plain causal calls give.

The naive side never touches the layout code: it is made of token lists, ordinary causal forwards without any mask, and,
where several paths are joined, keys and values laid side by side by hand.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from helpers.device import DEVICE, collate, tensor
from helpers.layouts import TOLERANCE, VOCABULARY, block_of, draw, piece, plain_logits, some_layouts
from polythink.models.batch import pack, to_multiple
from polythink.models.forward import cache_argument
from polythink.models.logprobs import masked_logits, token_logprobs
from polythink.trace.layout import Piece, lay_out


def layout_logits(model, pieces: list[Piece], mode: str = "structured") -> torch.Tensor:
    with torch.no_grad():
        return masked_logits(model, collate([lay_out(pieces, mode)]))[0]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    assert a.isfinite().all()
    return (a - b).abs().max().item()


@pytest.mark.parametrize("paths", [1, 2, 3, 8])
def test_a_path_inside_a_trace_is_that_path_alone(model, paths):
    rng = np.random.default_rng(paths)
    prompt, main = draw(rng, 6), draw(rng, 3)
    written, _, block = block_of(rng, 0, paths)
    logits = layout_logits(model, [piece("prompt", prompt), piece("main", main), *block])
    prefix = prompt + main
    start = len(prefix)
    assert difference(logits[:start], plain_logits(model, prefix)) < TOLERANCE
    for tokens in written:
        alone = plain_logits(model, prefix + tokens)[len(prefix) :]
        assert difference(logits[start : start + len(tokens)], alone) < TOLERANCE
        start += len(tokens)


def test_one_path_and_its_join_read_as_plain_text(model):
    rng = np.random.default_rng(0)
    _, _, first = block_of(rng, 0, 1)
    _, _, second = block_of(rng, 1, 1)
    pieces = [piece("prompt", draw(rng, 5)), piece("main", draw(rng, 2)), *first,
              piece("main", draw(rng, 3)), *second, piece("main", draw(rng, 4))]  # fmt: skip
    flat = [t for p in pieces for t in p.tokens]
    assert difference(layout_logits(model, pieces), plain_logits(model, flat)) < TOLERANCE
    assert difference(layout_logits(model, pieces, "sequential"), plain_logits(model, flat)) < TOLERANCE


def test_sequential_mode_reads_as_plain_text_whatever_the_paths(model):
    rng = np.random.default_rng(1)
    _, _, block = block_of(rng, 0, 3)
    pieces = [piece("prompt", draw(rng, 5)), piece("main", draw(rng, 2)), *block, piece("main", draw(rng, 3))]
    flat = [t for p in pieces for t in p.tokens]
    assert difference(layout_logits(model, pieces, "sequential"), plain_logits(model, flat)) < TOLERANCE


class ByHand:
    """Forks and joins keys and values by hand: a state is (cache, next position)."""

    def __init__(self, model) -> None:
        self.model = model

    def read(self, state, ids: list[int]):
        """Read ids after a state, all of which they attend: (logits, state after them)."""
        keys, position = state
        cache = DynamicCache()
        for layer, (k, v) in enumerate(keys):
            cache.update(k, v, layer)
        before = keys[0][0].shape[2] if keys else 0
        n = len(ids)
        causal = torch.ones(n, before + n, dtype=torch.bool, device=DEVICE).tril(before)
        with torch.no_grad():
            out = self.model(
                input_ids=tensor([ids]), attention_mask=causal[None, None], use_cache=True,
                position_ids=tensor([range(position, position + n)]), **{cache_argument(self.model): cache},
            )  # fmt: skip
        after = [(layer.keys, layer.values) for layer in cache.layers]
        return out.logits[0], (after, position + n)

    @staticmethod
    def join(fork, ends):
        """The state that holds the fork's keys once and each end's own keys after them, after the longest end."""
        before = fork[0][0][0].shape[2]
        layers = [
            tuple(
                torch.cat([fork[0][layer][i], *(end[0][layer][i][:, :, before:] for end in ends)], dim=2)
                for i in (0, 1)
            )
            for layer in range(len(fork[0]))
        ]
        return layers, max(position for _, position in ends)

    def block(self, state, written, summary):
        read = [self.read(state, tokens) for tokens in written]
        logits, after = self.read(self.join(state, [end for _, end in read]), summary)
        return torch.cat([*(path for path, _ in read), logits]), after


@pytest.mark.parametrize("paths", [2, 3, 8])
def test_several_blocks_equal_keys_and_values_joined_by_hand(model, paths):
    rng = np.random.default_rng(10 + paths)
    by_hand = ByHand(model)
    prompt, tail = draw(rng, 5), draw(rng, 4)
    pieces, state = [piece("prompt", prompt)], ([], 0)
    logits, state = by_hand.read(state, prompt)
    expected = [logits]
    for number in range(3):
        main = draw(rng, 2)
        logits, state = by_hand.read(state, main)
        expected.append(logits)
        written, summary, block = block_of(rng, number, paths)
        logits, state = by_hand.block(state, written, summary)
        expected.append(logits)
        pieces += [piece("main", main), *block]
    logits, state = by_hand.read(state, tail)
    pieces.append(piece("main", tail))
    layout = lay_out(pieces, "structured")
    assert layout.position.max() + 1 == state[1]
    assert difference(layout_logits(model, pieces), torch.cat([*expected, logits])) < TOLERANCE


def nested_pieces(rng):
    """Path 1 of block 0 holds block 1 with two paths and goes on after it; path 2 is a plain sibling."""
    prompt, main, head, inner_1, inner_2, inner_summary, rest, sibling, summary, tail = (
        draw(rng, n) for n in (5, 2, 3, 4, 2, 3, 2, 6, 3, 2)
    )
    pieces = [
        piece("prompt", prompt), piece("main", main),
        piece("path", head, 0, 1), piece("path", inner_1, 1, 1), piece("path", inner_2, 1, 2),
        piece("summary", inner_summary, 1), piece("path", rest, 0, 1),
        piece("path", sibling, 0, 2), piece("summary", summary, 0), piece("main", tail),
    ]  # fmt: skip
    return pieces, [p.tokens for p in pieces]


def test_nested_blocks(model):
    pieces, parts = nested_pieces(np.random.default_rng(3))
    prompt, main, head, inner_1, inner_2, inner_summary, rest, sibling, summary, tail = map(list, parts)
    logits = layout_logits(model, pieces)
    spans = np.cumsum([0, *map(len, parts)])
    prefix = prompt + main
    for index, plain in ((3, prefix + head + inner_1), (4, prefix + head + inner_2), (7, prefix + sibling)):
        alone = plain_logits(model, plain)[-len(parts[index]) :]
        assert difference(logits[spans[index] : spans[index + 1]], alone) < TOLERANCE
    by_hand = ByHand(model)
    _, fork = by_hand.read(([], 0), prefix)
    _, inner_fork = by_hand.read(fork, head)
    _, joined = by_hand.block(inner_fork, [inner_1, inner_2], inner_summary)
    rest_logits, path_1 = by_hand.read(joined, rest)
    assert difference(logits[spans[6] : spans[7]], rest_logits) < TOLERANCE
    _, path_2 = by_hand.read(fork, sibling)
    after, _ = by_hand.read(by_hand.join(fork, [path_1, path_2]), summary + tail)
    assert difference(logits[spans[8] :], after) < TOLERANCE


def leak(layout):
    """Path 2 sees path 1."""
    sees = layout.sees.copy()
    sees[3, 2] = True
    return dataclasses.replace(layout, sees=sees)


def flat_positions(layout):
    return dataclasses.replace(layout, position=np.arange(len(layout), dtype=np.int32))


def blind(layout):
    """Path 2 does not see the main text it follows."""
    sees = layout.sees.copy()
    sees[3, 1] = False
    return dataclasses.replace(layout, sees=sees)


@pytest.mark.parametrize("spoil", [leak, flat_positions, blind])
def test_a_wrong_table_is_caught(model, spoil):
    rng = np.random.default_rng(4)
    prompt, main = draw(rng, 6), draw(rng, 3)
    written, _, block = block_of(rng, 0, 2)
    layout = lay_out([piece("prompt", prompt), piece("main", main), *block], "structured")
    with torch.no_grad():
        logits = masked_logits(model, collate([spoil(layout)]))[0]
    start = len(prompt) + len(main) + len(written[0])
    alone = plain_logits(model, prompt + main + written[1])[-len(written[1]) :]
    assert difference(logits[start : start + len(written[1])], alone) > 0.1


def test_a_batch_of_eight_is_eight_batches_of_one(model):
    layouts = some_layouts()
    with torch.no_grad():
        together = token_logprobs(model, collate(layouts, pad_id=VOCABULARY - 1))
        alone = [token_logprobs(model, collate([layout]))[0] for layout in layouts]
    assert len({len(layout) for layout in layouts}) > 3, "padding must be at work"
    for row, one, layout in zip(together, alone, layouts, strict=True):
        assert (row[: len(layout)] - one).abs().max() < TOLERANCE
        assert (row[len(layout) :] == 0).all()


def test_rows_padded_to_a_multiple_are_the_same_rows(model):
    """What padding holds reaches no other token."""
    batch = collate(some_layouts())
    width = batch.tokens.shape[1]
    wide = to_multiple(batch, width - 1)  # never a multiple already
    assert wide.tokens.shape[1] == 2 * (width - 1)
    assert not wide.real[:, width:].any()
    assert (wide.previous[:, width:] == -1).all()
    with torch.no_grad():
        found = masked_logits(model, wide)
        expected = masked_logits(model, batch)
    assert found.isfinite().all()
    assert difference(found[:, :width][batch.real], expected[batch.real]) < TOLERANCE
    assert to_multiple(wide, width - 1) is wide


def test_packed_is_padded(model):
    layouts = some_layouts()
    with torch.no_grad():
        padded = token_logprobs(model, collate(layouts))
        packed = token_logprobs(model, collate([pack(layouts[:5]), pack(layouts[5:])]))
    rows = [torch.cat([padded[i, : len(layouts[i])] for i in span]) for span in (range(5), range(5, 8))]
    for row, expected in zip(packed, rows, strict=True):
        assert (row[: len(expected)] - expected).abs().max() < TOLERANCE


def test_packing_keeps_every_table_within_its_own_trace():
    layouts = some_layouts(3)
    packed = pack(layouts)
    owner = np.repeat(np.arange(3), [len(x) for x in layouts])
    assert not packed.may_attend()[owner[:, None] != owner[None, :]].any()
    firsts = packed.previous < 0
    assert firsts.sum() == 3
    assert (owner[packed.previous[~firsts]] == owner[~firsts]).all()
    for s, before in enumerate(packed.follows):
        assert all(packed.sees[s, f] for f in before)


def test_padding_holds_no_nan_and_has_no_gradient(model):
    layouts = some_layouts()
    batch = collate(layouts, pad_id=0)
    assert batch.mask.any(dim=-1).all(), "a row that attends nothing becomes NaN"
    assert not (batch.mask[:, 0] & batch.real[:, :, None] & ~batch.real[:, None, :]).any()
    loss = {}
    for pad_id in (0, 7):
        model.zero_grad()
        token_logprobs(model, collate(layouts, pad_id=pad_id)).sum().backward()
        loss[pad_id] = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(loss[0], loss[7], strict=True))


def test_batch_says_what_is_response_and_what_is_sampled():
    layout = lay_out([Piece("prompt", (1, 2), (False, False)), Piece("main", (3, 4), (True, False))], "structured")
    batch = collate([layout, lay_out([Piece("prompt", (1,), (False,)), Piece("main", (2,), (True,))], "structured")])
    assert batch.response.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.sampled.tolist() == [[False, False, True, False], [False, True, False, False]]
    assert batch.real.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.previous.tolist() == [[-1, 0, 1, 2], [-1, 0, -1, -1]]
