"""The lean forward of the Llama family: the numbers of the model itself, or a refusal."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.device import DEVICE, FAST, OTHER
from helpers.sweep import sweep
from helpers.tiny import drawn, family, gaps, lean_towards, requests, thinker, tiny
from polythink.engine.backends import lean as backend
from polythink.engine.backends.lean import LeanBackend
from polythink.engine.engine import Engine
from polythink.engine.lean import cpu_ops
from polythink.engine.lean.family import Unfit, describe
from polythink.engine.params import SamplingParams
from polythink.engine.selfcheck import _masked
from polythink.engine.step import StepBatch
from polythink.engine.tree_check import decoded_tree
from polythink.errors import UserError
from polythink.models.forward import evaluating

TOLERANCE = 1e-5  # of log-probabilities, float32
PARAMS = SamplingParams(
    paths=2, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=110
)
FAMILIES = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu", "head_dim": 16}),
    "llama-yarn": ("llama", {"head_dim": 8, "rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 64,
    }}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {
        "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True,
    }),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]}),
    "gemma": ("gemma", {"head_dim": 8, "num_key_value_heads": 1}),
    "gemma2-without-a-cap-on-scores": ("gemma2", {
        "head_dim": 8, "sliding_window": 6, "attn_logit_softcapping": None, "final_logit_softcapping": 5.0,
    }),
    "gemma3": ("gemma3_text", {
        "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }),
}  # fmt: skip


def of(name: str):
    """A tiny model whose norms matter, too: random, they are all ones or zeros."""
    model_type, changes = FAMILIES[name]
    lm = family(model_type, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.3 * noise).to(parameter))
    return lean_towards(lm, {"<Parallel>": 2.0})


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def logprobs(rollouts) -> list[float]:
    return [x for r in rollouts for s in r.segments for x in s.logprobs]


def furthest(backend, rollouts) -> float:
    """The largest difference of log-probabilities, all tokens of the vocabulary after every token of the traces,
    between the backend's steps and one masked forward, windows included."""
    found = []
    for layout in (rollout.layout() for rollout in rollouts):
        with evaluating(backend.lm.model):
            a, b = (x.log_softmax(-1) for x in (decoded_tree(backend, layout), _masked(backend, layout)))
        found.append((a - b).abs().max().item())
    return max(found)


@pytest.fixture
def packing(monkeypatch):
    """Weights are packed from the second step of a hold on, however small they are."""
    monkeypatch.setattr(backend, "PACK_AFTER", 2)
    monkeypatch.setattr(cpu_ops, "LARGE", 1)
    for name in ("TURNED_ROWS", "TURNED_ROWS_WIDE"):
        monkeypatch.setattr(cpu_ops, name, 2)


# those without anything that another one lacks are long
PLAIN = ("llama", "qwen2", "mistral", "mistral-window")


@pytest.mark.parametrize("name", sweep(FAMILIES, FAMILIES.keys() - PLAIN))
def test_each_family_equals_the_flat_backend_and_one_masked_forward(name):
    lm = of(name)
    with quiet():
        auto = Engine(lm, max_num_seqs=4)
    assert auto.backend.kind == FAST
    wanted, params = requests(lm, 3), PARAMS.model_copy(update={"max_main_tokens": 8, "max_trace_tokens": 60})
    found = auto.generate(wanted, params, seed=3)
    joined = [r for r in found if any(s.kind == "summary" for s in r.segments)]
    assert furthest(auto.backend, joined[:1]) < TOLERANCE
    flat = Engine(lm, max_num_seqs=4, backend="flat").generate(wanted, params, seed=3)
    assert [drawn(r) for r in found] == [drawn(r) for r in flat]
    assert logprobs(found) == pytest.approx(logprobs(flat), abs=TOLERANCE)


