"""Every objective against numbers worked out by hand: loss, gradient, what is bounded, how tokens are weighed.

Two rollouts, of two tokens and of one, in one batch; advantages 1 and -1. With old log-probabilities 0.5 and ratios
1.5, 0.5 | 2.0 the probabilities are 0.75, 0.25 | 1.0.
"""

from __future__ import annotations

import math

import pytest
import torch

from polythink.errors import UserError
from polythink.run.config import parse_config
from polythink.train.config import GRPOConfig, PolicyConfig
from polythink.train.loss import (
    MAX_LOG_RATIO,
    group_advantages,
    objective_loss,
    policy_loss,
    sampled_entropy,
    sequence_level,
    sequence_weights,
)
from polythink.train.objectives import OBJECTIVES, PLAIN

OLD = torch.tensor([[0.5, 0.5], [0.5, 1.0]]).log()
SAMPLED = torch.tensor([[True, True], [True, False]])
LOG = {p: math.log(p) for p in (0.25, 0.5, 0.75)}

# objective -> loss of the three tokens, d loss / d log p of each, bounded, weight of a token of either rollout
TABLE = {
    # 1.5 > 1.2: bounded, -1.2; 0.5 with A > 0: kept; 2.0 with A < 0: kept. Means of rollouts: 1/4, 1/4, 1/2.
    "grpo": ([-1.2, -0.5, 2.0], [0, -0.5, 2.0], [True, False, False], [1 / 4, 1 / 2]),
    # the same tokens; every token 1 / (2 rollouts x 10)
    "dr_grpo": ([-1.2, -0.5, 2.0], [0, -0.5, 2.0], [True, False, False], [1 / 20, 1 / 20]),
    # bounded at 1.28; every token 1/3
    "dapo": ([-1.28, -0.5, 2.0], [0, -0.5, 2.0], [True, False, False], [1 / 3, 1 / 3]),
    # s = sqrt(1.5 x 0.5) = 0.8660 with A > 0: kept; the second rollout has one token: s = 2, A < 0: kept
    "gspo": ([-0.8660254, -0.8660254, 2.0], [-0.8660254, -0.8660254, 2.0], [False] * 3, [1 / 4, 1 / 2]),
    # weights 1.5, 0.5, 2.0 stay below 5; the loss is -w A log p, its gradient -w A
    "cispo": ([-1.5 * LOG[0.75], -0.5 * LOG[0.25], 0.0], [-1.5, -0.5, 2.0], [False] * 3, [1 / 3, 1 / 3]),
    # p rose by 0.25 > 0.15 with A > 0: masked; fell with A > 0: kept; rose with A < 0: kept
    "dppo": ([0.0, -0.5, 2.0], [0, -0.5, 2.0], [True, False, False], [1 / 3, 1 / 3]),
    "max_rl": ([-1.2, -0.5, 2.0], [0, -0.5, 2.0], [True, False, False], [1 / 3, 1 / 3]),
}


def config_of(name: str | None, **changes) -> PolicyConfig:
    length = {"loss_length": 10} if name == "dr_grpo" else {}
    return parse_config(PolicyConfig, {"objective": name, **length, **changes}, "test")


def fresh() -> torch.Tensor:
    return torch.tensor([[0.75, 0.25], [1.0, 1.0]]).log().requires_grad_(True)


def test_the_table_holds_every_objective():
    assert TABLE.keys() == OBJECTIVES.keys()
    assert all(objective.source for objective in OBJECTIVES.values())


@pytest.mark.parametrize("name", TABLE)
def test_loss_gradient_and_weights_by_hand(name):
    losses, gradients, bounded, weights = TABLE[name]
    config, new = config_of(name), fresh()
    loss, found = objective_loss(config, new, OLD, torch.tensor([[1.0], [-1.0]]), SAMPLED)
    loss[SAMPLED].sum().backward()
    assert loss[SAMPLED].tolist() == pytest.approx(losses, abs=1e-6)
    assert new.grad[SAMPLED].tolist() == pytest.approx(gradients, abs=1e-6)
    assert found[SAMPLED].tolist() == bounded
    assert sequence_weights([2, 1], config.loss_type, length=config.loss_length) == pytest.approx(weights)


ADVANTAGES = {  # of the rewards 1, 0, 0, 0: mean 1/4, deviation 1/2
    True: [1.5, -0.5, -0.5, -0.5],
    False: [0.75, -0.25, -0.25, -0.25],
    "mean": [3.0, -1.0, -1.0, -1.0],
}


