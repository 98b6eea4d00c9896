"""Compiled layers and pieces of the loss against the model as it is. Mostly traced only, without code generation."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from helpers.device import DEVICE
from helpers.layouts import VOCABULARY, sharp_model, some_layouts
from helpers.tiny import family, thinker, tiny
from polythink.errors import UserError
from polythink.models import blocks, compiled
from polythink.models.batch import collate, pack
from polythink.models.compiled import compiling, is_compiled, layers_of
from polythink.models.lm import checkpoint_activations
from polythink.models.logprobs import token_logprobs

CLOSE = 1e-5  # relative, float32


@pytest.fixture
def traced(monkeypatch):
    """torch.compile traces and runs what it has traced as it is; counts start anew."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def run(model, layouts, tables=False, **options):
    """The log-probabilities of the sampled tokens, and the gradients of a weighted sum of them."""
    batch = collate(layouts, tables=tables).to(DEVICE)
    found = token_logprobs(model, batch, wanted=batch.sampled, **options)[:, : max(map(len, layouts))]
    weights = torch.linspace(-1, 1, found.numel(), device=DEVICE).view(found.shape)
    model.zero_grad()
    (found * weights).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"": found.detach(), **grads}


def apart(found, right) -> float:
    assert found.keys() == right.keys()
    return max(((found[n] - right[n]).norm() / right[n].norm().clamp(min=1e-9)).item() for n in right)


@pytest.mark.long
def test_all_layers_are_one_compilation(traced):
    model = sharp_model()
    right = {n: run(model, some_layouts(n)) for n in (2, 4, 6)}
    with compiling(model, True):
        assert apart(run(model, some_layouts(4)), right[4]) < CLOSE
        assert traced() == 1
    own = [layer.forward.__func__ for layer in layers_of(model)]
    assert own == [type(layers_of(model)[0]).forward] * 3, "afterwards the layers are as they were"
    assert apart(run(model, some_layouts(4)), right[4]) == 0
    assert traced() == 1
    with compiling(model, True):
        for rows in (6, 2, 4, 6):  # rows and lengths become variables
            assert apart(run(model, some_layouts(rows)), right[rows]) < CLOSE
    assert traced() == 2


def test_a_model_that_is_compiled_already_stays_as_it_is():
    """With adapters the policy is its own reference, and both are to be compiled."""
    model = sharp_model()
    with compiling(model, True):
        compiled = [layer.forward for layer in layers_of(model)]
        with compiling(model, True):
            assert [layer.forward for layer in layers_of(model)] == compiled
        assert is_compiled(model)
    assert not is_compiled(model)


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.long), True], ids=["rows", "packed"])
def test_flex_attention_in_compiled_layers(traced, flex_on_cpu, packed):
    model, layouts = sharp_model(), some_layouts(6)
    if packed:
        layouts = [pack(layouts[:3]), pack(layouts[3:])]
    right = run(model, layouts)
    with blocks.attending(model, "flex_attention"), compiling(model, True):
        assert apart(run(model, layouts, tables=True), right) < CLOSE
    assert traced() == 1