@pytest.mark.parametrize("name", sweep(["llama-biases", "llama-tied", "gemma3"], ["llama-biases", "gemma3"]))
def test_packed_weights_give_the_same(name, packing):
    lm = of(name)
    engine = Engine(lm, max_num_seqs=4, backend="lean")
    made = []
    step = engine.backend._ops
    engine.backend._ops = lambda batch: made.append(step(batch)) or made[-1]
    found = engine.generate(requests(lm, 3), PARAMS, seed=3)
    if DEVICE.type == "cpu":
        assert [ops.packed is not None for ops in made] == [False] + [True] * (len(made) - 1)
    assert engine.backend._packed is None  # given back with the hold
    flat = Engine(lm, max_num_seqs=4, backend="flat").generate(requests(lm, 3), PARAMS, seed=3)
    assert [drawn(r) for r in found] == [drawn(r) for r in flat]
    assert logprobs(found) == pytest.approx(logprobs(flat), abs=TOLERANCE)


@pytest.mark.skipif(not cpu_ops.multiplies_bfloat16(torch.bfloat16), reason="a CPU that multiplies bfloat16")
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_packed_from_one_row_on(autocast, packing):
    """As near to one masked float32 forward as without, under autocast too."""
    lm = of("llama-biases")
    exact = copy.deepcopy(lm)
    if not autocast:
        lm.model.bfloat16()
        exact.model.load_state_dict(lm.model.state_dict())
    worst = {}
    for packs in (False, True):
        engine = Engine(lm, max_num_seqs=1, backend="lean")
        made, step = [], engine.backend._ops
        engine.backend._ops = lambda batch, made=made, step=step: made.append(step(batch)) or made[-1]
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if not packs:
                patch.setattr(backend, "may_pack", lambda family: False)
            found = engine.generate(requests(lm, 3), PARAMS.model_copy(update={"paths": 1}), seed=3)
        assert [ops.packed is not None for ops in made] == [False] + [packs] * (len(made) - 1)
        worst[packs] = max(gaps(exact, found))
    assert worst[True] < max(2 * worst[False], 0.02)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 128, 129])
@pytest.mark.parametrize("bias", [False, True])
def test_the_products_of_a_cpu_agree(rows, bias, monkeypatch):
    monkeypatch.setattr(cpu_ops, "LARGE", 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 64, generator=generator)
    linear = nn.Linear(64, 48, bias)
    ops = cpu_ops.CPUOps.__new__(cpu_ops.CPUOps)
    with torch.no_grad():
        turned = ops.linear(x, linear.weight, linear.bias)
        torch.testing.assert_close(turned, linear(x), atol=1e-5, rtol=0)
    assert turned.is_contiguous()


def test_autocast_gives_what_the_flat_backend_gives():
    lm = of("qwen3")
    lean, flat = (Engine(lm, max_num_seqs=4, backend=kind) for kind in ("lean", "flat"))
    exact = lean.generate(requests(lm, 4), PARAMS, seed=3)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found, flat = (engine.generate(requests(lm, 4), PARAMS, seed=3) for engine in (lean, flat))
    assert logprobs(found) != logprobs(exact)
    same = [(a, b) for a, b in zip(found, flat, strict=True) if drawn(a) == drawn(b)]
    assert same
    for a, b in same:
        assert logprobs([a]) == pytest.approx(logprobs([b]), abs=0.1)


def test_half_precision_stays_close():
    lm = tiny(dtype="bfloat16")
    engine = Engine(lm, max_num_seqs=4, backend="lean")
    found = gaps(lm, engine.generate(requests(lm, 5), PARAMS, seed=3))
    assert sum(found) / len(found) < 2e-2


# ---- the weights are the model's own ----


def train(lm) -> None:
    """One large step of an optimiser."""
    lm.model.train()
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=0.05)
    ids = torch.tensor([lm.encode("a b c a b")], device=lm.device)
    lm.model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    lm.model.eval()


def assign(lm) -> None:
    """New parameters under the old names."""
    lm.model.load_state_dict({k: v * 1.3 for k, v in lm.model.state_dict().items()}, assign=True)


def overwrite(lm) -> None:
    for parameter in lm.model.parameters():
        parameter.data.mul_(1.3)


