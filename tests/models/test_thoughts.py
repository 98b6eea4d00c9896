"""Thought embeddings and scaled queries on unmodified models: exact, refused where they cannot be, decoded with."""

from __future__ import annotations

import pytest
import torch

from helpers.device import DEVICE, collate, tensor
from helpers.sweep import sweep
from helpers.thoughts import INVENTORY, by_hand, fill, forward, furthest, make, trace
from helpers.tiny import family
from polythink.engine.backends.lean import LeanBackend
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.selfcheck import check
from polythink.engine.tree_check import decoded_tree
from polythink.errors import UserError
from polythink.models.logprobs import masked_logits
from polythink.models.thoughts import Thoughts, attach, thoughts_of

FAMILIES = ("qwen3", "qwen2", "llama")


# ---- what they compute ----


@pytest.mark.parametrize("model_type", FAMILIES)
def test_zero_tables_are_the_base_model_bit_for_bit(model_type):
    base, layout = make(model_type, None), trace()
    assert torch.equal(forward(make(model_type, filled=False), layout), forward(base, layout))
    assert thoughts_of(base.model) is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("trained", [0, 1])
def test_filled_tables_and_scales_agree_with_attention_written_by_hand(model_type, trained):
    lm, layout = make(model_type), trace(trained=trained)
    assert (max(layout.scales) > 1.2) == bool(trained)
    expected = by_hand(lm, layout)
    assert furthest(forward(lm, layout), expected) < 5e-6 * expected.abs().max()
    assert furthest(forward(make(model_type, None), trace()), expected) > 0.1


def test_vectors_come_after_the_key_norm():
    lm, layout = make("qwen3"), trace()
    assert furthest(forward(lm, layout), by_hand(lm, layout, before_norm=True)) > 0.1


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_without_hooks_gets_them_with_the_first_scale(model_type):
    lm, layout = make(model_type, None), trace(trained=1)
    forward(lm, trace())
    assert thoughts_of(lm.model) is None
    before = forward(lm, trace())
    scaled = forward(lm, layout)
    assert thoughts_of(lm.model).table is None
    assert furthest(scaled, before) > 0.01
    assert furthest(scaled, by_hand(make(model_type, None), layout)) < 5e-6 * scaled.abs().max()
    assert torch.equal(forward(lm, trace()), before)  # hooks alone change nothing


def test_without_path_numbers_every_token_is_of_the_prompt():
    lm = make("qwen3")
    ids = tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        told = lm.model(ids, path_ids=torch.zeros(1, 4, dtype=torch.long, device=DEVICE)).logits
        assert torch.equal(lm.model(ids).logits, told)
        assert furthest(lm.model(ids, path_ids=torch.ones(1, 4, dtype=torch.long, device=DEVICE)).logits, told) > 0.1


def test_padding_changes_nothing():
    lm = make("qwen2")
    short, long = trace((1, 2), trained=1), trace((3, 4, 5, 6), trained=2)
    with torch.no_grad():
        both = masked_logits(lm.model, collate([short, long]))
    assert furthest(both[0, : len(short)], forward(lm, short)) < 1e-5
    assert furthest(both[1], forward(lm, long)) < 1e-5


