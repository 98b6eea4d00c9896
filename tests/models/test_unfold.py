"""Traces as plain rows, for models that do not heed masks: compared with each chain run alone, and with masked rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers.device import DEVICE, collate, tensor
from helpers.layouts import block_of, draw, piece
from helpers.recurrent import FAMILIES, hybrid
from helpers.sweep import sweep
from helpers.tiny import family
from polythink.errors import UserError
from polythink.models import forward, logprobs
from polythink.models.batch import Batch, pack
from polythink.models.forward import heeds_masks
from polythink.models.logprobs import token_logprobs
from polythink.models.unfold import unfold
from polythink.trace.layout import Layout, lay_out

TOLERANCE = 1e-5
WORDS = 12  # token ids that every tiny model has


def layouts(mode: str, paths=(1, 2, 3, 8)) -> list[Layout]:
    """One trace for each number of paths, with two blocks of that many."""
    found = []
    for seed, count in enumerate(paths):
        rng = np.random.default_rng(seed)
        blocks = [block_of(rng, b, count)[2] for b in (0, 1)]
        pieces = [piece("prompt", draw(rng, 4)), piece("main", draw(rng, 2)), *blocks[0], piece("main", draw(rng, 3))]
        pieces += [*blocks[1], piece("main", draw(rng, 2))]
        small = [dataclasses.replace(p, tokens=tuple(3 + t % (WORDS - 3) for t in p.tokens)) for p in pieces]
        found.append(lay_out(small, mode))
    return found


def chains(layout: Layout) -> list[list[int]]:
    """The chain of every token, by walking its predecessors one by one."""
    found = []
    for token in range(len(layout)):
        chain = [token]
        while layout.previous[chain[0]] >= 0:
            chain.insert(0, int(layout.previous[chain[0]]))
        found.append(chain)
    return found


def by_hand(model, layout: Layout) -> torch.Tensor:
    """Log-probabilities (T,): each token's chain run alone, one forward for each token."""
    found = torch.zeros(len(layout), device=DEVICE)
    for token, chain in enumerate(chains(layout)):
        if len(chain) > 1:
            ids = tensor([[int(layout.tokens[t]) for t in chain[:-1]]])
            logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
            found[token] = logits.log_softmax(-1)[int(layout.tokens[token])]
    return found


@pytest.mark.parametrize(
    ("name", "mode"),
    sweep(
        [(name, mode) for name in FAMILIES for mode in ("sequential", "reread")],
        [*((name, "reread") for name in FAMILIES), ("qwen3_next", "sequential")],
    ),
)
def test_each_token_is_scored_as_in_its_chain_run_alone(name, mode):
    model = hybrid(name).model
    if name == "mamba":  # in float32 its own scan rounds by up to 1e-4, and not alike for rows of other lengths
        model = model.double()
    assert not heeds_masks(model)
    wanted = layouts(mode, (1, 2))
    with torch.no_grad():
        found = token_logprobs(model, collate(wanted))
        for row, layout in zip(found, wanted, strict=True):
            assert (row[: len(layout)] - by_hand(model, layout)).abs().max() < TOLERANCE
            assert (row[len(layout) :] == 0).all()


@pytest.mark.parametrize("mode", ["sequential", "reread"])
def test_gradients_are_those_of_the_sum_over_plain_rows(mode):
    """With one row for each last token of a chain, tokens before a fork have one gradient from each row."""
    model = hybrid("qwen3_next").model
    (layout,) = layouts(mode, (2,))
    token_logprobs(model, collate([layout]), wanted=collate([layout]).sampled).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    every, scored = chains(layout), set()
    for token in [t for t in range(len(layout)) if t not in layout.previous]:
        chain = every[token]
        table = model(input_ids=tensor([[int(layout.tokens[t]) for t in chain]]), use_cache=False).logits[0]
        for place, t in enumerate(chain):
            if layout.sampled[t] and t not in scored:
                scored.add(t)
                table.log_softmax(-1)[place - 1, int(layout.tokens[t])].backward(retain_graph=True)
    assert scored == set(np.flatnonzero(layout.sampled).tolist())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(found[name], p.grad, atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("mode", ["sequential", "reread"])
def test_plain_rows_and_masked_rows_agree_for_ordinary_attention(name, mode, monkeypatch):
    model = family(name, head_dim=8, n_positions=256).model
    assert heeds_masks(model)
    batch = collate(layouts(mode))
    temperature = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE) + 0.5
    with torch.no_grad():
        masked = token_logprobs(model, batch, temperature)
        monkeypatch.setattr(logprobs, "heeds_masks", lambda model: False)
        plain = token_logprobs(model, batch, temperature)
        some = token_logprobs(model, batch, temperature, wanted=batch.sampled)
    assert masked.abs().max() > 1
    assert (masked - plain).abs().max() < 1e-4
    assert (some - plain)[batch.sampled].abs().max() < 1e-4
    assert (some[~batch.sampled] == 0).all()


