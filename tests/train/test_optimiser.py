"""AdamW as a recipe says: its betas, and which parameters decay."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from helpers.thoughts import make
from polythink.errors import UserError
from polythink.evaluate.provenance import weights_hash
from polythink.models.thoughts import thoughts_of
from polythink.run.config import parse_config
from polythink.train.config import OptimiserConfig, TrainingConfig
from polythink.train.optimiser import freezing, learning_rate, make_optimiser, undecayed, update


def moved_by_decay(no_decay: tuple[str, ...] | None) -> dict[str, bool]:
    """Parameter -> whether a step without any gradient changes it."""
    lm = make("qwen2")
    given = {} if no_decay is None else {"no_decay": no_decay}
    optimiser = make_optimiser(lm.model, OptimiserConfig(lr=0.1, weight_decay=0.5, **given))
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    for p in lm.model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    return {name: not torch.equal(p, before[name]) for name, p in lm.model.named_parameters()}


def kind(name: str) -> str:
    if name.endswith("bias"):
        return "biases"
    return "norms" if "norm" in name else "thoughts" if name.startswith("thoughts") else "matrices"


@pytest.mark.parametrize(
    "spared", [None, (), ("thoughts",), ("biases",), ("norms",), ("biases", "norms", "thoughts"), ("norms", "thoughts")]
)
def test_what_a_recipe_names_does_not_decay(spared):
    found = moved_by_decay(spared)
    assert {kind(name) for name in found} == {"biases", "norms", "thoughts", "matrices"}
    assert found == {name: kind(name) not in (("thoughts",) if spared is None else spared) for name in found}


def test_norms_of_every_kind_are_found():
    class GatedRMSNorm(torch.nn.Module):  # as models with recurrent layers have
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))
            self.dt_bias = torch.nn.Parameter(torch.ones(4))

    model = torch.nn.ModuleDict({"a": torch.nn.LayerNorm(4), "b": GatedRMSNorm(), "c": torch.nn.Linear(4, 4)})
    assert undecayed(model, ("norms",)) == {model["a"].weight, model["b"].weight}
    assert undecayed(model, ("biases",)) == {model["a"].bias, model["b"].dt_bias, model["c"].bias}
    assert undecayed(model, ("thoughts",)) == set()


def test_betas_reach_the_optimiser():
    model = torch.nn.Linear(2, 2)
    assert make_optimiser(model, OptimiserConfig()).defaults["betas"] == (0.9, 0.95)
    assert make_optimiser(model, OptimiserConfig(betas=(0.8, 0.999))).defaults["betas"] == (0.8, 0.999)


def test_tables_alone_keep_their_decay_where_it_is_asked_for():
    lm = make("qwen2")
    config = OptimiserConfig(weight_decay=0.05, no_decay=("biases",))
    (group,) = make_optimiser(lm.model, config, "thoughts").param_groups
    assert (group["params"], group["weight_decay"]) == ([thoughts_of(lm.model).table], 0.05)


def test_an_unknown_kind_is_one_sentence():
    with pytest.raises(UserError, match=r"no_decay\.0 must be 'biases', 'norms' or 'thoughts', got .bias."):
        parse_config(OptimiserConfig, {"no_decay": ["bias"]}, "optimiser")


def test_the_warm_up_of_inverse_square_root_is_one_step_ahead_of_fairseqs():
    """There 1e-7 at the first update and the peak one step later: never more than a step of the warm-up apart."""
    config = OptimiserConfig(lr=2e-3, schedule="inverse_sqrt", warmup=16_000)

    def theirs(step: int) -> float:
        if step < 16_000:
            return 1e-7 + step * (2e-3 - 1e-7) / 16_000
        return 2e-3 * (16_000 / step) ** 0.5

    apart = [abs(learning_rate(config, step, 1) - theirs(step)) for step in (0, 1, 9_000, 15_999, 16_000, 50_000)]
    assert max(apart) < 1.26e-7
    assert learning_rate(config, 0, 1) == pytest.approx(1.25e-7)


def test_what_was_frozen_for_a_loop_is_as_it_was_after_it():
    lm = make("qwen3")
    lm.model.lm_head.weight.requires_grad_(False)  # by the user
    before = {name: p.requires_grad for name, p in lm.model.named_parameters()}
    assert set(before.values()) == {True, False}
    for failing in (False, True):
        with suppress(KeyError), freezing(lm.model):
            make_optimiser(lm.model, TrainingConfig(), "thoughts")
            assert [n for n, p in lm.model.named_parameters() if p.requires_grad] == ["thoughts.table"]
            if failing:
                raise KeyError
        assert {name: p.requires_grad for name, p in lm.model.named_parameters()} == before


def test_weights_that_an_update_has_changed_have_another_hash():
    """Fused AdamW changes tensors without a sign of it, and the hash is kept as long as there is none."""
    lm = make("qwen2")
    before = weights_hash(lm.model)
    optimiser = make_optimiser(lm.model, OptimiserConfig(lr=0.1))
    assert optimiser.defaults["fused"]
    lm.model(torch.tensor([[1, 2]])).logits.sum().backward()
    update(lm.model, optimiser, 0.1, 1.0)
    assert weights_hash(lm.model) != before
