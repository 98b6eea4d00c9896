"""A step's updates: what was drawn is what is trained, forced tokens are not, and division changes nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from helpers.sweep import sweep
from helpers.training import gradients, make_lm
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.logprobs import logits_after
from polythink.train import grpo_step
from polythink.train.config import PolicyConfig
from polythink.train.flat import training_logits
from polythink.train.grpo_step import (
    accumulate_gradient,
    correct,
    divide,
    forward,
    measure_gap,
    own_rows,
    recompute,
    to_items,
    update_policy,
)
from polythink.train.optimiser import autocast, make_optimiser

BUDGETS = dict(paths=3, max_blocks=2, max_main_tokens=20, max_path_tokens=9, max_summary_tokens=5, max_trace_tokens=90)
ones = torch.ones(2, 4)


def module_logits(model, batch):
    """In place of `training_logits`: the transformers module, whatever the batch."""
    return logits_after


@pytest.fixture(scope="module")
def setting():
    """A model that forks often, and eight rollouts of it with advantages, at two temperatures."""
    lm = make_lm(3)
    with torch.no_grad():  # the output matrix is tied: push the state towards the opening tag
        lm.model.model.norm.weight.mul_(2)
        lm.model.get_input_embeddings().weight[lm.tag_ids["<Parallel>"]] *= 6
    prompts = [tuple(lm.encode(f"{a} {b} -> {a + b} :")) for a, b in ((1, 2), (3, 4))]
    requests = [Request(prompts[i // 4], f"p{i // 4}", i) for i in range(8)]
    decoding = SamplingParams(temperature=1.0, path_temperature=0.8, **BUDGETS)
    rollouts = Engine(lm, max_num_seqs=8).generate(requests, decoding, seed=1)
    assert sum(any(s.kind == "path" for s in r.segments) for r in rollouts) >= 3, "the fixture must hold blocks"
    assert sum(r.truncated for r in rollouts) > 0, "and cuts"
    advantages = torch.tensor([[1.0, -1.0, 0.5, -0.5], [2.0, -1.0, -1.0, 0.25]])
    return lm, to_items(rollouts, advantages, None), rollouts


def run(lm, items, **config):
    lm.model.zero_grad(set_to_none=True)
    sums = accumulate_gradient(lm, PolicyConfig(**config), items, None)
    return sums, gradients(lm.model).clone()


def flat(groups):
    return [item for group in groups for item in group]


def test_what_was_drawn_is_what_is_trained(setting):
    lm, groups, _ = setting
    sums, _ = run(lm, flat(groups))
    assert sums["gap_max"] < 1e-4
    assert sums["clipped"] == 0
    assert measure_gap(lm, PolicyConfig(), groups[0])["logprob_gap"] < 1e-4


@pytest.mark.parametrize("backend", sweep(["lean", "flat", "padded"], ["lean"]))
def test_autocast_on_both_sides_leaves_rounding_alone(setting, backend, monkeypatch):
    monkeypatch.setattr(grpo_step, "training_logits", module_logits)  # rounds in the same places
    lm, _, rollouts = setting
    config, engine = PolicyConfig(autocast=True), Engine(lm, max_num_seqs=8, backend=backend)
    requests = [Request(r.prompt, r.problem, r.sample) for r in rollouts]
    gaps = {}
    for drawn_with in (False, True):
        with autocast(PolicyConfig(autocast=drawn_with), lm.device):
            again = engine.generate(requests, SamplingParams(path_temperature=0.8, **BUDGETS))
        assert any(s.kind == "summary" for r in again for s in r.segments)
        gaps[drawn_with] = measure_gap(lm, config, flat(to_items(again, ones, None)))["logprob_gap_mean"]
    assert gaps[True] < gaps[False] / 2
    assert gaps[False] > 1e-4, "bfloat16 must be at work"


def test_under_autocast_the_flat_forward_is_about_as_near_to_what_was_drawn_as_the_module(setting, monkeypatch):
    lm, _, rollouts = setting
    config, engine, gaps = PolicyConfig(autocast=True), Engine(lm, max_num_seqs=8, backend="lean"), []
    requests = [Request(r.prompt, r.problem, r.sample) for r in rollouts]
    with autocast(config, lm.device):
        items = flat(to_items(engine.generate(requests, SamplingParams(path_temperature=0.8, **BUDGETS)), ones, None))
    for way in (training_logits, module_logits):
        monkeypatch.setattr(grpo_step, "training_logits", way)
        gaps.append(measure_gap(lm, config, items)["logprob_gap_mean"])
    assert 0 < gaps[0] < 3 * gaps[1], "each rounds in its own places: 0.0006 and 0.0003 nats"


def test_a_wrong_temperature_or_layout_shows_as_a_gap(setting):
    lm, groups, rollouts = setting
    cold = [dataclasses.replace(s, temperature=np.ones_like(s.temperature)) for s in flat(groups)]
    assert run(lm, cold)[0]["gap_max"] > 1e-2
    sequential = to_items(rollouts, torch.ones(2, 4), "sequential")
    assert run(lm, flat(sequential))[0]["gap_max"] > 1e-2


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_eight_by_one_is_one_by_eight(setting, aggregation):
    lm, groups, _ = setting
    (whole, expected), (single, found) = (
        run(lm, flat(groups), micro_batch=size, loss_type=aggregation) for size in (8, 1)
    )
    assert single["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert single["tokens"] == whole["tokens"]
    assert torch.allclose(found, expected, atol=1e-6)
    reverse = run(lm, flat(groups)[::-1], micro_batch=3, loss_type=aggregation)[1]
    assert torch.allclose(reverse, expected, atol=1e-6)


@pytest.mark.parametrize("objective", [None, "gspo"])
def test_packed_is_padded(setting, objective):
    """Rows of several rollouts, of prompts and lengths that differ: the same sums, gradient and log-probabilities."""
    lm, groups, _ = setting
    items = flat(groups)
    padded = run(lm, items, micro_batch=3, objective=objective)
    longest = max(len(s.layout) for s in items)
    for width in (longest, 3 * longest):
        rows = own_rows(lm, PolicyConfig(pack=width), items)
        assert len(rows[0][1]) < len(items), "some must share a row"
        packed = run(lm, items, micro_batch=2, objective=objective, pack=width)
        assert packed[0] == pytest.approx(padded[0], rel=1e-5, abs=2e-5)
        assert torch.allclose(packed[1], padded[1], rtol=1e-5, atol=1e-5 * float(padded[1].abs().max()))
        for one, other in zip(*(recompute(lm, PolicyConfig(pack=w), items) for w in (None, width)), strict=True):
            assert np.abs(one.old - other.old).max() < 1e-5


def test_aggregations_weigh_long_rollouts_differently(setting):
    lm, groups, _ = setting
    a, b = (run(lm, flat(groups), loss_type=how)[1] for how in ("token-mean", "sequence-mean"))
    assert (a - b).abs().max() > 1e-4


def test_loss_by_hand(setting):
    """At ratio 1 the token-mean loss is minus the mean advantage over drawn tokens."""
    lm, groups, _ = setting
    items = flat(groups)
    tokens = [s.tokens for s in items]
    expected = -sum(s.advantage * n for s, n in zip(items, tokens, strict=True)) / sum(tokens)
    assert run(lm, items)[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_forced_tokens_carry_no_gradient(setting):
    lm, groups, _ = setting
    item = max(flat(groups), key=lambda s: int((~s.layout.sampled).sum()))
    forced = torch.from_numpy(~item.layout.sampled & (item.layout.segment > 0))
    assert forced.sum() >= 8, "tags of paths, the join, and closings after cuts"
    new, sampled = forward(lm.model, lm, PolicyConfig(), [item])
    assert not sampled[0, forced].any()
    assert (new[0, forced] == 0).all()
    _, expected = run(lm, [item])
    as_actions = dataclasses.replace(item.layout, sampled=item.layout.segment > 0)
    _, other = run(lm, [dataclasses.replace(item, layout=as_actions)])
    assert (other - expected).abs().max() > 1e-4, "trained as actions they would make a difference"


def test_the_gradient_is_that_of_the_drawn_tokens_alone(setting):
    lm, groups, _ = setting
    item = max(flat(groups), key=lambda s: len(s.layout))
    _, found = run(lm, [item])
    lm.model.zero_grad(set_to_none=True)
    new, _ = forward(lm.model, lm, PolicyConfig(), [item])
    drawn = [i for i in range(len(item.layout)) if item.layout.sampled[i]]
    (-item.advantage * torch.stack([new[0, i] for i in drawn]).mean()).backward()  # at ratio 1: d r = d log p
    assert torch.allclose(found, gradients(lm.model), atol=1e-5)


def test_recomputed_old_logprobs_put_the_ratio_at_one(setting):
    lm, groups, _ = setting
    wrong = [dataclasses.replace(s, old=s.old - 1.0) for s in flat(groups)]
    assert run(lm, wrong)[0]["clipped"] > 0
    again = recompute(lm, PolicyConfig(micro_batch=3), wrong)
    assert run(lm, again)[0]["clipped"] == 0
    for one, before in zip(again, flat(groups), strict=True):
        assert np.abs(one.old - before.old)[one.layout.sampled].max() < 1e-4


def test_importance_weights_scale_the_gradient_of_what_the_engine_sampled_otherwise(setting):
    """Every token drawn with half of the trainer's probability: each weighs 2, or the bound, or nothing."""
    lm, groups, _ = setting
    halved = [[dataclasses.replace(s, drawn=s.drawn - math.log(2)) for s in group] for group in groups]
    expected = run(lm, flat(groups))[1]
    for mode, clip_max, factor in (("token_truncate", 3, 2), ("token_truncate", 1.5, 1.5), ("token_mask", 1.5, 0)):
        config = PolicyConfig(
            importance_sampling_mode=mode, importance_sampling_clip_max=clip_max, old_logprobs="recomputed"
        )
        items, metrics = correct(halved, config)
        found = run(lm, flat(items))[1]
        assert torch.allclose(found, factor * expected, atol=1e-4)
        assert metrics["importance_ratio_mean"] == pytest.approx(2, abs=1e-4)
        assert metrics["importance_clipped"] == (clip_max < 2)