@pytest.mark.long
def test_flex_attention_over_batches_of_many_shapes(traced, flex_on_cpu):
    """Rows, widths and numbers of segments become variables; layers computed again; two steps, each of which enters."""
    model, layouts = sharp_model().train(), some_layouts(6)
    batches = [layouts[:4], [pack(layouts * 4), pack(layouts[:3] * 5)], [pack(layouts * 2)], [pack(layouts[:2] * 9)]]
    assert len({len(row) // 128 for batch in batches for row in batch}) > 2
    right = [run(model, batch) for batch in batches]
    checkpoint_activations(model)
    for _ in range(2):
        with blocks.attending(model, "flex_attention"), compiling(model, True):
            for batch, one in zip(batches, right, strict=True):
                assert apart(run(model, batch, tables=True), one) < CLOSE
    assert traced() <= 4, "one row is another case than several"


@pytest.mark.long
def test_flex_attention_in_compiled_layers_under_autocast(traced, flex_on_cpu):
    """As far from float32 as dense masks are under autocast, and no further from them."""
    model, layouts = sharp_model().train(), [pack(some_layouts(6)[:3]), pack(some_layouts(6)[3:])]
    checkpoint_activations(model)
    exact = run(model, layouts)
    with torch.autocast("cpu", torch.bfloat16):
        dense = run(model, layouts)
        with blocks.attending(model, "flex_attention"), compiling(model, True):
            found = run(model, layouts, tables=True)
    assert traced() >= 1
    assert apart({"": found[""]}, {"": dense[""]}) < 2 * apart({"": dense[""]}, {"": exact[""]})
    norm = torch.stack([exact[name].norm() for name in exact if name]).norm()
    off = [torch.stack([(a[name] - b[name]).norm() for name in exact if name]).norm() / norm
           for a, b in ((found, exact), (dense, exact))]  # fmt: skip
    assert off[0] < 1.5 * off[1], off


@pytest.mark.parametrize("autocast", [True, False])
def test_flex_attention_is_computed_in_the_type_of_autocast(traced, flex_on_cpu, monkeypatch, autocast):
    """As SDPA: queries and keys come as float32 there, over float32 weights, and values as bfloat16."""
    model, seen = sharp_model(), []
    batch = collate(some_layouts(2), tables=True)

    def stub(module, query, key, value, mask, **more):
        seen.append({x.dtype for x in (query, key, value)})
        return torch.zeros_like(query).transpose(1, 2), None

    monkeypatch.setattr(blocks, "flex_attention_forward", stub)
    with blocks.attending(model, "flex_attention"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        token_logprobs(model, batch)
    assert seen == [{torch.bfloat16 if autocast else torch.float32}] * len(layers_of(model))
    assert blocks.ALL_ATTENTION_FUNCTIONS[blocks.FLEX] is not blocks._attend, "afterwards as before"


@pytest.mark.long
@pytest.mark.parametrize("flex", [False, True], ids=["dense", "flex"])
def test_windows_in_compiled_layers(traced, flex_on_cpu, flex):
    """One compilation of each kind of layer."""
    kinds = ["sliding_attention", "full_attention"]
    shape = {"vocab_size": VOCABULARY, "head_dim": 8, "sliding_window": 6, "layer_types": kinds}
    model = family("gemma3_text", **shape).model
    right = run(model, some_layouts(6))
    with blocks.attending(model, "flex_attention" if flex else "sdpa"), compiling(model, True):
        assert apart(run(model, some_layouts(6), tables=flex), right) < CLOSE
    assert traced() == 2


@pytest.mark.long
def test_layers_that_are_computed_again(traced):
    model = sharp_model().train()
    right = run(model, some_layouts(3))
    checkpoint_activations(model)
    calls = []
    for layer in layers_of(model):
        checkpoint = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *a, f=checkpoint, **k: (calls.append(0), f(*a, **k))[1]
    with compiling(model, True):
        assert apart(run(model, some_layouts(3)), right) < CLOSE
    assert len(calls) == 3
    assert traced() >= 1


@pytest.mark.long
def test_versions_of_one_model_do_not_count_for_another(traced):
    """torch counts them for a function's code, which all models of a class share, and then stops to compile."""
    for number in range(3):
        model = sharp_model()
        with compiling(model, True):
            run(model, some_layouts(2))
        assert traced() == number + 1


@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.long)])
def test_compiled_pieces_of_the_loss(traced, bias):
    model = sharp_model()
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, model.config.vocab_size, device=DEVICE))
    memory = 4 * model.config.vocab_size * 5  # five rows at a time
    temperature = torch.tensor(0.7, device=DEVICE)
    right = run(model, some_layouts(6), temperature=temperature)
    plain = run(model, some_layouts(6), temperature=temperature, memory_bytes=memory)
    assert traced() == 0
    found = run(model, some_layouts(6), temperature=temperature, memory_bytes=memory, fused=True)
    assert traced() == 2, "one of the forward and one of the backward, for whole pieces and the rest"
    assert apart(found, plain) < CLOSE
    assert apart(found, right) < CLOSE


def test_models_that_are_not_compiled():
    lm = tiny()
    with compiling(lm.model, False), compiling(lm.model, "auto"), compiling(None, True):
        assert not is_compiled(lm.model), "auto: on CUDA"
    with compiling(lm.model, True):
        assert is_compiled(lm.model)
    assert not is_compiled(lm.model)
    with (
        pytest.raises(UserError, match="thought embeddings make every layer another"),
        compiling(thinker().model, True),
    ):
        pass
    lm.model._no_split_modules = None
    with (
        pytest.raises(UserError, match=r"compile: true compiles a model's layers.*set compile: false"),
        compiling(lm.model, True),
    ):
        pass


@pytest.mark.long
def test_generated_code():
    """As on a GPU, but for a CPU: torch's own compiler, layers and loss."""
    torch._dynamo.reset()
    model, layouts = sharp_model(), some_layouts(6)
    right = run(model, layouts)
    with compiling(model, True):
        found = run(model, layouts, memory_bytes=4 * model.config.vocab_size * 5, fused=True)
    assert apart(found, right) < CLOSE
