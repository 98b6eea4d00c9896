"""Weights for tokens that were sampled from another policy than the one that is trained.

Engine and trainer hold the same weights, yet their log-probabilities differ: by rounding in bfloat16, by more in a mode
that is not exact. The gradient of the trained policy is then an expectation under it, of tokens from the other one;
the ratio of the two probabilities corrects for that, and a bound keeps its variance finite. The modes and their names
are those of TRL's GRPO: a ratio for each token or for the whole sequence (the product over its tokens), and what is
beyond the bound is truncated to it (Ionides 2008) or left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RATIOS = ("importance_ratio_mean", "importance_ratio_max", "importance_clipped")
MAX_LOG_RATIO = 20.0  # of a sequence: exp() would overflow beyond some hundreds


def importance_weights(
    trained: np.ndarray, drawn: np.ndarray, mode: str, clip_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N,) of a sequence's sampled tokens, and their ratios (N,) before the bound; float64.

    `trained`, `drawn`: log-probabilities (N,) of the trainer and of the engine. `mode`: token_truncate, token_mask,
    sequence_truncate or sequence_mask.
    """
    level, beyond = mode.split("_")
    log_ratio = trained.astype(np.float64) - drawn
    if level == "sequence":
        log_ratio = np.full_like(log_ratio, log_ratio.sum())
    ratio = np.exp(log_ratio.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    bound = {"truncate": clip_max, "mask": 0.0}[beyond]
    return np.where(ratio > clip_max, bound, ratio), ratio


def ratio_metrics(ratios: Sequence[np.ndarray], clip_max: float) -> dict[str, float]:
    """Over all sampled tokens: mean and largest ratio, and the share beyond the bound (truncated or left out)."""
    ratio = np.concatenate(ratios)
    found = (ratio.mean(), ratio.max(), (ratio > clip_max).mean())
    return dict(zip(RATIOS, map(float, found), strict=True))