def test_packed_traces_are_rows_of_their_own(model, monkeypatch):
    batch = collate([pack(layouts("reread", (2, 3)))])
    with torch.no_grad():
        masked = token_logprobs(model, batch)
        monkeypatch.setattr(logprobs, "heeds_masks", lambda model: False)
        assert (token_logprobs(model, batch) - masked).abs().max() < 1e-4


def rows_of(batch: Batch, wanted: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, tokens = (wanted & (batch.previous >= 0)).nonzero(as_tuple=True)
    at = batch.previous[rows, tokens]
    return unfold(None, batch, rows.cpu().numpy(), at.cpu().numpy())


def test_rows_are_as_few_and_as_short_as_the_wanted_tokens_allow():
    (layout,) = layouts("sequential", (3,))
    source, chain_of, place = rows_of(collate([layout]), collate([layout]).real)
    assert source.tolist() == [list(range(len(layout) - 1))]  # the last token is scored, and followed by none
    assert (chain_of == 0).all()
    (layout,) = layouts("reread", (3,))
    batch = collate([layout])
    source, chain_of, place = rows_of(batch, batch.real)
    assert len(source) == 2 * 3 + 1  # a row for each path, and one that reads the copies
    flat = batch.tokens.flatten()
    assert (flat[source[chain_of, place]] == batch.tokens[0, batch.previous[0, 1:]].cpu()).all()
    first = torch.zeros_like(batch.real)
    first[0, :6] = True  # prompt and main text before the first fork
    source, _, _ = rows_of(batch, first)
    assert source.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2"])
def test_a_join_of_several_paths_is_refused(name):
    model = hybrid(name).model
    with pytest.raises(UserError, match=r"use mode: reread .* or mode: sequential"):
        token_logprobs(model, collate(layouts("structured", (2,))))
    with torch.no_grad():  # one path after another is a plain text in every mode
        one, flat = (token_logprobs(model, collate(layouts(mode, (1,)))) for mode in ("structured", "sequential"))
    assert (one - flat).abs().max() < TOLERANCE


def test_paths_that_are_set_apart_in_position_are_refused():
    layout = layouts("reread", (2,))[0]
    apart = dataclasses.replace(layout, position=layout.position + 20 * (layout.segment == 3))
    with pytest.raises(UserError, match="set path_position_stride: 0"):
        token_logprobs(hybrid("qwen3_next").model, collate([apart]))


def test_the_probe_leaves_the_model_and_the_random_numbers_as_they_were():
    model = family("gpt2", n_positions=64, resid_pdrop=0.5).model.train()
    state, forward._HEEDS = torch.random.get_rng_state(), type(forward._HEEDS)()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):  # in which the two forwards would differ by rounding
        assert heeds_masks(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_a_model_that_ignores_positions_is_not_taken_for_one_that_heeds_them():
    model = family("llama").model
    rotary = model.model.rotary_emb
    plain = rotary.forward
    rotary.forward = lambda x, position_ids: plain(x, torch.arange(x.shape[1], device=x.device)[None])
    assert not heeds_masks(model)
    (layout,) = layouts("reread", (2,))
    with torch.no_grad():  # as plain rows it is right all the same
        assert (token_logprobs(model, collate([layout]))[0] - by_hand(model, layout)).abs().max() < TOLERANCE