SCALES = dict.fromkeys(OBJECTIVES, True) | {"dr_grpo": False, "max_rl": "mean"}


@pytest.mark.parametrize(("name", "scale"), SCALES.items())
def test_advantages_by_hand(name, scale):
    assert config_of(name).scale_rewards == scale
    found, _ = group_advantages(torch.tensor([[1.0, 0, 0, 0]]), scale, epsilon=0.0)
    assert found[0].tolist() == pytest.approx(ADVANTAGES[scale])


def test_all_wrong_teaches_max_rl_nothing_and_negative_rewards_are_refused():
    found, zero_spread = group_advantages(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "mean")
    assert found.tolist() == [[0, 0], [0, 0]]
    assert zero_spread.tolist() == [True, True]
    with pytest.raises(UserError, match="must not be negative: a reward was -1; take a reward from 0 up"):
        group_advantages(torch.tensor([[1.0, -1.0]]), "mean")


def test_gspo_clips_the_rollout_as_a_whole():
    """s = 1.0005 is above 1.0004 and 0.9996 below 0.9997: no gradient where the clip is the smaller one."""
    old = torch.zeros(4, 2)
    new = torch.tensor([[0.001, 0.0], [0.001, 0.0], [-0.0008, 0.0], [-0.0008, 0.0]], requires_grad=True)
    advantage = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    loss, clipped = objective_loss(config_of("gspo"), new, old, advantage, torch.ones(4, 2).bool())
    loss.sum().backward()
    assert clipped.tolist() == [[True] * 2, [False] * 2, [False] * 2, [True] * 2]
    assert ((new.grad != 0) == ~clipped).all()
    assert loss[0].tolist() == pytest.approx([-1.0004] * 2)
    assert loss[1].tolist() == pytest.approx([math.exp(0.0005)] * 2)


def test_a_sequences_ratio_is_the_mean_of_its_sampled_tokens_alone():
    new, old = torch.tensor([[1.0, 5.0, 3.0]]), torch.zeros(1, 3)
    level, zero = sequence_level(new, old, torch.tensor([[True, False, True]]))
    assert (level - zero)[0].tolist() == [2.0, 2.0, 2.0]
    nothing, zero = sequence_level(new, old, torch.zeros(1, 3).bool())
    assert (nothing - zero).isfinite().all()


def test_cispo_truncates_the_weight_and_keeps_the_gradient():
    new, old = torch.tensor([[0.0]], requires_grad=True), torch.tensor([[-math.log(9.0)]])
    loss, truncated = objective_loss(config_of("cispo"), new, old, torch.tensor([[2.0]]), torch.tensor([[True]]))
    loss.sum().backward()
    assert truncated.item()
    assert new.grad.item() == pytest.approx(-5 * 2)
    below, _ = objective_loss(config_of("cispo", clip_low=0.2), -new - 3, -new, new * 0 + 1, torch.tensor([[True]]))
    assert below.item() == pytest.approx(0.8 * 3)  # r = e^-3, with a lower bound 0.8; log p = -3


@pytest.mark.parametrize(
    ("before", "now", "advantage", "masked"),
    [
        (0.5, 0.64, 1.0, False),  # rose by 0.14
        (0.5, 0.66, 1.0, True),
        (0.5, 0.66, -1.0, False),  # a bad token that became likely keeps its gradient
        (0.5, 0.34, -1.0, True),
        (0.5, 0.34, 1.0, False),
        (0.001, 0.1, 1.0, False),  # a hundredfold ratio of a rare token: the distribution hardly moved
    ],
)
def test_dppo_masks_by_probability_not_by_ratio(before, now, advantage, masked):
    new = torch.tensor([[now]]).log().requires_grad_(True)
    given = torch.tensor([[before]]).log(), torch.tensor([[advantage]]), torch.tensor([[True]])
    loss, found = objective_loss(config_of("dppo"), new, *given)
    loss.sum().backward()
    assert found.item() is masked
    assert new.grad.item() == pytest.approx(0 if masked else -advantage * now / before, rel=1e-5)


