"""The maths: against torch's attention, against the formulas written out, and the identities behind fast paths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from helpers.shapes import make, make_config, tokens
from helpers.sweep import sweep
from polythink.errors import UserError
from polythink.models.architectures import ARCHITECTURES
from polythink.models.architectures.attention import split
from polythink.models.architectures.e_eit import EfficientInteractiveAttention
from polythink.models.architectures.eit import InteractiveAttention
from polythink.models.architectures.partialformer import PartialAttention

B, T, D_MODEL, HEADS = 2, 7, 32, 4


def attention(cls, name: str, role: str = "target", **fields):
    """One attention module in float64, torch's default weights."""
    torch.manual_seed(1)
    config = make_config(name, **fields)
    config._attn_implementation = "sdpa"
    return cls(config, role, 0).double().eval()


def inputs(seed: int = 3) -> torch.Tensor:
    return torch.randn(B, T, D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def triangle() -> torch.Tensor:
    return torch.ones(T, T, dtype=torch.bool).tril()[None, None]


def torch_attention(module) -> nn.MultiheadAttention:
    """torch's own, with the module's projections."""
    oracle = nn.MultiheadAttention(D_MODEL, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([p.weight for p in (module.q_proj, module.k_proj, module.v_proj)]))
        oracle.in_proj_bias.copy_(torch.cat([p.bias for p in (module.q_proj, module.k_proj, module.v_proj)]))
        oracle.out_proj.weight.copy_(module.o_proj.weight)
        oracle.out_proj.bias.copy_(module.o_proj.bias)
    return oracle


def pick_diagonal(module: InteractiveAttention) -> None:
    """Weights under which interaction is the identity: a +/- pair of channels carries a map through the relu."""
    with torch.no_grad():
        for index, mixing in enumerate(module.mixings):
            for layer in (mixing.expand, mixing.reduce):
                layer.weight.zero_()
                layer.bias.zero_()
            middle, share = mixing.kernel // 2, mixing.expand.out_channels // HEADS
            for head in range(HEADS):
                for sign in (1, -1):
                    channel = head * share + (sign < 0)
                    into = head if index == 0 or mixing.expand.groups == 1 else 0  # within its group: the own pair
                    out = channel if mixing.reduce.groups == 1 else channel - head * share
                    mixing.expand.weight[channel, into, 0, middle] = sign
                    mixing.reduce.weight[head, out, 0, middle] = sign


# ---- against torch ----


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (InteractiveAttention, "eit"),
        (InteractiveAttention, "eit-wide"),
        (EfficientInteractiveAttention, "e_eit"),
        (EfficientInteractiveAttention, "e_eit-wide"),
    ],
)
def test_interaction_that_is_the_identity_is_multi_head_attention(cls, name):
    module, x = attention(cls, name), inputs()
    pick_diagonal(module)
    found, weights = module(x, mask=triangle(), output_attentions=True)
    expected, expected_weights = torch_attention(module)(
        x, x, x, attn_mask=~triangle()[0, 0], average_attn_weights=False
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=0)


def test_partialformer_without_its_parts_is_multi_head_attention():
    module = attention(PartialAttention, "partialformer-full", expanded_heads=HEADS, residual_attention=False)
    with torch.no_grad():
        module.reduce.weight.zero_()
        module.reduce.bias.zero_()
        module.gate_proj.weight.zero_()
        module.gate_proj.bias.fill_(1)
    x = inputs()
    expected, _ = torch_attention(module)(x, x, x, attn_mask=~triangle()[0, 0])
    torch.testing.assert_close(module(x, mask=triangle())[0], expected, atol=1e-6, rtol=0)


# ---- against the formulas, written out ----


def partialformer_formula(layer, shared, x, start, weights=1.0, hidden=1.0, out=1.0) -> torch.Tensor:
    """Head by head, token by token, as in the docstring of the module; `start` is the input of the stack.

    `weights`, `hidden` and `out` are factors where its three dropouts stand: the attention weights, after the relu of
    the head feed-forward, and its output.
    """
    head_mlp = layer.head_scaling is not None
    size, heads, groups = 8, 6, 4 if head_mlp else 6
    q, k, v, u = (p(x) for p in (layer.q_proj, layer.k_proj, layer.v_proj, layer.gate_proj))
    q0, k0 = shared.q_proj(shared.norm(start)), shared.k_proj(shared.norm(start))

    def head(y, h):
        return y[..., h * size : (h + 1) * size]

    logits = torch.stack([head(q, g) @ head(k, g).mT / math.sqrt(size) for g in range(groups)], -1)  # (B, T, S, G)
    if head_mlp:
        first, second = layer.head_scaling.expand, layer.head_scaling.mix
        logits = (logits @ first.weight[:, :, 0, 0].T + first.bias).relu() @ second.weight[:, :, 0, 0].T + second.bias
    parts = []
    for h in range(heads):
        a = logits[..., h] + head(q0, h) @ head(k0, h).mT / math.sqrt(size)
        z = weights * a.masked_fill(~triangle()[0], -math.inf).softmax(-1) @ head(v, h)
        parts.append(z + out * layer.reduce(hidden * layer.expand(z).relu()))
    return layer.o_proj(torch.cat(parts, -1) * u.relu())