def test_a_step_reports_how_much_was_corrected(setting):
    lm, groups, _ = setting
    config = PolicyConfig(importance_sampling_mode="sequence_mask", old_logprobs="recomputed")
    optimiser, spread = make_optimiser(lm.model, config), torch.tensor([False, False])
    apart = [[dataclasses.replace(s, drawn=s.drawn - 1.0) for s in groups[0]], groups[1]]
    found = update_policy(lm, config, apart, spread, optimiser, 1e-12, None)
    tokens = [sum(s.tokens for s in group) for group in groups]
    assert found["importance_clipped"] == pytest.approx(tokens[0] / sum(tokens))  # of sequences of e^T: left out
    exact = update_policy(lm, config, groups, spread, optimiser, 1e-12, None)
    assert exact["importance_clipped"] == 0
    assert exact["importance_ratio_max"] == pytest.approx(1, abs=1e-3)
    nothing = update_policy(lm, config, groups, torch.tensor([True, True]), optimiser, 1e-12, None)
    assert nothing["importance_clipped"] is None
    plain = update_policy(lm, PolicyConfig(), groups, spread, optimiser, 1e-12, None)
    assert not any(name.startswith("importance") for name in plain)


def test_divergence_from_the_reference_enters_the_loss(setting):
    lm, groups, _ = setting
    reference = make_lm(4).model
    sums = accumulate_gradient(lm, PolicyConfig(kl_coef=0.5), flat(groups), reference)
    plain, _ = run(lm, flat(groups))
    assert sums["kl"] > 0
    assert sums["loss"] == pytest.approx(plain["loss"] + 0.5 * sums["kl"] / sums["tokens"], rel=1e-4)
    same = accumulate_gradient(lm, PolicyConfig(kl_coef=0.5), flat(groups), lm.model)
    assert same["kl"] == pytest.approx(0, abs=1e-6)


