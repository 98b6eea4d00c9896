"""The formulae of memory and time against true tensors: exact where they count, within a stated factor elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from polythink.bench.floor import Machine, Shape
from polythink.bench.model import shape_of
from polythink.bench.shapes import SHAPES
from polythink.models import compiled
from polythink.models.compiled import compiling
from polythink.models.lm import checkpoint_activations
from polythink.train.config import SFTConfig
from polythink.train.footprint import (
    Drawing,
    Training,
    activation_bytes,
    adapter_parameters,
    cache_bytes,
    drawing_floor,
    layer_activations,
    layer_parameters,
    logits_bytes,
    state_bytes,
    training_flops,
)
from polythink.train.optimiser import make_optimiser

DTYPES = [(torch.float32, 4), (torch.bfloat16, 2)]


def qwen3(layers: int = 2, dtype: torch.dtype = torch.float32, **changes) -> torch.nn.Module:
    shape = dict(
        vocab_size=160, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    config = AutoConfig.for_model("qwen3", **{**shape, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def forward(model: torch.nn.Module, rows: int, tokens: int) -> torch.Tensor:
    """Logits under an explicit mask, as in training."""
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(rows, 1, tokens, tokens)
    return model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(tokens)[None], use_cache=False).logits


def kept_for_backward(model: torch.nn.Module, rows: int, tokens: int) -> int:
    """Bytes of all tensors that a forward keeps, each storage once, parameters and the mask left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.dtype != torch.bool:
            found[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = forward(model, rows, tokens)
    del logits
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(("dtype", "width"), DTYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_gradients_and_moments_are_those_of_the_tensors(dtype, width, tied):
    model = qwen3(dtype=dtype, tie_word_embeddings=tied)
    optimiser = make_optimiser(model, SFTConfig(steps=1))
    forward(model, 1, 4).float().sum().backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    optimiser.step()
    moments = sum(t.nbytes for state in optimiser.state.values() for n, t in state.items() if n != "step")
    found = state_bytes(shape_of(model), Training(weight_bytes=width, compute_bytes=width))
    weights = sum(p.nbytes for p in model.parameters())
    assert found == {"weights": weights, "gradients": gradients, "optimiser": moments}


def test_the_layers_and_the_table():
    """Norms are left out of a layer: five vectors."""
    shape = shape_of(qwen3(tie_word_embeddings=False))
    assert shape.table == 160 * 64
    norms = 2 * 64 + 2 * 32
    assert shape.parameters == 2 * shape.table + 64 + shape.layers * (layer_parameters(shape) + norms)


def test_known_shapes_are_those_of_the_published_models():
    for name, billions in (("0.6b", 0.596), ("4b", 4.022)):
        keys = dict(SHAPES[name])
        config = AutoConfig.for_model("qwen3", vocab_size=keys.pop("vocabulary"), tie_word_embeddings=True, **keys)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            model.tie_weights()
        assert shape_of(model).parameters == pytest.approx(billions * 1e9, rel=1e-3)


def test_several_processes_hold_parts_and_what_is_gathered():
    shape = Shape(1000, 0, 10, 4, 2, 2, 1, 2, 10)
    layer = layer_parameters(shape)
    assert layer == 4 * (2 * 4 + 2 * 2 + 3 * 2)
    how = Training(processes=4, weight_bytes=4, compute_bytes=2, draws=True, reference=True)
    assert state_bytes(shape, how) == {
        "weights": 1000, "gradients": 1000, "optimiser": 2000, "gathered weights": 2 * (1000 - 8 * layer),
        "whole copy to draw": 2000, "reference": 1000,
    }  # fmt: skip
    assert state_bytes(shape, replace(how, reshard=False))["gathered weights"] == 2000
    alone = state_bytes(shape, replace(how, processes=1, reference=False, trained=10))
    state = {"weights": 4000, "gradients": 40, "optimiser": 80}
    assert alone == state | {"weights in bfloat16": 2000, "whole copy to draw": 2000}
    assert state_bytes(shape, replace(how, processes=1, reference=False, trained=10, compute_bytes=4)) == state


@pytest.mark.parametrize(("dtype", "width"), DTYPES)
def test_activations_are_within_a_tenth_of_what_a_forward_keeps(dtype, width):
    """Of a layer: two models whose depths differ, so that embeddings and logits cancel."""
    rows, tokens = 2, 48
    deep, flat = qwen3(4, dtype), qwen3(2, dtype)
    kept = kept_for_backward(deep, rows, tokens) - kept_for_backward(flat, rows, tokens)
    planned = [activation_bytes(shape_of(m), rows * tokens, Training(compute_bytes=width)) for m in (deep, flat)]
    assert kept == pytest.approx(planned[0] - planned[1], rel=0.1)


def test_checkpointing_keeps_the_inputs_of_layers():
    deep, flat = qwen3(4), qwen3(2)
    for model in (deep, flat):
        checkpoint_activations(model)
    kept = kept_for_backward(deep, 2, 48) - kept_for_backward(flat, 2, 48)
    planned = [activation_bytes(shape_of(model), 96, Training(checkpointing=True)) for model in (deep, flat)]
    assert kept == pytest.approx(planned[0] - planned[1], rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "width"), DTYPES)
def test_compiled_layers_keep_what_the_formula_says(monkeypatch, dtype, width):
    """To the byte: as torch divides a layer's graph into forward and backward, whatever makes kernels of them."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager_decomp_partition")
    torch._dynamo.reset()
    deep, flat = qwen3(3, dtype), qwen3(1, dtype)
    with compiling(deep, True), compiling(flat, True):
        kept = kept_for_backward(deep, 2, 48) - kept_for_backward(flat, 2, 48)
    torch._dynamo.reset()
    assert kept == 2 * 96 * layer_activations(shape_of(deep), width, compiled=True)


QWEN3_06B = Shape(596e6, 0, 28, 1024, 3072, 16, 8, 128, 151_936)


@pytest.mark.parametrize(("weight", "compute", "measured"), [(2, 2, 29.4e9), (4, 2, 36.5e9)])
def test_a_peak_that_was_measured_on_an_h200(weight, compute, measured):
    """SFT of the 0.6B shape on 4 traces of 2,048 tokens with whole logits (26 November 2026): within a tenth."""
    how, tokens = Training(weight_bytes=weight, compute_bytes=compute), 4 * 2048
    logits = logits_bytes(QWEN3_06B, tokens, compute, 1 << 26)
    peak = sum(state_bytes(QWEN3_06B, how).values()) + activation_bytes(QWEN3_06B, tokens, how) + logits
    assert peak == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("layers_compiled", "measured", "close"),
    [(False, 23.2e9, 0.1), (False, 21.3e9, 0.12), (True, 15.2e9, 0.1)],
    ids=["dense masks", "flex attention keeps keys and values once", "compiled"],
)
def test_peaks_with_logits_in_pieces(layers_compiled, measured, close):
    """The same traces in bfloat16, on 27 November. Compiled layers kept by torch's own choice then: the outputs of the
    norms and the gate's product too."""
    how, tokens = Training(weight_bytes=2, compute_bytes=2, compiled=layers_compiled), 4 * 2048
    more = tokens * 28 * (2 * 1024 + 3072) * 2 if layers_compiled else 0
    logits = logits_bytes(QWEN3_06B, tokens, 2, 1 << 26, most=1 << 28)
    peak = sum(state_bytes(QWEN3_06B, how).values()) + activation_bytes(QWEN3_06B, tokens, how) + more + logits
    assert peak == pytest.approx(measured, rel=close)


def test_logits_are_whole_where_they_fit_and_in_pieces_where_they_do_not():
    shape = Shape(0, 0, 1, 10, 1, 1, 1, 1, 100)
    assert logits_bytes(shape, 50, 2, 60) == 2 * 5000 * 2 + 3 * 60 * 4
    assert logits_bytes(shape, 50, 2, 60, most=20_000) == logits_bytes(shape, 50, 2, 60)
    assert logits_bytes(shape, 50, 4, 60, most=8_000) == 8_000 + 4 * (1000 + 500)
    assert logits_bytes(shape, 50, 2, 60, most=8_000) == 8_000 + 4 * (1000 + 500) + 4_000 + 2 * 1000


def test_what_is_offloaded_leaves_one_layer():
    how = Training(compute_bytes=2, offloading=True)
    assert activation_bytes(QWEN3_06B, 7, how) == 7 * layer_activations(QWEN3_06B, 2)


def test_operations_of_training_are_those_that_are_counted():
    """Attention is counted with all cells by torch, and as the half that is seen by the formula."""
    model, rows, tokens = qwen3(), 2, 64
    with FlopCounterMode(display=False) as counter:
        forward(model, rows, tokens).sum().backward()
    shape = shape_of(model)
    cells = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in cells.items() if "attention" in str(op))
    planned = training_flops(shape, rows, tokens, Training())
    seen = rows * tokens * 3 * shape.sizes(1).attention_flops * tokens / 2
    assert planned - seen == pytest.approx(sum(cells.values()) - attention, rel=0.01)  # vectors of norms
    assert planned == rows * tokens * 6 * shape.parameters + seen
    more = training_flops(shape, rows, tokens, Training(checkpointing=True), forwards=1)
    assert more == pytest.approx(planned * 10 / 6, rel=0.02)


