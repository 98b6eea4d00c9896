"""Thought embeddings and scaled queries on unmodified models: exact, trained, saved, copied, and drawn with."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import silu
from transformers import AutoModelForCausalLM

from helpers.tiny import family
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.selfcheck import _decoded, check
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.build import add_thoughts, from_config, from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, load, save, with_settings
from polythink.models.logprobs import masked_logits, token_logprobs
from polythink.models.thoughts import THOUGHTS_FILE, Thoughts, attach, thoughts_of
from polythink.pipeline.runners import first_model
from polythink.trace.dialect import DIALECTS
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.train.checkpoint import load_checkpoint, save_checkpoint
from polythink.train.config import TrainingConfig
from polythink.train.optimiser import make_optimiser, update

FAMILIES = ("qwen3", "qwen2", "llama")
INVENTORY = 9


def make(model_type: str, inventory: int | None = INVENTORY, filled: bool = True) -> LanguageModel:
    """A tiny model whose attention matters, with vectors as large as its keys."""
    lm = family(model_type, head_dim=8)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)  # ones would hide an addition before the norm's weight
            elif name.endswith("bias"):
                parameter.normal_()
    if inventory is not None:
        attach(lm.model, inventory)
        lm = with_settings(lm, thoughts=inventory)
        if filled:
            fill(lm)
    return lm


def fill(lm: LanguageModel, seed: int = 0) -> None:
    table = thoughts_of(lm.model).table
    with torch.no_grad():
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)))


def trace(labels=(7, 2, 4), trained: int = 0, seed: int = 0) -> Layout:
    """Prompt, a block of paths of different lengths, its summary, and main text."""
    rng = np.random.default_rng(seed)

    def piece(kind: str, n: int, block: int = -1, path: int = 0, label: int = 0) -> Piece:
        return Piece(kind, tuple(rng.integers(0, 9, n).tolist()), (kind != "prompt",) * n, block, path, label)

    paths = [piece("path", 3 + i % 3, 0, i, label) for i, label in enumerate(labels, 1)]
    pieces = [piece("prompt", 4), *paths, piece("summary", 3, 0), piece("main", 2)]
    return lay_out(pieces, "structured", trained_paths=trained)


@torch.no_grad()
def forward(lm: LanguageModel, layout: Layout) -> torch.Tensor:
    return masked_logits(lm.model, collate([layout]))[0]


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.isfinite().all()
    assert b.isfinite().all()
    return (a - b).abs().max().item()


@torch.no_grad()
def by_hand(lm: LanguageModel, layout: Layout, before_norm: bool = False) -> torch.Tensor:
    """Logits (T, V) from the weights, without any code of the model: eq. 4-7 of the paper, scaled scores."""
    model, size = lm.model, 8
    label = torch.tensor(layout.labels)[layout.segment]
    scale = torch.tensor(layout.scales)[layout.segment]
    angle = torch.from_numpy(layout.position)[:, None] / 10_000 ** (torch.arange(0, size, 2) / size)
    cos, sin = (torch.cat([f(angle), f(angle)], dim=1)[:, None] for f in (torch.cos, torch.sin))

    def norm(module, x):
        return module.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    x = model.model.embed_tokens.weight[torch.from_numpy(layout.tokens)]
    for number, layer in enumerate(model.model.layers):
        attention, h = layer.self_attn, norm(layer.input_layernorm, x)
        query, key, value = (
            (h @ p.weight.T + (0 if p.bias is None else p.bias)).view(len(h), -1, size)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        thoughts = thoughts_of(model)
        thought = 0 if thoughts is None else thoughts.table[number][label][:, None]
        key = key + thought if before_norm else key
        if hasattr(attention, "k_norm"):
            query, key = norm(attention.q_norm, query), norm(attention.k_norm, key)
        key, value = key if before_norm else key + thought, value + thought
        query, key = rotate(query), rotate(key)
        key, value = (y.repeat_interleave(query.shape[1] // y.shape[1], dim=1) for y in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) * size**-0.5 * scale[:, None]
        weights = scores.masked_fill(~torch.from_numpy(layout.may_attend()), -torch.inf).softmax(-1)
        x = x + torch.einsum("hqk,khd->qhd", weights, value).flatten(1) @ attention.o_proj.weight.T
        h, mlp = norm(layer.post_attention_layernorm, x), layer.mlp
        x = x + (silu(h @ mlp.gate_proj.weight.T) * (h @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    return norm(model.model.norm, x) @ model.lm_head.weight.T


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
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        told = lm.model(ids, path_ids=torch.zeros(1, 4, dtype=torch.long)).logits
        assert torch.equal(lm.model(ids).logits, told)
        assert furthest(lm.model(ids, path_ids=torch.ones(1, 4, dtype=torch.long)).logits, told) > 0.1


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


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_cached_steps_equal_one_forward(model_type, kind):
    lm = make(model_type)
    backend = TransformersBackend(lm, kind)
    check(backend)
    for labels, trained in (((5,), 0), ((2, 9), 1), (tuple(range(9, 0, -1)), 4)):
        layout = trace(labels, trained)
        expected = forward(lm, layout)
        assert furthest(_decoded(backend, layout), expected) < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_the_engine_hooks_a_model_for_its_first_scale(kind):
    lm, layout = make("qwen3", None), trace(trained=1)
    backend = TransformersBackend(lm, kind)
    decoded = _decoded(backend, layout)
    assert lm.model.config._attn_implementation == "sdpa"
    assert furthest(decoded, by_hand(make("qwen3", None), layout)) < 1e-5 * decoded.abs().max()
    with pytest.raises(UserError, match="cannot take thought embeddings or a scale"):
        _decoded(TransformersBackend(family("phi3"), kind), layout)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_the_engine_refuses_numbers_above_the_inventory(kind):
    with pytest.raises(UserError, match="path number 10 is above"):
        _decoded(TransformersBackend(make("qwen2"), kind), trace((1, 10)))


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_half_precision(kind):
    lm = make("qwen3")
    exact = forward(lm, trace(trained=1))
    lm.model.to(torch.bfloat16)
    half = forward(lm, trace(trained=1))
    assert half.dtype == torch.bfloat16
    assert ((half - exact).square().mean().sqrt() / exact.std()) < 0.1
    backend = TransformersBackend(lm, kind)
    check(backend)
    assert ((_decoded(backend, trace(trained=1)) - half).square().mean().sqrt() / exact.std()) < 0.05


def test_forwards_in_half_precision_over_whole_weights_stay_in_half_precision():
    lm, seen = make("qwen2"), []
    for projection in (lm.model.model.layers[0].self_attn.k_proj, lm.model.model.layers[0].self_attn.q_proj):
        projection.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forward(lm, trace(trained=1))  # the first one puts the table's hooks before the ones above
        forward(lm, trace(trained=1))
    assert set(seen) == {torch.bfloat16}


def test_an_engine_draws_with_them():
    lm = make("qwen3")
    rollouts = Engine(lm).generate([Request(tuple(lm.encode("a b c")))], SamplingParams(max_trace_tokens=24))
    assert rollouts[0].segments[0].tokens


# ---- training ----


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
    ids = torch.tensor([[3, 4, 5]])
    with pytest.raises(RuntimeError):
        lm.model(ids, path_ids=torch.zeros(1, 2, dtype=torch.long))
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
    assert furthest(_decoded(backend, layout), adapted) < 1e-5 * adapted.abs().max()
    for adapter in (wrapped, lm.model):  # the wrapper, and the model in it
        with pytest.raises(UserError, match="merge_and_unload first"):
            save(dataclasses.replace(lm, model=adapter), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    lm.model = wrapped.merge_and_unload()
    save(lm, tmp_path / "model")
    assert furthest(forward(load(tmp_path / "model"), layout), adapted) < 1e-5 * adapted.abs().max()
    assert furthest(forward(lm, layout), adapted) < 1e-5 * adapted.abs().max()
    assert furthest(by_hand(lm, layout), adapted) < 1e-5 * adapted.abs().max()


# ---- folders ----


def test_a_saved_folder_loads_with_its_tables(tmp_path):
    lm, layout = make("qwen3"), trace()
    save(lm, tmp_path)
    back = load(tmp_path)
    assert back.settings == lm.settings
    assert torch.equal(forward(back, layout), forward(lm, layout))
    assert json.loads((tmp_path / "polythink.json").read_text())["thoughts"] == INVENTORY
    assert f"thought embeddings | for 9 path numbers, in `{THOUGHTS_FILE}`" in (tmp_path / "README.md").read_text()
    half = load(tmp_path, dtype="bfloat16")
    assert thoughts_of(half.model).table.dtype == torch.bfloat16


def test_plain_transformers_loads_the_weights_and_loses_the_tables(tmp_path):
    """Without an error: whoever wants the tables must load the folder here."""
    lm, layout = make("qwen3"), trace()
    save(lm, tmp_path)
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    lost = dataclasses.replace(lm, model=plain.eval())
    assert furthest(forward(lost, layout), forward(lm, layout)) > 0.1
    with torch.no_grad():
        thoughts_of(lm.model).table.zero_()
    assert torch.equal(forward(lost, layout), forward(lm, layout))


def test_a_folder_written_again_without_tables_holds_none(tmp_path):
    save(make("qwen3"), tmp_path)
    bare = make("qwen3", None)
    attach(bare.model, None)
    save(bare, tmp_path)
    assert not (tmp_path / THOUGHTS_FILE).exists()
    assert load(tmp_path).settings.thoughts == 0
    settings = json.loads((tmp_path / "polythink.json").read_text())
    del settings["thoughts"]  # as it was written before there were any
    (tmp_path / "polythink.json").write_text(json.dumps(settings))
    assert thoughts_of(load(tmp_path).model) is None


def other_shape(folder, index) -> None:
    table = load_file(folder / THOUGHTS_FILE)["table"]
    save_file({"table": table[index].contiguous()}, folder / THOUGHTS_FILE)


def resettle(folder, **changes) -> None:
    path = folder / "polythink.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / THOUGHTS_FILE).unlink(), "is missing thoughts.safetensors .9 thought"),
        (lambda f: other_shape(f, slice(1)), r"shape \(1, 10, 8\) .* with 9 path numbers needs \(2, 10, 8\)"),
        (lambda f: other_shape(f, (slice(None), slice(4))), r"shape \(2, 4, 8\) .* needs \(2, 10, 8\)"),
        (lambda f: other_shape(f, (..., slice(4))), r"shape \(2, 10, 4\) .* needs \(2, 10, 8\)"),
        (lambda f: resettle(f, thoughts=16), r"shape \(2, 10, 8\) .* with 16 path numbers needs \(2, 17, 8\)"),
        (lambda f: resettle(f, thoughts=0), "has thoughts.safetensors, but its polythink.json does not say so"),
        (lambda f: resettle(f, thoughts=-1), "at least one path number, given -1"),
        (lambda f: resettle(f, thoughts="many"), "is damaged .*thoughts"),
        (lambda f: (f / "polythink.json").unlink(), "has thoughts.safetensors but no polythink.json"),
        (lambda f: (f / THOUGHTS_FILE).write_bytes(b"\0" * 30), r"thoughts.safetensors' is damaged"),
        (lambda f: save_file({"tabel": torch.zeros(1)}, f / THOUGHTS_FILE), r"thoughts.safetensors' is damaged"),
    ],
)
def test_folders_whose_tables_do_not_fit(tmp_path, spoil, message):
    save(make("qwen3"), tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_with_tables_is_not_adopted_without_them(tmp_path):
    save(make("qwen3"), tmp_path)
    (tmp_path / "polythink.json").unlink()
    with pytest.raises(UserError, match=r"has thoughts\.safetensors but no polythink\.json"):
        from_pretrained(ModelConfig(path=str(tmp_path)), "parallel_r1")


def test_a_dialect_without_numbers_has_none():
    with pytest.raises(UserError, match="the dialect 'parallel_r1' numbers none"):
        add_thoughts(make("qwen3", None))
    with pytest.raises(UserError, match="the dialect 'parallel_r1' numbers none"):
        from_config(ModelConfig(thought_embeddings=True), "parallel_r1", ("a",))


@pytest.mark.skipif("parathinker" not in DIALECTS, reason="no dialect numbers its paths")
def test_a_recipe_asks_for_them(tmp_path):
    shape = ModelConfig(hidden_size=32, num_hidden_layers=2, head_dim=8, thought_embeddings=True)
    lm = from_config(shape, "parathinker", ("a", "b"))
    inventory = DIALECTS["parathinker"].inventory
    assert thoughts_of(lm.model).table.shape == (2, inventory + 1, 8)
    assert lm.settings.thoughts == inventory
    bare = from_config(shape.model_copy(update={"thought_embeddings": False}), "parathinker", ("a", "b"))
    save(bare, tmp_path)
    assert load(tmp_path).settings.thoughts == 0
    shape = shape.model_copy(update={"path": str(tmp_path)})
    for given in (from_pretrained(shape, "parathinker"), first_model(shape, "parathinker", 0)):
        assert given.settings.thoughts == thoughts_of(given.model).inventory == inventory
    assert add_thoughts(lm) is lm


SMALL = ModelConfig(hidden_size=32, num_hidden_layers=2, head_dim=8)


def test_a_folder_is_adopted_in_another_dialect(tmp_path):
    """Tags first, then the recipe's dialect, then embeddings for its numbers."""
    save(from_config(SMALL, "parallel_r1", ("a", "b")), tmp_path)
    config = SMALL.model_copy(update={"path": str(tmp_path)})
    with pytest.raises(UserError, match=r"does not hold <think1>, .* set model\.add_tags: true"):
        first_model(config, "parathinker", 0)
    config = config.model_copy(update={"add_tags": True})
    plain = first_model(config, "parathinker", 0)
    assert (plain.dialect.name, plain.settings.thoughts, len(plain.tag_ids)) == ("parathinker", 0, 34)
    marked = first_model(config.model_copy(update={"thought_embeddings": True}), "parathinker:5", 0)
    assert (marked.dialect.inventory, marked.settings.thoughts, thoughts_of(marked.model).inventory) == (5, 5, 5)