def test_groups_without_spread_are_left_out_or_counted_in(setting):
    lm, groups, _ = setting
    flat_group = [dataclasses.replace(s, advantage=0.0) for s in groups[1]]
    zero = torch.tensor([False, True])

    def loss(drop: bool) -> float:
        config = PolicyConfig(drop_zero_spread=drop, lr=1e-12)
        return update_policy(lm, config, [groups[0], flat_group], zero, make_optimiser(lm.model, config), 1e-12, None)[
            "loss"
        ]

    tokens = [sum(s.tokens for s in group) for group in groups]
    assert loss(False) == pytest.approx(loss(True) * tokens[0] / sum(tokens), rel=1e-4)


def test_nothing_to_learn_still_measures_the_gap(setting):
    lm, groups, _ = setting
    config = PolicyConfig()
    before = gradients_free_copy(lm)
    found = update_policy(lm, config, groups, torch.tensor([True, True]), make_optimiser(lm.model, config), 1.0, None)
    assert found["loss"] is None
    assert 0 < found["logprob_gap"] < 1e-4
    assert torch.equal(before, gradients_free_copy(lm))


def without_tokens(item):
    """The item as if the runtime had replaced every token that was sampled."""
    return dataclasses.replace(item, layout=dataclasses.replace(item.layout, sampled=item.layout.sampled & False))


