"""Advantages, the clipped objective, weights and divergence against numbers by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from polythink.errors import UserError
from polythink.train.config import TrainingConfig
from polythink.train.loss import group_advantages, k3_divergence, policy_loss, sequence_weights
from polythink.train.optimiser import learning_rate, make_optimiser, micro_batches, update


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.2, 1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    advantages, zero_spread = group_advantages(rewards, epsilon=0.0)
    std = math.sqrt(4 / 3)  # of four values one away from their mean, n - 1 below
    assert advantages[0].tolist() == pytest.approx([1 / std, 1 / std, -1 / std, -1 / std])
    mean, spread = 0.05, math.sqrt((1.15**2 + 0.95**2 + 2 * 1.05**2) / 3)
    assert advantages[1].tolist() == pytest.approx([(r - mean) / spread for r in (1.2, 1.0, -1.0, -1.0)])
    assert advantages[2].tolist() == [0, 0, 0, 0]
    assert zero_spread.tolist() == [False, False, True]


def test_advantages_without_std_and_with_damped_negatives():
    advantages, _ = group_advantages(torch.tensor([[3.0, 1.0, -1.0]]), scale_rewards=False, negative_scale=0.3)
    assert advantages[0].tolist() == pytest.approx([2.0, 0.0, -0.6])


def test_samples_without_a_grade_are_as_if_never_drawn():
    rewards = torch.tensor([[1.0, 9.0, -1.0, 0.5], [1.0, 0.0, -1.0, 0.5], [1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0]])
    graded = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 0]]).bool()
    advantages, zero_spread = group_advantages(rewards, negative_scale=0.3, graded_PG=graded)
    assert zero_spread.tolist() == [False, False, True, True]
    alone, _ = group_advantages(rewards[:1, [0, 2, 3]], negative_scale=0.3)
    assert advantages[0, [0, 2, 3]].tolist() == alone[0].tolist()
    assert torch.equal(advantages[1], group_advantages(rewards, negative_scale=0.3)[0][1])
    assert (advantages[~graded] == 0).all()
    assert (advantages[2:] == 0).all(), "equal rewards among the graded, and fewer than two of them"


def test_equal_rewards_give_no_advantage_even_where_the_mean_rounds():
    advantages, zero_spread = group_advantages(torch.full((1, 3), 0.1))
    assert zero_spread.all()
    assert (advantages == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.56, True),  # bounded at 1 + 0.28
        (0.5, 2.0, -1.0, False),  # a good token that became unlikely keeps its gradient
        (0.5, -2.0, 1.6, True),  # bounded at 1 - 0.2
        (1.5, -2.0, 3.0, False),  # a bad token that became likely keeps its gradient
        (9.0, -2.0, 6.0, True),  # up to the dual clip at 3
    ],
)
def test_clipped_objective_by_hand(ratio, advantage, loss, clipped):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    found, was_clipped = policy_loss(new, torch.zeros(1), torch.tensor([advantage]), 0.2, 0.28, dual_clip=3.0)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert was_clipped.item() is clipped
    found.sum().backward()
    assert (new.grad.item() == 0) is clipped


def test_without_dual_clip_a_bad_likely_token_is_not_bounded():
    loss, clipped = policy_loss(torch.tensor([math.log(9.0)]), torch.zeros(1), torch.tensor([-2.0]))
    assert loss.item() == pytest.approx(18.0)
    assert not clipped


def test_absurd_ratios_stay_finite():
    new = torch.tensor([500.0, -500.0], requires_grad=True)
    loss, _ = policy_loss(new, torch.zeros(2), torch.tensor([-1.0, 1.0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert new.grad.isfinite().all()


def test_divergence_by_hand_and_on_average():
    new, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -1.0 + math.log(2)])
    assert k3_divergence(new, reference).tolist() == pytest.approx([0.0, 2 - math.log(2) - 1], abs=1e-6)
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    expected = (p * (p / q).log()).sum()
    assert (p * k3_divergence(p.log(), q.log())).sum().item() == pytest.approx(expected.item(), rel=1e-5)


def test_aggregation_by_hand():
    tokens, losses = [1, 3, 0], [[4.0], [1.0, 2.0, 3.0], []]
    sums = {
        how: sum(w * sum(own) for w, own in zip(sequence_weights(tokens, how), losses, strict=True))
        for how in ("token-mean", "sequence-mean")
    }
    assert sums["token-mean"] == pytest.approx(10 / 4)
    assert sums["sequence-mean"] == pytest.approx((4 + 2) / 2)
    assert sequence_weights([0, 0], "token-mean") == [0, 0]


def test_learning_rates():
    config = TrainingConfig(lr=1.0, schedule="cosine", warmup=0.1, final_lr=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    linear = TrainingConfig(lr=2.0, schedule="linear")
    assert [learning_rate(linear, s, 4) for s in range(4)] == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert learning_rate(TrainingConfig(lr=3.0), 7, 10) == 3.0


def test_micro_batches_hold_everything_once_and_neighbours_in_length():
    lengths = [5, 9, 5, 7, 1]
    groups = micro_batches(lengths, 2)
    assert groups == [[1, 3], [0, 2], [4]]


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimiser = make_optimiser(model, TrainingConfig(lr=0.1))
    model(torch.tensor([float("inf"), 1.0])).sum().backward()
    with pytest.raises(UserError, match="is not finite"):
        update(model, optimiser, 0.1, 1.0)
    assert torch.equal(model.weight, before)


def test_an_update_clips_the_whole_gradient():
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    before = model.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    assert update(model, optimiser, 0.5, 1.0) == pytest.approx(5.0)
    assert (before - model.weight).detach()[0].tolist() == pytest.approx([0.3, 0.4], abs=1e-5)
    assert model.weight.grad is None