def grow(lm) -> None:
    """A module replaced."""
    attention = lm.model.model.layers[1].self_attn
    new = nn.Linear(attention.o_proj.in_features, attention.o_proj.out_features, bias=True, device=lm.device)
    attention.o_proj = new


@pytest.mark.parametrize("change", [train, assign, overwrite, grow])
def test_what_a_trainer_does_between_two_calls_is_seen(change, packing):
    lm = tiny(seed=2)
    engine = Engine(lm, max_num_seqs=4, backend="lean")
    wanted = requests(lm, 3)
    before = engine.generate(wanted, PARAMS, seed=3)
    change(lm)
    with quiet():
        after = engine.generate(wanted, PARAMS, seed=3)
    assert logprobs(after) != logprobs(before)
    assert max(gaps(lm, after)) < TOLERANCE
    flat = Engine(lm, max_num_seqs=4, backend="flat").generate(wanted, PARAMS, seed=3)
    assert [drawn(r) for r in after] == [drawn(r) for r in flat]


def test_a_description_copies_nothing():
    lm = of("gemma3")
    own = {id(p) for p in lm.model.parameters()}
    found = describe(lm.model)
    norms = [n for layer in found.layers for n in (layer.before_attention, layer.after_mlp, layer.key_norm)]
    linears = [n for layer in found.layers for n in (layer.query, layer.out, layer.gate, layer.down)]
    assert {id(x.weight) for x in (*norms, *linears, found.norm, found.head, found.embedding)} <= own
    assert [layer.window for layer in found.layers] == [6, None]
    assert {layer.rotary for layer in found.layers} == {0, 1}
    assert found.rotaries[0].frequencies[1] != found.rotaries[1].frequencies[1]


# ---- what is refused ----


def nothing(*args):
    return None


def adapt(model) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], r=2), model)


class Other(nn.Linear):
    """A linear layer that computes something else, as quantised ones do."""


def replaced(model) -> None:
    model.model.layers[1].mlp.up_proj = Other(32, 48, bias=False, device=model.device)


def forward_of(module) -> None:
    plain = module.forward
    module.forward = lambda *args, **named: plain(*args, **named)


CHANGES = {
    "a hook on Linear": lambda m: m.model.layers[0].mlp.down_proj.register_forward_hook(nothing),
    "a hook on LlamaMLP": lambda m: m.model.layers[1].mlp.register_forward_pre_hook(nothing),
    "a hook on LlamaRMSNorm": lambda m: m.model.norm.register_forward_hook(nothing),
    "a hook on LlamaDecoderLayer": lambda m: m.model.layers[1].register_forward_hook(nothing),
    "a hook on LlamaForCausalLM": lambda m: m.register_forward_pre_hook(nothing),
    "a hook on Embedding": lambda m: m.model.embed_tokens.register_forward_hook(nothing),
    "a changed forward of LlamaRotaryEmbedding": lambda m: forward_of(m.model.rotary_emb),
    "a changed forward of Linear": lambda m: forward_of(m.lm_head),
    "Other where Linear is known": replaced,
    "2 layers, of which 1 run": lambda m: setattr(m.config, "num_hidden_layers", 1),
    "LlamaAttention with other parts than known: sink": lambda m: setattr(
        m.model.layers[0].self_attn, "sink", nn.Identity()
    ),
    "LlamaAttention with parameters of its own: sinks": lambda m: setattr(
        m.model.layers[0].self_attn, "sinks", nn.Parameter(torch.zeros(4))
    ),
}


@pytest.mark.parametrize("why", CHANGES)
def test_what_the_forward_does_not_compute_is_refused(why):
    lm = family("llama")
    CHANGES[why](lm.model)
    with pytest.raises(Unfit, match=why):
        describe(lm.model)
    with pytest.raises(UserError, match=f"takes plain models of the Llama family, and this one has {why}"):
        Engine(lm, backend="lean")


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "gpt2 is not of the Llama family"),
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}, "is not of the Llama family"),
        ("gemma2", {"head_dim": 8}, "a soft cap on attention scores"),
        ("gemma3_text", {"head_dim": 8, "use_bidirectional_attention": True}, "attention that is not causal"),
        ("llama", {"hidden_act": "relu"}, "the activation 'relu'"),
    ],
)
def test_other_models_are_refused(model_type, changes, why):
    with pytest.raises(Unfit, match=why):
        describe(family(model_type, **changes).model)