@pytest.mark.parametrize("loss_type", ["token-mean", "sequence-mean"])
def test_rollouts_without_a_sampled_token_carry_no_loss(setting, loss_type):
    """A micro-batch of them alone has no gradient to run backwards."""
    lm, groups, _ = setting
    items = flat(groups)
    empty = [without_tokens(s) for s in items[:3]]
    expected = run(lm, items[3:], micro_batch=2, loss_type=loss_type)
    found = run(lm, empty + items[3:], micro_batch=1, loss_type=loss_type)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6)
    assert found[0]["tokens"] == expected[0]["tokens"]
    assert torch.allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("drop", [True, False])
def test_a_step_without_any_sampled_token_changes_nothing(setting, drop):
    lm, groups, _ = setting
    config = PolicyConfig(drop_zero_spread=drop, mini_batches=2, old_logprobs="recomputed")
    empty = [[without_tokens(s) for s in group] for group in groups]
    before = gradients_free_copy(lm)
    found = update_policy(lm, config, empty, torch.tensor([False] * 2), make_optimiser(lm.model, config), 1.0, None)
    assert set(found.values()) == {None}
    assert torch.equal(before, gradients_free_copy(lm))


def test_rollouts_without_a_grade_are_left_out_of_their_group(setting):
    _, _, rollouts = setting
    advantages = torch.arange(8.0).view(2, 4)
    graded = torch.tensor([[True, False, True, True], [False, False, True, False]])
    groups = to_items(rollouts, advantages, None, graded)
    assert [[s.advantage for s in group] for group in groups] == [[0.0, 2.0, 3.0], []]


def gradients_free_copy(lm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def test_mini_batches_are_whole_groups():
    groups = [[i] for i in range(5)]
    assert divide(groups, 2) == [[[0], [1]], [[2], [3], [4]]]
    assert divide(groups[:1], 4) == [[[0]]]


def test_two_mini_batches_are_two_updates(setting):
    _, groups, _ = setting
    lm = make_lm(3)
    lm.model.load_state_dict(setting[0].model.state_dict())
    config = PolicyConfig(mini_batches=2, lr=1e-2, clip_low=0.01, clip_high=0.01)
    optimiser = make_optimiser(lm.model, config)
    found = update_policy(lm, config, groups, torch.tensor([False, False]), optimiser, 1e-2, None)
    assert {int(s["step"]) for s in optimiser.state.values()} == {2}
    assert found["logprob_gap"] < 1e-4, "the gap is measured before the first update"
    assert found["clip_fraction"] > 0, "the second update sees a policy that has moved"
    assert math.isfinite(found["loss"])
