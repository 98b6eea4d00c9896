"""A step of reinforcement learning in each mode: exact modes train what was drawn, the published ones do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.training import make_lm
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.trace.modes import MODES
from polythink.trace.rollout import Rollout
from polythink.train.config import PolicyConfig, trained_inexactly
from polythink.train.grpo_step import MISMATCH, measure_gap, to_item, to_items, update_policy
from polythink.train.optimiser import make_optimiser

BUDGETS = dict(max_blocks=2, max_main_tokens=20, max_path_tokens=9, max_summary_tokens=5, max_trace_tokens=140)


def forking_lm():
    """A model that forks often and in which attention matters: a random one attends almost evenly."""
    lm = make_lm(3)
    with torch.no_grad():  # the output matrix is tied: push the state towards the opening tag
        for name, parameter in lm.model.named_parameters():
            if "proj" in name:
                parameter.mul_(3)
        lm.model.model.norm.weight.mul_(2)
        lm.model.get_input_embeddings().weight[lm.tag_ids["<Parallel>"]] *= 6
    return lm


def drawn(lm, mode: str, paths: int = 3) -> list[Rollout]:
    prompts = [tuple(lm.encode(f"{a} {b} -> {a + b} :")) for a, b in ((1, 2), (3, 4))]
    requests = [Request(prompts[i // 4], f"p{i // 4}", i) for i in range(8)]
    params = SamplingParams(mode=mode, path_temperature=0.8, paths=paths, **BUDGETS)
    return Engine(lm, max_num_seqs=8).generate(requests, params, seed=1)


def step(lm, rollouts: list[Rollout], mode: str | None = None) -> dict:
    advantages = torch.tensor([[1.0, -1.0, 0.5, -0.5], [2.0, -1.0, -1.0, 0.25]])
    config = PolicyConfig(train_mode=mode)
    groups = to_items(rollouts, advantages, config.train_mode)
    before = measure_gap(lm, config, [item for group in groups for item in group])
    found = update_policy(lm, config, groups, torch.tensor([False] * 2), make_optimiser(lm.model, config), 1e-9, None)
    assert [found[key] for key in MISMATCH] == pytest.approx([before[key] for key in MISMATCH], rel=1e-3, abs=1e-6)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_step_trains_what_was_drawn_in_the_exact_modes_alone(mode: str) -> None:
    lm = forking_lm()
    rollouts = drawn(lm, mode)
    joined = [r for r in rollouts if any(s.kind == "summary" and any(s.sampled) for s in r.segments)]
    assert joined or not MODES[mode].isolated, "the fixture must hold joins"
    found = step(lm, rollouts)
    assert found["loss"] is not None
    if MODES[mode].exact:
        assert found["logprob_gap"] < 1e-4
        assert 0 <= found["mismatch_kl"] < 1e-9
    else:
        # Two or more paths: trained as one flat text, the second path sees the first, which it did not when it was
        # drawn; trained as structured, the summary reads other keys, at other positions, than it read when drawn.
        assert found["logprob_gap"] > 1e-3
        assert found["mismatch_kl"] > 1e-7
        assert found["mismatch_kl"] < found["logprob_gap"]
    assert bool(trained_inexactly(mode)) != MODES[mode].exact


def test_seen_is_exact_for_a_single_path() -> None:
    """One path sees the same text in both layouts, and so does the join: the gap is of several paths."""
    lm = forking_lm()
    assert step(lm, drawn(lm, "seen_published", paths=1))["logprob_gap"] < 1e-4


@pytest.mark.parametrize(("mode", "train_mode"), [("unseen_published", "reread"), ("seen_published", "reread")])
def test_the_layout_in_which_they_were_drawn_makes_the_published_modes_exact(mode: str, train_mode: str) -> None:
    lm = forking_lm()
    assert step(lm, drawn(lm, mode), train_mode)["logprob_gap"] < 1e-4
    assert not trained_inexactly(mode, train_mode)


@pytest.mark.parametrize("train_mode", [name for name, mode in MODES.items() if mode.exact])
def test_what_was_recorded_lies_on_its_token_in_every_layout(train_mode: str) -> None:
    """Copies are in some layouts and not in others; they carry no log-probability and no loss."""
    lm = forking_lm()
    for mode in ("structured", "reread"):
        for rollout in drawn(lm, mode):
            item = to_item(rollout, 1.0, train_mode)
            text = [s for s in rollout.segments if s.kind != "copy"]
            shown = item.layout.shown & (item.layout.segment > 0)
            for name, values in (("tokens", item.layout.tokens), ("sampled", item.layout.sampled)):
                assert values[shown].tolist() == [value for s in text for value in getattr(s, name)]
            recorded = np.float32([value for s in text for value in s.logprobs])
            assert np.array_equal(item.drawn[shown], recorded)
            copies = ~item.layout.shown
            assert copies.any() <= MODES[train_mode].rereads
            assert not item.drawn[copies].any()
            assert not item.layout.sampled[copies].any()
            assert (item.temperature[copies] == 1).all()
            assert item.tokens == sum(sum(s.sampled) for s in rollout.segments)
