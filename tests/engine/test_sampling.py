"""Random streams and the draw itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polythink.engine import sampling, truncation
from polythink.engine.reference_draw import exact_draw
from polythink.engine.sampling import check_finite, draw, sample, stream_key, uniforms, uniforms_on_device
from polythink.errors import UserError

MARGIN = 1e-6  # nearer to the edge of a token's cell than this, rounding decides


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
        signed = torch.full((50,), key, dtype=torch.uint64).view(torch.int64)
        assert uniforms_on_device(signed, torch.arange(50)).tolist() == mine.tolist()


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
        token, logprob, _ = draw(logits.expand(n, -1), torch.full((n,), temperature), uniform)
        expected = (logits[0] / temperature).softmax(-1)
        assert torch.allclose(torch.bincount(token, minlength=7) / n, expected, atol=1e-3)
        assert torch.allclose(logprob, expected.log()[token], atol=1e-6)


@pytest.mark.parametrize(("top_p", "top_k", "kept"), [(1.0, 2, 2), (0.6, 0, 2), (0.4, 0, 1), (0.96, 3, 3)])
def test_truncation(top_p, top_k, kept):
    logits = torch.tensor([[0.45, 0.3, 0.2, 0.05]]).log().expand(1000, -1)
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    token, logprob, _ = draw(logits, torch.ones(1000), uniform, top_p, top_k)
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
        assert (together[0][i], together[1][i]) == alone[:2]


def test_greedy_and_the_last_token():
    logits = torch.tensor([[0.0, 3.0, 1.0, -1e9]])
    token, logprob, _ = draw(logits, torch.zeros(1), torch.tensor([0.0], dtype=torch.float64))
    assert token.item() == 1
    assert logprob.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())
    token, _, _ = draw(logits, torch.ones(1), torch.tensor([1.0 - 2**-53], dtype=torch.float64))
    assert token.item() == 2  # never one of probability zero


def cases(rows: int, vocabulary: int, seed: int = 0) -> tuple:
    """Logits, temperatures, uniform numbers, top_p and top_k of branches, each with its own."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, rng.choice([0.1, 3, 8], (rows, 1)), (rows, vocabulary)).astype(np.float32)
    uniform = np.concatenate(([0.0, 1 - 2.0**-53], rng.random(rows)))[:rows]
    temperature = rng.choice([0.0, 0.3, 1.0, 1.0, 2.5], rows).astype(np.float32)
    return logits, temperature, uniform, rng.choice([1.0, 1.0, 0.95, 0.3], rows), rng.choice([0, 0, 1, 20], rows)


def agree(logits, temperature, uniform, top_p, top_k) -> int:
    """Check a draw of all branches against the slow twin's of each; returns how many tokens rounding decided."""
    columns = (torch.from_numpy(column) for column in (logits, temperature, uniform))
    tokens, logprobs, finite = draw(*columns, top_p, top_k)
    assert finite.all()
    near = 0
    for *case, token, logprob in zip(logits, temperature, uniform, top_p, top_k, tokens, logprobs, strict=True):
        expected, at, margin = exact_draw(*case)
        if margin < MARGIN:
            near += 1
        else:
            assert (int(token), float(logprob)) == (expected, pytest.approx(at, abs=1e-5))
    return near


@pytest.mark.parametrize("vocabulary", [1, 2, 60, 1024, 1025, 3000, 20_000])
def test_draws_agree_with_the_slow_twin(vocabulary):
    """Tokens are equal unless the draw is within 1e-6 of another one; log-probabilities to 1e-5."""
    near = sum(agree(*cases(40, vocabulary, seed)) for seed in range(3))
    assert near <= 3, "rounding decides rarely"


def test_rows_that_are_worked_on_together_do_not_matter(monkeypatch):
    logits, temperature, uniform, *limits = cases(23, 1500)
    columns = [torch.from_numpy(column) for column in (logits, temperature, uniform)]
    together = draw(*columns, *limits)
    monkeypatch.setattr(sampling, "AT_ONCE", 4000)
    for whole, parts in zip(together, draw(*columns, *limits), strict=True):
        assert torch.equal(whole, parts)