def test_an_adapter_is_refused():
    pytest.importorskip("peft")
    lm = family("llama")
    adapt(lm.model)
    with pytest.raises(Unfit, match="Linear where Linear is known"):
        describe(lm.model)


def test_a_window_that_the_layer_is_not_told_of_is_refused():
    lm = family("gemma3_text", sliding_window=64, head_dim=8)
    lm.model.model.layers[1].self_attn.sliding_window = None
    with pytest.raises(Unfit, match="a sliding window that it is not told of"):
        describe(lm.model)


def test_auto_takes_another_backend_without_a_word_where_the_model_does_not_fit():
    lm = tiny()
    lm.model.model.layers[0].mlp.register_forward_hook(nothing)
    with quiet():
        assert Engine(lm).backend.kind == OTHER


def test_a_hook_that_comes_later_is_honoured_with_a_warning():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=4, backend="lean")
    wanted = requests(lm, 4)
    before = engine.generate(wanted, PARAMS, seed=3)
    handle = lm.model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.warns(UserWarning, match="flat backend: the model has a hook on Qwen3MLP"):
        hooked = engine.generate(wanted, PARAMS, seed=3)
    assert lm.model.config._attn_implementation == "sdpa"
    assert max(gaps(lm, hooked)) < TOLERANCE
    assert logprobs(hooked) != logprobs(before)
    handle.remove()
    with quiet():
        assert logprobs(engine.generate(wanted, PARAMS, seed=3)) == logprobs(before)


# ---- what is honoured ----


@pytest.mark.parametrize("how", ["hook", "hook with keywords", "pre-hook"])
def test_hooks_of_the_head_are_called(how):
    lm = tiny()
    plain = Engine(lm, max_num_seqs=4, backend="lean").generate(requests(lm, 4), PARAMS, seed=3)
    head = lm.model.lm_head
    if how == "hook":
        head.register_forward_hook(nothing)
        head.register_forward_hook(lambda module, args, out: 2 * out + args[0].mean(-1, keepdim=True))
    elif how == "pre-hook":
        head.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    else:
        head.register_forward_hook(lambda module, args, kwargs, out: 2 * out, with_kwargs=True)
    engine = Engine(lm, max_num_seqs=4, backend="lean")
    with quiet():
        found = engine.generate(requests(lm, 4), PARAMS, seed=3)
    assert max(gaps(lm, found)) < TOLERANCE
    assert logprobs(found) != logprobs(plain)


def test_thought_embeddings_and_scaled_queries_stay_lean():
    lm = thinker()
    with quiet():
        engine = Engine(lm, max_num_seqs=4)
        assert engine.backend.kind == FAST
        params = PARAMS.model_copy(update={"length_scaling_above": 1, "paths": 3})
        found = engine.generate(requests(lm, 5), params, seed=3)
        assert engine.backend.family is not None
    assert any(s.kind == "summary" for r in found for s in r.segments)
    assert any(max(r.layout().scales) > 1 for r in found)
    assert max(gaps(lm, found)) < TOLERANCE


def test_several_branches_may_continue_after_one_token():
    """As many wanted as tokens, and still not one each."""
    backend = LeanBackend(tiny())
    batch = StepBatch.every([3, 4, 5], [0, 0, 0], [0, 1, 2])
    with backend.hold():
        backend.open(0, 0, ())
        every = backend.logits(batch)
        twice = backend.logits(replace(batch, wanted=np.array([2, 0, 2])))
    assert torch.equal(twice, every[[2, 0, 2]])


def test_one_backend_of_a_model_is_made_while_another_holds_it():
    """The description reads nothing that holding changes."""
    lm = tiny()
    with Engine(lm, backend="flat").hold():
        assert LeanBackend(lm).family is not None