def test_adapters_are_those_of_peft():
    peft = pytest.importorskip("peft")
    model = qwen3()
    shape = shape_of(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert adapter_parameters(shape, 3) == trained


def test_keys_and_values_are_those_of_a_cache():
    model = qwen3()
    cache = model(input_ids=torch.zeros(3, 20, dtype=torch.long), use_cache=True).past_key_values
    true = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    alone = Drawing(traces=3, at_once=3, samples=1, prompt=5, length=15, paths=1)
    assert cache_bytes(shape_of(model), alone, 4) == true
    shared = cache_bytes(shape_of(model), replace(alone, samples=3, paths=3), 4)
    assert shared == true * (5 + 3 * 15) / 60, "the prompt once for a problem's samples; paths divide a trace's tokens"


def test_the_floor_of_drawing_by_hand():
    """A million weights of 2 bytes at 1 GB/s are 2 ms; 1,000 bytes of keys and values of each of 100 + 10 tokens."""
    shape = Shape(10**6, 0, 1, 1, 1, 1, 250, 1, 10)
    alone = Drawing(traces=4, at_once=2, samples=1, prompt=100, length=20, paths=1)
    machine = Machine(1e9, 1e18)
    step = 2e-3 + 2 * 1000 * (100 + 10) / 1e9
    assert drawing_floor(shape, alone, 2, 2, machine) == pytest.approx(2 * 20 * step)
    forked = drawing_floor(shape, replace(alone, paths=2), 2, 2, machine)
    assert forked == pytest.approx(2 * 10 * (2e-3 + 2 * 1000 * (100 + 2 * 5) / 1e9)), "half the steps"
    assert drawing_floor(shape, alone, 2, 2, Machine(1e18, 4e6)) > 2 * 20 * 1.0, "operations bound it otherwise"
