"""Thought embeddings in training, in copies, in checkpoints and beside adapters."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.device import DEVICE, collate, tensor
from helpers.thoughts import INVENTORY, by_hand, fill, forward, furthest, make, trace
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.tree_check import decoded_tree
from polythink.errors import UserError
from polythink.models.lm import LanguageModel, load, save, with_settings
from polythink.models.logprobs import masked_logits, token_logprobs
from polythink.models.thoughts import attach, thoughts_of
from polythink.train.checkpoint import load_checkpoint, save_checkpoint
from polythink.train.config import TrainingConfig
from polythink.train.optimiser import make_optimiser, update


def step(lm: LanguageModel, **config) -> torch.optim.Optimizer:
    config = TrainingConfig(lr=0.01, weight_decay=0.5, **config)
    optimiser = make_optimiser(lm.model, config, config.trainable)
    wanted = {p for group in optimiser.param_groups for p in group["params"]}
    batch = collate([trace(trained=1), trace((3, 1), seed=1)])
    lm.model.train()
    (-token_logprobs(lm.model, batch).mean()).backward()
    assert {p for p in lm.model.parameters() if p.grad is not None} == wanted  # the clipped norm is theirs alone
    update(lm.model, optimiser, 0.01, 1.0)
    return optimiser


def test_a_step_moves_the_rows_that_were_used_without_decay():
    lm = make("qwen3")
    before = thoughts_of(lm.model).table.detach().clone()
    weight = lm.model.lm_head.weight.detach().clone()
    optimiser = step(lm)
    moved = (thoughts_of(lm.model).table - before).abs().amax(dim=(0, 2)) > 0
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 7]  # decay would have moved the others
    assert not torch.equal(lm.model.lm_head.weight, weight)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.5, 0.0]
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(lm.model.parameters()))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_tables_alone_can_be_trained(checkpointed):
    lm = make("qwen3", filled=False)
    if checkpointed:
        lm.model.gradient_checkpointing_enable({"use_reentrant": False})
    before = copy.deepcopy(lm.model.state_dict())
    step(lm, trainable="thoughts")
    changed = {name for name, value in lm.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"thoughts.table"}


def test_training_tables_that_are_not_there_is_refused():
    for lm in (make("qwen3", None), make("qwen3", None)):
        with pytest.raises(UserError, match="trainable: thoughts, but the model has no thought embeddings"):
            make_optimiser(lm.model, TrainingConfig(), trainable="thoughts")
        attach(lm.model, None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_give_the_same_gradients(reentrant):
    lm, found = make("qwen3"), []
    lm.model.train()
    batch = collate([trace(trained=1), trace((3, 1), seed=1)])
    for _ in range(2):
        lm.model.zero_grad()
        token_logprobs(lm.model, batch).sum().backward()
        found.append({name: p.grad.clone() for name, p in lm.model.named_parameters()})
        lm.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())
    assert found[0]["thoughts.table"].abs().max() > 0
    for name, gradient in found[0].items():
        assert furthest(found[1][name], gradient) <= 1e-6 * gradient.abs().max(), name


def test_a_copy_uses_its_own_tables():
    lm, layout = make("qwen3"), trace()
    step(lm)  # what a training forward leaves behind must not stand in a copy's way
    twin = with_settings(lm)
    twin.model = copy.deepcopy(lm.model).eval().requires_grad_(False)
    before = forward(lm, layout)
    fill(lm, seed=5)
    assert torch.equal(forward(twin, layout), before)
    assert furthest(forward(lm, layout), before) > 0.1
    fill(twin, seed=5)
    assert torch.equal(forward(twin, layout), forward(lm, layout))


def test_a_failed_forward_leaves_nothing_behind():
    lm = make("qwen3")
    ids = tensor([[3, 4, 5]])
    with pytest.raises(RuntimeError):
        lm.model(ids, path_ids=torch.zeros(1, 2, dtype=torch.long, device=DEVICE))
    assert thoughts_of(lm.model).now is None
    copy.deepcopy(lm.model)


def test_checkpoints_hold_the_tables(tmp_path):
    lm, other = make("llama"), make("llama", filled=False)
    optimiser = step(lm)
    save_checkpoint(tmp_path, 1, lm.model, optimiser)
    assert load_checkpoint(tmp_path, other.model, make_optimiser(other.model, TrainingConfig())) == 1
    assert torch.equal(forward(other, trace()), forward(lm, trace()))
    bare = make("llama", None)
    with pytest.raises(UserError, match="cannot go on from"):
        load_checkpoint(tmp_path, bare.model, make_optimiser(bare.model, TrainingConfig()))


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])  # with norms behind the projections, and without
def test_adapters_keep_them_working(model_type, tmp_path):
    """And go into a folder when they are merged, not before: as they are it would not load again."""
    lm, layout = make(model_type), trace(trained=1)
    plain = forward(lm, layout)
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(lm.model, config)
    batch = collate([layout])
    with torch.no_grad():
        adapted = masked_logits(wrapped.eval(), batch)[0]
    assert furthest(adapted, plain) > 0.1
    thoughts_of(wrapped).table.requires_grad_(True)
    token_logprobs(wrapped, batch).sum().backward()
    assert thoughts_of(wrapped).table.grad.abs().max() > 0
    assert attach(wrapped, INVENTORY) is thoughts_of(wrapped)
    backend = TransformersBackend(lm, "flat")  # the model inside is the adapted one
    assert furthest(decoded_tree(backend, layout), adapted) < 1e-5 * adapted.abs().max()
    for adapter in (wrapped, lm.model):  # the wrapper, and the model in it
        with pytest.raises(UserError, match="merge_and_unload first"):
            save(dataclasses.replace(lm, model=adapter), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    lm.model = wrapped.merge_and_unload()
    save(lm, tmp_path / "model")
    assert furthest(forward(load(tmp_path / "model"), layout), adapted) < 1e-5 * adapted.abs().max()
    assert furthest(forward(lm, layout), adapted) < 1e-5 * adapted.abs().max()
    assert furthest(by_hand(lm, layout), adapted) < 1e-5 * adapted.abs().max()
