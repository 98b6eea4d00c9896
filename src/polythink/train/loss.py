"""The maths of the two losses, as pure functions on tensors: advantages, the clipped objective, weights, divergence.

Axis legend: P problems, G samples of a group, N scored tokens (any shape), S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polythink.errors import UserError
from polythink.train.config import LossType, PolicyConfig
from polythink.train.objectives import objective_of

MAX_LOG_RATIO = 20.0  # beyond it the ratio is clipped anyway, and exp() would overflow


def group_advantages(
    reward_PG: torch.Tensor,
    scale_rewards: bool | str = True,
    negative_scale: float = 1.0,
    epsilon: float = 1e-6,
    graded_PG: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages (P, G) against the group mean, and (P,) bool: groups whose rewards are all equal (advantages 0).

    GRPO (arXiv 2402.03300, eq. 4) divides by the group's standard deviation (of the sample, G - 1); Dr. GRPO (arXiv
    2503.20783) does not; MaxRL (arXiv 2602.02710) divides by the mean (`scale_rewards` "mean"), for which rewards must
    not be negative: `UserError`. Negative advantages are then multiplied by `negative_scale`. Samples that `graded_PG`
    (P, G) bool marks False have no reward: they enter neither mean nor deviation, and their advantage is 0. A group
    with fewer than two others has nothing to compare, and counts as one whose rewards are all equal.
    """
    assert reward_PG.shape[1] > 1, "a group needs at least two samples"
    advantage_PG = reward_PG - reward_PG.mean(dim=1, keepdim=True)
    zero_spread_P = reward_PG.amax(dim=1) == reward_PG.amin(dim=1)
    if scale_rewards == "mean":
        if reward_PG.min() < 0:
            raise UserError(
                f"scale_rewards: mean divides by a group's mean reward, which must not be negative: a reward was "
                f"{reward_PG.min():g}; take a reward from 0 up, such as gsm8k_accuracy (1 right, 0 wrong)"
            )
        advantage_PG = advantage_PG / (reward_PG.mean(dim=1, keepdim=True) + epsilon)
    elif scale_rewards:
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


def cispo_loss(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (N,) of each token, and (N,) bool: tokens whose weight was truncated. None loses its gradient.

    -sg(clip(r, 1 - low, 1 + high)) A log p, sg: held fixed (CISPO, arXiv 2506.13585, eq. 4 and 5).
    """
    ratio = (new.detach() - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantage * new, weight != ratio


def dppo_loss(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (N,) of each token, and (N,) bool: tokens that are masked, whose loss and gradient are 0.

    -r A where the token's probability p has not left the region, for it is then the total variation between "this
    token" and "any other" (DPPO, arXiv 2602.04879): masked are A > 0 with p - p_old > high, and A < 0 with
    p_old - p > low.
    """
    ratio = (new - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    moved = new.detach().exp() - old.exp()
    masked = ((advantage > 0) & (moved > clip_high)) | ((advantage < 0) & (-moved > clip_low))
    return (-ratio * advantage).masked_fill(masked, 0.0), masked


Pair = tuple[torch.Tensor, torch.Tensor]


def token_level(new: torch.Tensor, old: torch.Tensor, sampled: torch.Tensor) -> Pair:
    """The log-probabilities as they are: each token has the ratio of its own."""
    return new, old


def sequence_level(new: torch.Tensor, old: torch.Tensor, sampled: torch.Tensor) -> Pair:
    """Log-probabilities (S, T), new and old, whose ratio is that of the sequence, and their gradient the token's own.

    The sequence's ratio is the geometric mean over its `sampled` (S, T) tokens: GSPO, arXiv 2507.18071, eq. 7, in the
    form of its eq. 14 (s_t = sg(s) p_t / sg(p_t)), of which the mean over the tokens has the gradient of s.
    """
    change = ((new.detach() - old) * sampled).sum(dim=1, keepdim=True) / sampled.sum(dim=1, keepdim=True).clamp(min=1)
    return change + (new - new.detach()), torch.zeros_like(old)


RATIOS = {"token": token_level, "sequence": sequence_level}  # `Objective.level`
BOUNDS = {"clip": policy_loss, "truncate": cispo_loss, "mask": dppo_loss}  # `Objective.bound`


def objective_loss(
    config: PolicyConfig, new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, sampled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (S, T) of each token under the configured objective, entropy bonus included, and (S, T) bool: bounded ones.

    `new`, `old`: log-probabilities (S, T); `advantage` (S, 1) or (S, T). Only `sampled` (S, T) tokens mean anything.
    """
    objective = objective_of(config.objective)
    dual = {} if config.dual_clip is None else {"dual_clip": config.dual_clip}  # refused where nothing takes it
    pair = RATIOS[objective.level](new, old, sampled)
    loss, bounded = BOUNDS[objective.bound](*pair, advantage, config.clip_low, config.clip_high, **dual)
    if config.entropy_coef:
        loss = loss - config.entropy_coef * sampled_entropy(new, old)
    return loss, bounded


def sampled_entropy(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """(N,) estimate of the entropy -sum p log p from tokens drawn with the log-probabilities `old`: -r log p.

    Its gradient -r log p grad(log p) is unbiased too, since the mean of grad(log p) is 0: no logits are needed.
    """
    ratio = (new.detach() - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return -ratio * new.detach() * (1 + new - new.detach())


def k3_divergence(new: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(N,) estimate of KL(new || reference) from tokens drawn from `new`: exp(d) - d - 1 with d = reference - new.

    Never negative, and unbiased on policy (Schulman, "Approximating KL divergence"; the KL term of GRPO).
    """
    d = (reference - new).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def sequence_weights(tokens_S: Sequence[int], loss_type: LossType, length: int | None = None) -> list[float]:
    """Weight of each token, per sequence, so that a batch's loss is the plain sum of weight x loss over tokens.

    `tokens_S` counts the scored tokens of each sequence. `token-mean`: every token of the batch weighs the same.
    `sequence-mean`: every sequence that has tokens weighs the same. `sequence-sum`: every token weighs 1 / `length`,
    and sequences are averaged (Dr. GRPO, arXiv 2503.20783: a long sequence is neither diluted nor favoured). Weights
    are fixed for the whole batch before it is divided into micro-batches and among processes, so the division does not
    change the result.
    """
    if loss_type == "token-mean":
        tokens = sum(tokens_S)
        return [1.0 / tokens if tokens else 0.0] * len(tokens_S)
    sequences = sum(n > 0 for n in tokens_S)
    if loss_type == "sequence-sum":
        assert length, "train_grpo fills in loss_length"
        return [1.0 / (sequences * length) if n else 0.0 for n in tokens_S]
    assert loss_type == "sequence-mean", loss_type
    return [1.0 / (sequences * n) if n else 0.0 for n in tokens_S]