def test_embeddings_of_a_folder_are_kept_or_refused(tmp_path):
    lm = from_config(SMALL.model_copy(update={"thought_embeddings": True}), "parathinker", ("a", "b"))
    fill(lm)
    save(lm, tmp_path)
    config = SMALL.model_copy(update={"path": str(tmp_path), "add_tags": True})
    for wanted in (None, True):
        again = first_model(config.model_copy(update={"thought_embeddings": wanted}), "parathinker:8", 0)
        assert torch.equal(thoughts_of(again.model).table, thoughts_of(lm.model).table)
        assert (again.dialect.inventory, again.settings.thoughts) == (8, 16)
    for changes, dialect, message in (
        ({"thought_embeddings": False}, "parathinker", "thought_embeddings: false, but .* has 16 of them"),
        (
            {},
            "parathinker:64",
            "has 16 thought .* 'parathinker:64' numbers 64 .* dialect: parathinker:16",
        ),
        ({"thought_embeddings": True}, "parathinker:64", "has 16 thought embeddings"),
    ):
        with pytest.raises(UserError, match=message):
            first_model(config.model_copy(update=changes), dialect, 0)


def test_counts():
    thoughts = thoughts_of(make("qwen2").model)
    assert isinstance(thoughts, Thoughts)
    assert sum(p.numel() for p in thoughts.parameters()) == 2 * (INVENTORY + 1) * 8
