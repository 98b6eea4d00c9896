"""Importance weights by hand, and the keys that ask for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from polythink.train.config import PolicyConfig, sampled_inexactly
from polythink.train.importance import importance_weights, ratio_metrics

DRAWN = np.log([0.2, 0.4, 0.1])
TRAINED = np.log([0.4, 0.2, 0.4])  # ratios 2, 1/2, 4; of the sequence 4


@pytest.mark.parametrize(
    ("mode", "clip_max", "weights", "ratios"),
    [
        ("token_truncate", 3, [2, 0.5, 3], [2, 0.5, 4]),
        ("token_mask", 3, [2, 0.5, 0], [2, 0.5, 4]),
        ("token_mask", 1, [0, 0.5, 0], [2, 0.5, 4]),
        ("sequence_truncate", 3, [3, 3, 3], [4, 4, 4]),
        ("sequence_truncate", 5, [4, 4, 4], [4, 4, 4]),
        ("sequence_mask", 3, [0, 0, 0], [4, 4, 4]),
        ("sequence_mask", 5, [4, 4, 4], [4, 4, 4]),
    ],
)
def test_weights_by_hand(mode, clip_max, weights, ratios):
    found = importance_weights(TRAINED.astype(np.float32), DRAWN.astype(np.float32), mode, clip_max)
    assert found[0] == pytest.approx(weights, rel=1e-6)
    assert found[1] == pytest.approx(ratios, rel=1e-6)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_equal_policies_need_no_correction(mode):
    weights, ratios = importance_weights(DRAWN, DRAWN, mode, 1.0)
    assert weights.tolist() == ratios.tolist() == [1, 1, 1]


def test_a_long_sequence_does_not_overflow():
    weights, ratios = importance_weights(np.full(3000, -1.0), np.full(3000, -2.0), "sequence_truncate", 3.0)
    assert set(weights) == {3.0}
    assert set(ratios) == {math.exp(20)}
    weights, _ = importance_weights(np.full(3000, -2.0), np.full(3000, -1.0), "sequence_mask", 3.0)
    assert set(weights) == {math.exp(-20)}


def test_metrics_are_over_all_tokens():
    assert ratio_metrics([np.array([1.0, 4.0]), np.array([0.5])], 3.0) == {
        "importance_ratio_mean": pytest.approx(5.5 / 3),
        "importance_ratio_max": 4.0,
        "importance_clipped": pytest.approx(1 / 3),
    }


def test_the_ratio_is_corrected_once():
    """Against the engine's own log-probabilities, the clipped ratio is trainer / engine already."""
    assert PolicyConfig().importance_sampling_mode is None
    assert PolicyConfig(importance_sampling_mode="sequence_mask", old_logprobs="recomputed")
    with pytest.raises(ValidationError, match=r"with old_logprobs: engine the .* ratio holds that already; set"):
        PolicyConfig(importance_sampling_mode="sequence_mask")
    with pytest.raises(ValidationError, match="importance_sampling_mode"):
        PolicyConfig(importance_sampling_mode="tokens", old_logprobs="recomputed")


def test_what_coarse_arithmetic_makes_is_said():
    assert sampled_inexactly(1e-6) == sampled_inexactly(math.nan) == ""
    assert "off by 0.02 nats a token" in sampled_inexactly(0.02)
    assert sampled_inexactly(0.02).endswith("set old_logprobs: recomputed and an importance_sampling_mode")
    assert sampled_inexactly(0.02, "token_mask").endswith("importance_sampling_mode: token_mask corrects for it")