@pytest.mark.parametrize("head_mlp", [True, False])
def test_partialformer_is_its_formula(head_mlp):
    """With residual attention from the stack."""
    model = make("partialformer", head_mlp=head_mlp).double()
    layer, shared, x = model.decoder.layers[0].self_attention, model.decoder.shared, inputs()
    found, _ = layer(x, None, *shared(x, None))
    torch.testing.assert_close(found, partialformer_formula(layer, shared, x, x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", [{}, {"hidden_dropout": 0.4}, {"add_dropout": True, "hidden_dropout": 0.4},
                                     {"add_dropout": True}])  # fmt: skip
def test_where_the_dropouts_of_partialformer_stand(monkeypatch, options):
    """With dropout replaced by x (1 + p): its place and its probability, each by another number."""
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, *_: x * (1 + p) if training else x)
    probabilities = {"dropout": 0.5, "attention_dropout": 0.2, "activation_dropout": 0.3}
    model = make("partialformer", **probabilities, **options).double()
    layer, shared, x = model.decoder.layers[0], model.decoder.shared, inputs()
    given = shared(x, None)
    after = 1 + options.get("hidden_dropout", 0.1) * options.get("add_dropout", False)
    for training, factors in ((True, (1.2, 1.3, after)), (False, (1, 1, 1))):
        layer.train(training)
        block = partialformer_formula(layer.self_attention, shared, layer.self_norm(x), x, *factors)
        expected = x + (1.5 if training else 1) * block
        torch.testing.assert_close(layer(x, None, *given)[0], expected, atol=1e-10, rtol=0)


def test_eit_is_its_formula():
    """Map by map with torch's own 1-D convolution, zeros where the mask forbids before each of the four."""
    module, x = attention(InteractiveAttention, "eit-wide"), inputs()
    q, k, v = (split(p(x), HEADS) for p in (module.q_proj, module.k_proj, module.v_proj))
    allowed = triangle()[0, 0]
    size = D_MODEL // HEADS
    expected = torch.zeros(B, T, D_MODEL, dtype=torch.float64)
    for t in range(T):
        rows = torch.stack(
            [q[:, i, t, None] @ k[:, j].mT / math.sqrt(size) for i in range(HEADS) for j in range(HEADS)], 1
        )
        maps = rows[:, :, 0]  # (B, M*M, S): map i*M + j
        for mixing, groups in zip(module.mixings, (HEADS, 1), strict=True):
            for layer in (mixing.expand, mixing.reduce):
                maps = nn.functional.conv1d(
                    maps * allowed[t], layer.weight[:, :, 0], layer.bias, padding=mixing.kernel // 2, groups=groups
                )
                maps = maps.relu() if layer is mixing.expand else maps
        weights = maps.masked_fill(~allowed[t], -math.inf).softmax(-1)
        expected[:, t] = torch.einsum("bms,bmsd->bmd", weights, v).flatten(1)
    torch.testing.assert_close(module(x, mask=triangle())[0], module.o_proj(expected), atol=1e-10, rtol=0)


# ---- identities and fast paths, each held to its plain form ----