def test_without_an_objective_it_is_the_clipped_loss_bit_for_bit():
    torch.manual_seed(0)
    new, old, advantage = torch.randn(5, 7), torch.randn(5, 7), torch.randn(5, 1)
    config = config_of(None, clip_low=0.1, clip_high=0.3, dual_clip=3.0)
    found = objective_loss(config, new, old, advantage, torch.ones(5, 7).bool())
    expected = policy_loss(new, old, advantage, 0.1, 0.3, 3.0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (PLAIN.level, PLAIN.bound, PLAIN.defaults) == ("token", "clip", {})


def test_the_keys_have_the_defaults_that_they_had():
    found = PolicyConfig()
    had = dict(
        scale_rewards=True, negative_scale=1.0, drop_zero_spread=True, loss_type="token-mean", clip_low=0.2,
        clip_high=0.2, dual_clip=None, kl_coef=0.0, old_logprobs="engine", entropy_coef=0.0, credit="trace",
    )  # fmt: skip
    assert {key: getattr(found, key) for key in had} == had


def test_a_recipe_may_set_a_key_of_its_objective_differently():
    config = config_of("dapo", clip_high=0.5, loss_type="sequence-mean")
    assert (config.clip_low, config.clip_high, config.loss_type) == (0.2, 0.5, "sequence-mean")
    again = parse_config(PolicyConfig, config.model_dump(mode="json"), "test")
    assert again == config
    whole = parse_config(GRPOConfig, {"objective": "dapo", "reward": "accuracy", "steps": 1}, "test")
    assert whole.max_num_gen_batches == 10
    assert (
        parse_config(GRPOConfig, {"objective": "grpo", "reward": "accuracy", "steps": 1}, "x").max_num_gen_batches == 1
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "dapp"}, "objective must be 'grpo', 'dr_grpo', 'dapo'"),
        ({"objective": "cispo", "dual_clip": 3}, "dual_clip bounds what PPO's clip leaves open, and objective: cispo"),
        ({"objective": "dppo", "dual_clip": 3}, "objective: dppo does not clip so"),
        ({"objective": "dppo", "old_logprobs": "recomputed"}, "set old_logprobs: engine"),
        ({"loss_length": 100}, "loss_length belongs to loss_type: sequence-sum, not to token-mean"),
        (
            {"objective": "dapo", "drop_zero_spread": False},
            "max_num_gen_batches: 10 draws until there are enough groups",
        ),
        ({"max_num_gen_batches": 2, "objective": "grpo"}, "set drop_zero_spread: true or max_num_gen_batches: 1"),
        ({"objective": "max_rl"}, "scale_rewards: mean .* this reward can be -1; take one from 0 up"),
        ({"objective": "max_rl", "reward": "alternating"}, "can be -1"),
        ({"entropy_coef": -1}, "entropy_coef must be greater than or equal to 0"),
        ({"credit": "paths"}, "credit must be 'trace' or 'path'"),
    ],
)
def test_contradictions_are_one_sentence(changes, said):
    with pytest.raises(UserError, match=said) as error:
        parse_config(GRPOConfig, {"reward": "accuracy", "steps": 1, **changes}, "test")
    assert "\n" not in str(error.value)


def test_the_entropy_bonus_is_unbiased_in_value_and_gradient():
    """Over all tokens of one distribution, drawn with another: the mean of the estimate is the entropy."""
    logits, before = torch.tensor([0.3, -1.0, 0.7], requires_grad=True), torch.tensor([0.2, 0.3, 0.5])
    new = logits.log_softmax(0)
    entropy = -(new.exp() * new).sum()
    (expected,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    estimate = (before * sampled_entropy(new, before.log())).sum()
    (found,) = torch.autograd.grad(estimate, logits)
    assert estimate.item() == pytest.approx(entropy.item(), rel=1e-5)
    assert torch.allclose(found, expected, atol=1e-6)
    plain, _ = objective_loss(config_of(None), new[None], new[None].detach(), torch.ones(1, 1), torch.ones(1, 3).bool())
    bonus = config_of(None, entropy_coef=0.1)
    loss, _ = objective_loss(bonus, new[None], new[None].detach(), torch.ones(1, 1), torch.ones(1, 3).bool())
    assert (plain - loss)[0].tolist() == pytest.approx((-0.1 * new).tolist(), rel=1e-5)


@pytest.mark.parametrize("name", TABLE)
def test_absurd_ratios_stay_finite(name):
    new = torch.tensor([[-1e-9, -500.0]], requires_grad=True)
    old = torch.tensor([[-500.0, -1e-9]])
    loss, _ = objective_loss(config_of(name), new, old, torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2).bool())
    loss.sum().backward()
    assert loss.isfinite().all()
    assert new.grad.isfinite().all()
    assert new.grad.abs().max() <= math.exp(MAX_LOG_RATIO) * 1.01
