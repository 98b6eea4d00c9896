"""Random streams and the draw itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polythink.engine.sampling import draw, stream_key, uniforms
from polythink.errors import UserError


def splitmix64(state: int, n: int) -> list[int]:
    """The generator as published, one number after another."""
    out, mask = [], (1 << 64) - 1
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_streams_are_splitmix64():
    keys = [0, 1, 2**64 - 1, 0x1234567890ABCDEF]
    for key in keys:
        mine = uniforms(np.full(50, key, np.uint64), np.arange(50, dtype=np.uint64))
        assert mine.tolist() == [(z >> 11) * 2.0**-53 for z in splitmix64(key, 50)]


def test_streams_are_uniform_and_unrelated():
    keys = np.array([stream_key(0, f"p{i}", 0, 1) for i in range(4000)], np.uint64)
    assert len(set(keys.tolist())) == 4000
    first = uniforms(keys, np.zeros(4000, np.uint64))
    second = uniforms(keys, np.ones(4000, np.uint64))
    assert abs(first.mean() - 0.5) < 0.02
    assert np.histogram(first, 10, (0, 1))[0].min() > 330
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert len({stream_key(*x) for x in [(0, "a", 1, 2), (0, "a", 2, 1), (0, "a1", 2, 1), (1, "a", 1, 2)]}) == 4


def test_draws_follow_the_distribution():
    torch.manual_seed(0)
    logits = torch.randn(1, 7)
    uniform = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1]
    n = len(uniform)
    for temperature in (1.0, 0.5, 2.0):
        token, logprob = draw(logits.expand(n, -1), torch.full((n,), temperature), uniform)
        expected = (logits[0] / temperature).softmax(-1)
        assert torch.allclose(torch.bincount(token, minlength=7) / n, expected, atol=1e-3)
        assert torch.allclose(logprob, expected.log()[token], atol=1e-6)


@pytest.mark.parametrize(("top_p", "top_k", "kept"), [(1.0, 2, 2), (0.6, 0, 2), (0.4, 0, 1), (0.96, 3, 3)])
def test_truncation(top_p, top_k, kept):
    logits = torch.tensor([[0.45, 0.3, 0.2, 0.05]]).log().expand(1000, -1)
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    token, logprob = draw(logits, torch.ones(1000), uniform, top_p, top_k)
    assert token.unique().tolist() == list(range(kept))
    assert torch.allclose(logprob, logits[0][token])  # of the full softmax: what a trainer can recompute


def test_every_branch_has_its_own_truncation():
    """And a branch that does not truncate is not touched by one that does."""
    torch.manual_seed(0)
    logits, uniform = torch.randn(50, 9), torch.rand(50, dtype=torch.float64)
    own = [(1.0, 0), (0.6, 0), (1.0, 2), (0.8, 4), (1.0, 20)]
    top_p, top_k = (np.array(column * 10) for column in zip(*own, strict=True))
    together = draw(logits, torch.ones(50), uniform, top_p, top_k)
    for i, (p, k) in enumerate(own * 10):
        alone = draw(logits[i : i + 1], torch.ones(1), uniform[i : i + 1], p, k)
        assert (together[0][i], together[1][i]) == alone


def test_greedy_and_the_last_token():
    logits = torch.tensor([[0.0, 3.0, 1.0, -1e9]])
    token, logprob = draw(logits, torch.zeros(1), torch.tensor([0.0], dtype=torch.float64))
    assert token.item() == 1
    assert logprob.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())
    token, _ = draw(logits, torch.ones(1), torch.tensor([1.0 - 2**-53], dtype=torch.float64))
    assert token.item() == 2  # never one of probability zero


def test_not_a_number_is_not_drawn_from():
    with pytest.raises(UserError, match="not finite"):
        draw(torch.tensor([[0.0, float("nan")]]), torch.ones(1), torch.zeros(1, dtype=torch.float64))