def test_two_sums_of_products_are_one():
    """The concatenation identity: SDPA on [Q; Q_0], [K; K_0] equals softmax(Q K^T + Q_0 K_0^T) V formed eagerly."""
    generator = torch.Generator().manual_seed(0)
    q, k, q0, k0, v = (torch.randn(2, 6, T, 8, dtype=torch.float64, generator=generator) for _ in range(5))
    logits = (q @ k.mT + q0 @ k0.mT) / math.sqrt(8)
    expected = logits.masked_fill(~triangle(), -math.inf).softmax(-1) @ v
    found = nn.functional.scaled_dot_product_attention(
        torch.cat([q, q0], -1), torch.cat([k, k0], -1), v, attn_mask=triangle(), scale=1 / math.sqrt(8)
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    model = make("partialformer-full").double()
    ids = tokens(2, 9)
    fused = model(ids).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(fused, model(ids).logits, atol=1e-10, rtol=0)


INTERACTIVE = pytest.mark.parametrize(
    ("cls", "name"), [(InteractiveAttention, "eit"), (EfficientInteractiveAttention, "e_eit")]
)


def with_gradient(module, fold: bool, x: torch.Tensor, **how) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of the weights that fold."""
    module.fold = fold
    out = module(x, **how)[0]
    return out, torch.autograd.grad(out.square().sum(), module.mixings[0].expand.weight)[0]


@INTERACTIVE
@pytest.mark.parametrize("how", ["causal", "free", "padded", "paths", "one query", "chunks"])
def test_the_folded_first_convolution_is_the_plain_one(cls, name, how):
    """In float64, outputs and gradients, under every kind of mask."""
    chunks = {"chunk_elements": 3 * B * T * 4} if how == "chunks" else {}
    role = "source" if how in ("free", "padded") else "target"
    module, x, masks = attention(cls, name, role, **chunks), inputs(), {}
    if how == "padded":
        masks["mask"] = (torch.arange(T) < torch.tensor([[T - 3], [T]]))[:, None, None]
    if how == "paths":
        masks["mask"] = triangle().clone()
        masks["mask"][..., 5:, 3:5] = False
    x = x[:, :1] if how == "one query" else x
    found, expected = (with_gradient(module, fold, x, **masks) for fold in (True, False))
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=1e-10, rtol=1e-10)


def test_folding_is_chosen_where_it_pays():
    """M = 4 heads of 8: by products a cell, and not for the single queries of decoding."""

    def pays(name: str, queries: int, **fields) -> bool:
        return make_config(name, **fields).folds(queries)

    assert not pays("eit", 1000), "32 channels for 16 pairs"
    assert pays("eit", 1000, isi_channels=16)
    assert pays("e_eit", 100)
    assert not any(pays(name, 1) for name in ("eit", "e_eit"))
    assert not any(pays(name, 1000) for name in ("eit-wide", "e_eit-wide")), "a wide kernel reads forbidden keys"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"),
    sweep(
        [(name, way) for name in ("eit", "eit-wide", "e_eit", "partialformer") for way in ("causal", "seq2seq")],
        [("eit", "causal"), ("eit-wide", "seq2seq"), ("e_eit", "causal"), ("partialformer", "seq2seq")],
    ),
)
def test_chunks_of_query_rows_change_nothing(name, backbone):
    """Outputs and gradients, with padding, and with dropout of the attention weights off."""
    ids, real = tokens(2, 11), torch.ones(2, 11, dtype=torch.long)
    real[1, 8:] = 0
    found = {}
    for limit in (1 << 26, 2000, 1):
        model = make(name, backbone, chunk_elements=limit).double().train()
        out = model(ids, attention_mask=real, labels=ids)
        out.loss.backward()
        found[limit] = (out.logits, [p.grad for p in model.parameters()])
    for limit in (2000, 1):
        torch.testing.assert_close(found[limit][0], found[1 << 26][0], atol=1e-12, rtol=0)
        for a, b in zip(found[limit][1], found[1 << 26][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_chunks_bound_the_memory_of_the_backward_pass():
    """Floats that autograd keeps for one layer's maps, counted, not timed."""

    def kept(limit: int) -> int:
        module = attention(InteractiveAttention, "eit", chunk_elements=limit)
        x = torch.randn(1, 64, D_MODEL, dtype=torch.float64)
        largest = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: largest.append(t.numel()) or t, lambda t: t):
            module(x)
        return sum(largest)

    assert kept(64 * 64) < kept(1 << 26) / 5


# ---- initialisation ----


@pytest.mark.parametrize("name", ["eit", "e_eit", "partialformer-own"])
def test_alive_logits(name):
    """Standard deviation of logits over keys, from the weights they give: almost none as published, vanilla has .46."""
    ids, found = tokens(4, 24), {}
    for way in ("published", "alive"):
        config = make_config(name, initialisation=way, hidden_size=64, num_attention_heads=4)
        torch.manual_seed(0)
        model = ARCHITECTURES[config.model_type][2](config).eval()
        out = model.encoder(ids, output_attentions=True)
        found[way] = out.attentions[0].log().std(-1).mean().item()
    assert found["published"] < 0.15 < 0.2 < found["alive"] < 1.5, found


# ---- mistakes ----


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("vanilla", {"hidden_size": 30}, "not a multiple of num_attention_heads 4"),
        ("partialformer", {"hidden_dropout": 1.5}, "a probability from 0 to below 1, not 1.5"),
        ("vanilla", {"initialisation": "lively"}, "must be 'published' or 'alive'"),
        ("eit", {"isi_kernel": 4}, "has no middle; use an odd number"),
        ("eit", {"csi_channels": 6}, "6 channels cannot be shared by 4 heads"),
        ("eit", {"interaction_in": ["encoder"]}, "may name source, target, cross"),
    ],
)
def test_shapes_that_cannot_be(name, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        make_config(name, **fields)