def test_path_numbers_above_the_inventory_are_refused():
    with pytest.raises(UserError, match="path number 12 is above the model's inventory of 9 thought embeddings"):
        forward(make("llama"), trace((1, 12)))


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("phi3", {}, "with q_proj, k_proj and v_proj"),  # one fused projection
        ("gpt2", {"n_layer": 2, "n_head": 4}, "with q_proj, k_proj and v_proj"),
        ("deepseek_v3", {}, "with q_proj, k_proj and v_proj"),  # latent attention
        ("eit", {}, "with q_proj, k_proj and v_proj"),
        ("partialformer", {"num_key_value_heads": 4}, "with q_proj, k_proj and v_proj"),
        ("hunyuan_v1_dense", {"head_dim": 8}, "added to its keys do not reach the cache"),  # a norm after the rotation
        ("olmo", {"clip_qkv": 0.1}, "added to its keys do not reach the cache"),
        ("exaone4", {}, "cannot take thought embeddings"),  # the norm sees heads before tokens
    ],
)
def test_models_that_cannot_take_them_are_refused(model_type, changes, why):
    lm = family(model_type, **changes)
    for inventory in (4, None):
        with pytest.raises(UserError, match=why):
            attach(lm.model, inventory)
    assert thoughts_of(lm.model) is None


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["mistral", "mixtral", "olmo2", "gemma2", "gpt_oss", "smollm3", "granite"])
def test_further_families_take_them(model_type):
    lm = family(model_type, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    implementation = lm.model.config._attn_implementation
    attach(lm.model, 3)
    assert lm.model.config._attn_implementation == implementation
    fill(lm)
    check(TransformersBackend(lm, "padded"))


def test_a_table_is_given_once():
    lm = make("llama", None)
    hooks = attach(lm.model, None)
    assert attach(lm.model, 4) is hooks
    assert (hooks.inventory, hooks.table.shape) == (4, (2, 5, 8))
    assert attach(lm.model, 4) is hooks
    with pytest.raises(UserError, match="4 thought embeddings already, 5 were asked for"):
        attach(lm.model, 5)
    with pytest.raises(UserError, match="at least one path number, given 0"):
        attach(make("llama", None).model, 0)


# ---- the engine ----


def backend_of(lm, kind):
    return LeanBackend(lm) if kind == "lean" else TransformersBackend(lm, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model_type"),
    sweep(
        [(kind, name) for kind in ("lean", "flat", "padded") for name in FAMILIES],
        [*(("lean", name) for name in FAMILIES), ("flat", FAMILIES[0]), ("padded", FAMILIES[-1])],
    ),
)
def test_cached_steps_equal_one_forward(model_type, kind):
    lm = make(model_type)
    backend = backend_of(lm, kind)
    check(backend)
    for labels, trained in (((5,), 0), ((2, 9), 1), (tuple(range(9, 0, -1)), 4)):
        layout = trace(labels, trained)
        expected = forward(lm, layout)
        assert furthest(decoded_tree(backend, layout), expected) < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_the_engine_hooks_a_model_for_its_first_scale(kind):
    lm, layout = make("qwen3", None), trace(trained=1)
    backend = TransformersBackend(lm, kind)
    decoded = decoded_tree(backend, layout)
    assert lm.model.config._attn_implementation == "sdpa"
    assert furthest(decoded, by_hand(make("qwen3", None), layout)) < 1e-5 * decoded.abs().max()
    with pytest.raises(UserError, match="cannot take thought embeddings or a scale"):
        decoded_tree(TransformersBackend(family("phi3"), kind), layout)


@pytest.mark.parametrize("kind", ["lean", "flat", "padded"])
def test_the_engine_refuses_numbers_above_the_inventory(kind):
    with pytest.raises(UserError, match="path number 10 is above"):
        decoded_tree(backend_of(make("qwen2"), kind), trace((1, 10)))


@pytest.mark.parametrize("kind", ["lean", "flat", "padded"])
def test_half_precision(kind):
    lm = make("qwen3")
    exact = forward(lm, trace(trained=1))
    lm.model.to(torch.bfloat16)
    half = forward(lm, trace(trained=1))
    assert half.dtype == torch.bfloat16
    assert ((half - exact).square().mean().sqrt() / exact.std()) < 0.1
    backend = backend_of(lm, kind)
    check(backend)
    assert ((decoded_tree(backend, trace(trained=1)) - half).square().mean().sqrt() / exact.std()) < 0.05


def test_forwards_in_half_precision_over_whole_weights_stay_in_half_precision():
    lm, seen = make("qwen2"), []
    for projection in (lm.model.model.layers[0].self_attn.k_proj, lm.model.model.layers[0].self_attn.q_proj):
        projection.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        forward(lm, trace(trained=1))  # the first one puts the table's hooks before the ones above
        forward(lm, trace(trained=1))
    assert set(seen) == {torch.bfloat16}


def test_an_engine_draws_with_them():
    lm = make("qwen3")
    rollouts = Engine(lm).generate([Request(tuple(lm.encode("a b c")))], SamplingParams(max_trace_tokens=24))
    assert rollouts[0].segments[0].tokens


def test_counts():
    thoughts = thoughts_of(make("qwen2").model)
    assert isinstance(thoughts, Thoughts)
    assert sum(p.numel() for p in thoughts.parameters()) == 2 * (INVENTORY + 1) * 8