def test_half_precision_is_drawn_from_as_its_numbers_are():
    logits, temperature, uniform, *limits = cases(30, 3000)
    half = torch.from_numpy(logits).bfloat16()
    columns = torch.from_numpy(temperature), torch.from_numpy(uniform)
    for a, b in zip(draw(half, *columns, *limits), draw(half.float(), *columns, *limits), strict=True):
        assert torch.equal(a, b)
    assert agree(half.float().numpy(), temperature, uniform, np.ones(30), np.zeros(30, int)) <= 3


@pytest.mark.parametrize("search", [truncation.by_sorting, truncation.by_candidates, truncation.by_bisection])
@pytest.mark.parametrize("ties", [False, True])
def test_where_a_distribution_is_truncated(search, ties):
    """The last token kept is that of the definition, with ties in the order of the vocabulary, and for 0.0 and -0.0."""
    logits = cases(60, 700)[0]
    logits = np.round(logits) if ties else logits
    rng = np.random.default_rng(1)
    top_p, top_k = rng.choice([1.0, 0.9, 0.5, 0.01], 60), rng.choice([700, 300, 17, 1], 60)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    last = search(*map(torch.from_numpy, (logits, weights, top_p, top_k)))
    for x, own, p, k, found in zip(logits, weights.astype(float), top_p, top_k, last.tolist(), strict=True):
        order = np.argsort(-x, kind="stable")
        before = np.cumsum(own[order]) - own[order]
        kept = min(k, int((before < p * own.sum()).sum()) if p < 1 else k)
        assert found == order[kept - 1]
        within = truncation.within(torch.from_numpy(x)[None], torch.tensor([found]))[0]
        assert set(within.nonzero()[:, 0].tolist()) == set(order[:kept].tolist())


def test_large_vocabularies_look_for_candidates():
    assert truncation.FEW < 3000
    logits, temperature, uniform, *_ = cases(30, 3000)
    assert agree(logits, temperature, uniform, np.full(30, 0.9), np.zeros(30, int)) <= 1
    assert agree(logits, temperature, uniform, np.full(30, 0.9), np.full(30, 50)) <= 1


def test_a_sample_is_a_draw_with_the_numbers_of_its_streams():
    logits, temperature, *_ = map(torch.from_numpy, cases(12, 40))
    key = np.array([stream_key(0, "p", i, 1) for i in range(12)], np.uint64)
    count = np.arange(12, dtype=np.uint64)
    sampled = sample(logits, temperature, *(torch.from_numpy(x.view(np.int64)) for x in (key, count)), 0.9)
    for a, b in zip(sampled, draw(logits, temperature, torch.from_numpy(uniforms(key, count)), 0.9), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("vocabulary", [20, 3000])
@pytest.mark.parametrize("limits", [(1.0, 0), (0.9, 0), (1.0, 5)])
def test_what_is_not_finite_is_flagged_alone(vocabulary, limits):
    """The flag travels with the tokens; other branches of the step do not see it."""
    logits, temperature, uniform, *_ = cases(7, vocabulary)
    clean = [torch.from_numpy(x) for x in (logits, temperature, uniform)]
    spoilt = clean[0].clone()
    spoilt[1, 3], spoilt[2, -1], spoilt[4, 0], spoilt[5] = float("nan"), float("inf"), -float("inf"), float("nan")
    spoilt[6, 2] = torch.finfo(torch.float32).min  # what masks write: finite
    finite = [True, False, False, True, False, False, True]
    token, logprob, flags = draw(spoilt, *clean[1:], *limits)
    assert flags.tolist() == finite
    expected = draw(clean[0], *clean[1:], *limits)
    for i in (0, 3):
        assert (token[i], logprob[i]) == (expected[0][i], expected[1][i])
    with pytest.raises(UserError, match="not finite"):
        check_finite(flags.numpy())
    check_finite(flags.numpy()[:1])
