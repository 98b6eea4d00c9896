"""Log-probabilities in pieces against whole logits: values, gradients, what is held at a time, and which models fit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.device import DEVICE, collate
from helpers.layouts import VOCABULARY, some_layouts
from helpers.recurrent import FAMILIES
from helpers.tiny import family
from polythink.errors import UserError
from polythink.models.head import HeadLogprobs, plain_head
from polythink.models.logprobs import token_logprobs

CLOSE = 1e-6  # relative, float32
SMALL = 4 * VOCABULARY * 5  # five rows at a time


def run(model, batch, memory_bytes: int, **options):
    """Log-probabilities and all gradients, each token with a weight of its own."""
    model.zero_grad()
    temperature = torch.linspace(0.7, 1.3, batch.tokens.numel(), device=DEVICE).view(batch.tokens.shape)
    found = token_logprobs(model, batch, temperature, memory_bytes=memory_bytes, **options)
    weight = torch.linspace(0.5, 1.5, found.numel(), device=DEVICE).view(found.shape)
    (found * weight).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"values": found.detach(), **grads}


def check(whole: dict, pieces: dict, close: float = CLOSE) -> None:
    assert whole.keys() == pieces.keys()
    for name, expected in whole.items():
        assert expected.abs().max() > 0, name
        assert (pieces[name] - expected).norm() <= close * expected.norm(), name


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation has made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return out


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_pieces_are_the_whole(tied: bool, bias: bool) -> None:
    model = family("llama", vocab_size=VOCABULARY, tie_word_embeddings=tied).model
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, VOCABULARY, device=DEVICE))
    assert plain_head(model)
    batch = collate(some_layouts())
    check(run(model, batch, 1 << 40), run(model, batch, SMALL))
    check(run(model, batch, 1 << 40), run(model, batch, 1))  # a row at a time


def test_hooks_on_the_head_are_honoured() -> None:
    model = family("llama", vocab_size=VOCABULARY).model
    shift = torch.linspace(-2, 2, VOCABULARY, device=DEVICE)
    plain = run(model, batch := collate(some_layouts()), SMALL)
    model.lm_head.register_forward_hook(lambda module, args, out: out + shift)
    whole, pieces = run(model, batch, 1 << 40), run(model, batch, SMALL)
    check(whole, pieces)
    assert (plain["values"] - pieces["values"]).abs().max() > 0.1


def test_adapters_on_the_head() -> None:
    peft = pytest.importorskip("peft")
    model = family("llama", vocab_size=VOCABULARY).model
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))
    batch = collate(some_layouts())
    whole, pieces = run(wrapped, batch, 1 << 40), run(wrapped, batch, SMALL)
    assert sum("lm_head" in name for name in whole) == 2
    check(whole, pieces)


def test_a_frozen_head_gets_no_gradient() -> None:
    model = family("llama", vocab_size=VOCABULARY).model
    model.lm_head.requires_grad_(False)
    batch = collate(some_layouts())
    pieces = run(model, batch, SMALL)
    assert "lm_head.weight" not in pieces
    check(run(model, batch, 1 << 40), pieces)


@pytest.mark.parametrize("kind", ["qwen3_next", "mamba2"])
def test_plain_rows_of_a_recurrent_model(kind) -> None:
    """Mamba asks its head for the type of its weight."""
    model = family(kind, vocab_size=VOCABULARY, **FAMILIES[kind]).model
    batch = collate(some_layouts(1))
    whole, pieces = run(model, batch, 1 << 40), run(model, batch, SMALL)
    assert plain_head(model)
    check(whole, pieces, 1e-5)


def test_logits_changed_after_the_head_stay_whole() -> None:
    model = family("granite", vocab_size=VOCABULARY, logits_scaling=4.0).model
    assert not plain_head(model)
    batch = collate(some_layouts(2))
    whole, same = run(model, batch, 1 << 40), run(model, batch, SMALL)
    assert all(torch.equal(whole[name], same[name]) for name in whole)
    with pytest.raises(UserError, match="float32_head needs a head"):
        token_logprobs(model, batch, float32_head=True)


def test_nothing_as_large_as_the_logits_is_made() -> None:
    model = family("llama", vocab_size=5000).model
    batch, limit = collate(some_layouts()), 4 * 5000 * 10
    scored = int((batch.previous >= 0).sum())
    weights = 4 * model.lm_head.weight.numel()
    made = {}
    for name, memory in (("whole", 1 << 40), ("pieces", limit)):
        with Largest() as largest:
            run(model, batch, memory)
        made[name] = largest.bytes
    assert made["whole"] >= 4 * 5000 * scored > 2 * weights
    assert made["pieces"] <= max(limit, weights)


def test_a_float32_head_of_a_bfloat16_model() -> None:
    exact = family("llama", vocab_size=VOCABULARY).model
    low = copy.deepcopy(exact).bfloat16()
    batch = collate(some_layouts())
    with torch.no_grad():
        hidden = low.model(input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions)[0]
        logits = hidden.float() @ low.lm_head.weight.float().T
        rows, tokens = (batch.previous >= 0).nonzero(as_tuple=True)
        right = logits[rows, batch.previous[rows, tokens]].log_softmax(-1)
        right = right.gather(1, batch.tokens[rows, tokens, None])[:, 0]
        found = token_logprobs(low, batch, float32_head=True)[rows, tokens]
        coarse = token_logprobs(low, batch)[rows, tokens]
    assert (found - right).abs().max() < 1e-5 < 1e-3 < (coarse - right).abs().max()
    grads = run(low, batch, SMALL, float32_head=True)
    assert grads["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_pieces_under_autocast_and_in_half_precision(kind: torch.dtype) -> None:
    """Gradients of pieces are added up in float32: as near to the exact ones as those of whole logits."""
    model = family("llama", vocab_size=VOCABULARY).model.to(kind)
    batch, exact = collate(some_layouts()), copy.deepcopy(model).float()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=kind == torch.float32):
        whole, pieces = run(model, batch, 1 << 40), run(model, batch, SMALL)
    right = run(exact, batch, 1 << 40)["lm_head.weight"]
    off = [(found["lm_head.weight"].float() - right).norm() / right.norm() for found in (whole, pieces)]
    assert off[1] < 1.5 * off[0] < 0.1


def test_the_gradient_is_the_derivative() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((3, 4), (7, 4), (7,)))
    tokens, temperature = torch.tensor([1, 6, 1]), torch.tensor([1.0, 0.5, 2.0])
    right = ((hidden @ weight.T + bias) / temperature[:, None]).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    found = HeadLogprobs.apply(hidden, weight, bias, tokens, temperature, 2, torch.float32, False)
    assert torch.allclose(found, right, atol=1e-6)
    given = torch.tensor([1.0, -2.0, 0.3])
    for a, b in zip(*(torch.autograd.grad(x @ given, (hidden, weight, bias)) for x in (found, right)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


PEAK = """
import resource, sys, torch
from polythink.models.head import HeadLogprobs
torch.set_num_threads(1)
N, E, V, memory = map(int, sys.argv[1:])
hidden, weight = torch.randn(N, E, requires_grad=True), torch.full((V, E), 0.01).requires_grad_()
tokens, temperature = torch.randint(V, (N,)), torch.ones(N)
def run(n, rows):
    how = rows, torch.float32, False
    HeadLogprobs.apply(hidden[:n], weight, None, tokens[:n], temperature[:n], *how).sum().backward()
own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(N, memory // (4 * V))
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own)
"""


@pytest.mark.long
@pytest.mark.parametrize("memory", [1 << 26, 1 << 27])
def test_the_peak_is_what_the_formula_says(memory: int) -> None:
    """Qwen3's vocabulary: the process grows by a piece and the two gradients, where whole logits take 622 MB."""
    N, E, V = 1024, 256, 151_936
    formula = memory + 4 * V * E + 4 * N * E
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, (N, E, V, memory))], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout)
    assert 0.7 * formula < grown < 1.3 * formula < 4 * N * V
