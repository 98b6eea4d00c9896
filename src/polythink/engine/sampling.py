"""Sampling tokens: one random stream per branch, so that a branch does not depend on what else is in the batch.

Axis legend: N branches, V vocabulary.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from polythink.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(seed: int, problem: str, sample: int, segment: int) -> int:
    """The 64-bit name of a branch's random stream."""
    name = f"{seed}\x1f{problem}\x1f{sample}\x1f{segment}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(N,) float64 in [0, 1): the `indices`-th number of each stream (SplitMix64, counter form; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    uniform: torch.Tensor,
    top_p: float | np.ndarray = 1.0,
    top_k: int | np.ndarray = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N,) and their log-probabilities (N,) from `logits` (N, V), `temperature` (N,), `uniform` (N,) float64.

    Inverse CDF in vocabulary order; temperature 0 takes the arg max. `top_p` and `top_k` lie on the host: one number
    for all, or (N,). The log-probability is that of the full softmax at the branch's temperature (at 1 under greedy
    decoding), before top-k and top-p: it is what a trainer can recompute. `UserError` for logits that are not finite.
    """
    if not torch.isfinite(logits).all():
        raise UserError(
            "the model returned logits that are not finite: its weights have diverged or its dtype overflows; "
            "go back to an earlier checkpoint and lower the learning rate, or load it as bfloat16 or float32"
        )
    greedy = temperature == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    logprobs = scaled.log_softmax(-1)
    probs = _truncate(logprobs.exp(), np.asarray(top_p), np.asarray(top_k)).double()
    cdf = probs.cumsum(-1)
    token = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True)[:, 0]
    # rounding can push the search past the last token of non-zero probability
    last = probs.shape[1] - 1 - (probs.flip(-1) > 0).int().argmax(-1)
    token = torch.where(greedy, scaled.argmax(-1), torch.minimum(token, last))
    return token, logprobs.gather(-1, token[:, None])[:, 0]


def _truncate(probs: torch.Tensor, top_p: np.ndarray, top_k: np.ndarray) -> torch.Tensor:
    """Zero what is outside the `top_k` most probable tokens and outside the smallest set of mass `top_p`.

    No branch pays for a sort unless one of them truncates, and one that does not keeps its probabilities exactly.
    """
    vocabulary = probs.shape[1]
    top_k = np.where(top_k > 0, top_k, vocabulary)
    if (top_p >= 1).all() and (top_k >= vocabulary).all():
        return probs
    p, k = (torch.from_numpy(np.atleast_1d(x))[:, None].to(probs.device) for x in (top_p.astype(np.float32), top_k))
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    keep = (ordered.cumsum(-1) - ordered < p) | (p >= 1)
    keep &= torch.arange(vocabulary, device=probs.device) < k
    return torch.zeros_like(probs).scatter_(-1, order, ordered * keep)
