"""The maths of the two losses, as pure functions on tensors: advantages, the clipped objective, weights, divergence.

Axis legend: P problems, G samples of a group, N scored tokens (any shape), S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from polythink.train.config import LossType

MAX_LOG_RATIO = 20.0  # beyond it the ratio is clipped anyway, and exp() would overflow


def group_advantages(
    reward_PG: torch.Tensor,
    scale_rewards: bool = True,
    negative_scale: float = 1.0,
    epsilon: float = 1e-6,
    graded_PG: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages (P, G) against the group mean, and (P,) bool: groups whose rewards are all equal (advantages 0).

    GRPO (arXiv 2402.03300, eq. 4) divides by the group's standard deviation (of the sample, G - 1); Dr. GRPO (arXiv
    2503.20783) does not. Negative advantages are then multiplied by `negative_scale`. Samples that `graded_PG` (P, G)
    bool marks False have no reward: they enter neither mean nor deviation, and their advantage is 0. A group with fewer
    than two others has nothing to compare, and counts as one whose rewards are all equal.
    """
    assert reward_PG.shape[1] > 1, "a group needs at least two samples"
    advantage_PG = reward_PG - reward_PG.mean(dim=1, keepdim=True)
    zero_spread_P = reward_PG.amax(dim=1) == reward_PG.amin(dim=1)
    if scale_rewards:
        advantage_PG = advantage_PG / (reward_PG.std(dim=1, keepdim=True) + epsilon)
    advantage_PG = torch.where(advantage_PG < 0, negative_scale * advantage_PG, advantage_PG)
    advantage_PG = advantage_PG.masked_fill(zero_spread_P[:, None], 0.0)
    whole_P = [True] * len(reward_PG) if graded_PG is None else graded_PG.all(dim=1).tolist()
    for p in [p for p, whole in enumerate(whole_P) if not whole]:
        own = graded_PG[p]
        advantage_PG[p], zero_spread_P[p] = 0.0, True
        if own.sum() > 1:
            among = group_advantages(reward_PG[p, own][None], scale_rewards, negative_scale, epsilon)
            advantage_PG[p, own], zero_spread_P[p] = among[0][0], among[1][0]
    return advantage_PG, zero_spread_P


def policy_loss(
    new: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (N,) of each token, and (N,) bool: tokens whose gradient the clip set to zero.

    max(-r A, -clip(r, 1 - low, 1 + high) A) with r = exp(new - old) (PPO, arXiv 1707.06347, eq. 7; two bounds as in
    DAPO, arXiv 2503.14476). Where A < 0 a `dual_clip` c > 1 bounds it by -c A (arXiv 1912.09729).
    """
    ratio = (new - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -ratio * advantage
    bounded = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        ceiling = torch.where(advantage < 0, -dual_clip * advantage, torch.inf)
        loss, clipped = torch.minimum(loss, ceiling), clipped | (loss > ceiling)
    return loss, clipped


def k3_divergence(new: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(N,) estimate of KL(new || reference) from tokens drawn from `new`: exp(d) - d - 1 with d = reference - new.

    Never negative, and unbiased on policy (Schulman, "Approximating KL divergence"; the KL term of GRPO).
    """
    d = (reference - new).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def sequence_weights(
    tokens_S: Sequence[int], loss_type: LossType, total: Callable[[float], float] = float
) -> list[float]:
    """Weight of each token, per sequence, so that a batch's loss is the plain sum of weight x loss over tokens.

    `tokens_S` counts the scored tokens of each sequence. `token-mean`: every token of the batch weighs the same.
    `sequence-mean`: every sequence that has tokens weighs the same. Weights are fixed for the whole batch before it is
    divided into micro-batches, so the division does not change the result. `total` sums a number over processes.
    """
    if loss_type == "token-mean":
        tokens = total(sum(tokens_S))
        return [1.0 / tokens if tokens else 0.0] * len(tokens_S)
    assert loss_type == "sequence-mean", loss_type
    sequences = total(sum(n > 0 for n in tokens_S))
    return [1.0 / (sequences * n) if n else 0.0 for n in tokens_S]
