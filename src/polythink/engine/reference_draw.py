"""The slow twin of a draw: one branch in float64, everything sorted and summed as the definition says it."""

from __future__ import annotations

import numpy as np

from polythink.engine.sampling import check_finite


def exact_draw(
    logits: np.ndarray, temperature: float, uniform: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[int, float, float]:
    """Token, log-probability, and margin, from `logits` (V,). `UserError` where they are not finite.

    The margin says how near it was: another uniform number, or other logits, with which another token is drawn differ
    by about so much at least. Two computations that agree to less must draw the same token.
    """
    check_finite(np.isfinite(logits))
    logits = logits.astype(np.float64)
    scaled = logits / (temperature or 1.0)
    top = scaled.max()
    logprobs = scaled - top - np.log(np.exp(scaled - top).sum())
    order = np.argsort(-logits, kind="stable")
    if temperature == 0:
        token = int(order[0])
        return token, float(logprobs[token]), float(-np.diff(logits[order[:2]])[0]) if len(order) > 1 else np.inf
    probs = np.exp(logprobs)
    before = np.cumsum(probs[order]) - probs[order]
    kept, margin = len(order), np.inf
    if top_p < 1:
        kept, margin = int((before < top_p).sum()), np.abs(before - top_p).min()
    if 0 < top_k < kept:
        kept = top_k
    if kept < len(order):
        margin = min(margin, logits[order[kept - 1]] - logits[order[kept]])
        probs[order[kept:]] = 0
    ends = np.cumsum(probs)
    ends /= ends[-1]
    token = int(np.searchsorted(ends, uniform, side="right"))
    begins = ends[token] - probs[token] / probs.sum()
    edges = [abs(uniform - edge) for edge in (begins, ends[token]) if 1e-15 < edge < 1 - 1e-15]
    return token, float(logprobs[token]), float(min([margin, *edges]))
