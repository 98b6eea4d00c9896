"""The flat training forward against its twin, the transformers module over padded rows: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.layouts import VOCABULARY, block_of, draw, piece, sharp_model, some_layouts
from helpers.tiny import family as tiny_family
from polythink.engine.lean.family import Unfit, describe
from polythink.models.batch import collate, number_contexts
from polythink.models.logprobs import logits_after, token_logprobs
from polythink.models.thoughts import attach
from polythink.trace.layout import lay_out
from polythink.train import flat, flat_ops
from polythink.train.flat import LONGEST, beginning, fits, plain_family, read_once, training_logits
from polythink.train.optimiser import micro_batches

TOLERANCE = 1e-5  # relative, float32
HALF = 0.05  # relative, bfloat16


def alike(seed: int = 0, count: int = 6, mode: str = "structured"):
    """Traces of one prompt whose paths begin alike, as the rollouts of a group."""
    found, common = [], draw(np.random.default_rng(seed), 3)
    for i in range(count):
        rng = np.random.default_rng(i // 2)  # every second one is the same as the one before it
        _, _, block = block_of(rng, 0, 3)
        paths = [piece("path", [*common, *p.tokens], 0, p.path) for p in block[:-1]]
        pieces = [piece("prompt", common), piece("main", common), *paths, block[-1], piece("main", draw(rng, 3))]
        found.append(lay_out(pieces, mode))
    return found


def both(model, batch, temperature=1.0, wanted=None, autocast=False):
    """Log-probabilities and gradients of the flat forward and of its twin."""
    results = []
    for logits_of in (training_logits(model, batch), logits_after):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = token_logprobs(model, batch, temperature, wanted, logits_of)
        weight = torch.linspace(0.5, 1.5, found.numel()).view(found.shape)  # no two tokens count the same
        (found * weight).sum().backward()
        results.append((found.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    return results


def check(results) -> None:
    (flat, flat_grads), (twin, twin_grads) = results
    assert (flat - twin).abs().max() < TOLERANCE * twin.abs().max()
    for name, grad in twin_grads.items():
        assert grad.abs().max() > 0, name
        assert (flat_grads[name] - grad).abs().max() < TOLERANCE * grad.abs().max(), name


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", ["structured", "reread", "sequential"])
def test_values_and_gradients_are_those_of_the_module(mode: str, shared: bool) -> None:
    model = sharp_model()
    layouts = [*alike(mode=mode), lay_out([piece("prompt", [1, 2]), piece("main", [3])], mode)]
    batch = collate(layouts, contexts=shared)
    temperature = torch.where(torch.arange(batch.tokens.shape[1]) % 2 == 0, 0.7, 1.3).expand(batch.tokens.shape)
    assert training_logits(model, batch) is not logits_after
    check(both(model, batch, temperature, batch.sampled))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral", "gemma", "gemma3_text"])
def test_other_families_and_shapes(model_type: str) -> None:
    changes = {"head_dim": 8} if model_type.startswith("gemma") else {}
    model = tiny_family(model_type, vocab_size=VOCABULARY, **changes).model
    assert fits(model)
    batch = collate(some_layouts())
    assert training_logits(model, batch) is not logits_after
    check(both(model, batch))


@pytest.mark.parametrize("window", [4, 64])
def test_positions_beyond_a_window_are_left_to_the_module(window: int) -> None:
    kinds = ["sliding_attention", "full_attention"]
    model = tiny_family(
        "gemma3_text", vocab_size=VOCABULARY, head_dim=8, sliding_window=window, layer_types=kinds
    ).model
    batch = collate(some_layouts())
    assert 4 <= int(batch.positions.max()) < 64
    assert (training_logits(model, batch) is logits_after) == (window == 4)
    check(both(model, batch))


def test_tied_embeddings() -> None:
    model = tiny_family("llama", vocab_size=VOCABULARY, tie_word_embeddings=True).model
    check(both(model, collate(alike(), contexts=True)))


def test_tokens_of_equal_contexts_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, held = sharp_model(), collate(alike(), contexts=True), []
    run = flat.run
    monkeypatch.setattr(flat, "run", lambda family, x, *rest: held.append(len(x)) or run(family, x, *rest))
    token_logprobs(model, batch, logits_of=training_logits(model, batch))
    assert held == [len(torch.unique(batch.contexts[batch.real]))]
    assert held[0] < int(batch.real.sum()) / 2


def test_equal_numbers_are_equal_hidden_states() -> None:
    layouts = alike() + some_layouts()
    numbers = number_contexts(layouts)
    batch = collate(layouts)
    with torch.no_grad():
        hidden = sharp_model().model(
            input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        )[0]
    states = torch.stack([hidden[torch.from_numpy(numbers == n)][0] for n in range(numbers.max() + 1)])
    assert (hidden[batch.real] - states[torch.from_numpy(numbers)[batch.real]]).abs().max() < 1e-4
    assert (numbers[~batch.real.numpy()] == -1).all()


def test_what_tells_contexts_apart() -> None:
    def numbers(*pieces, mode="structured"):
        return number_contexts([lay_out([piece("prompt", [7]), *pieces], mode)])[0].tolist()

    two = [piece("path", [1, 2], 0, 1), piece("path", [1, 3], 0, 2), piece("summary", [4], 0)]
    assert numbers(*two) == [0, 1, 2, 1, 3, 4]  # paths that begin alike, until they differ
    assert numbers(*two, mode="sequential") == [0, 1, 2, 3, 4, 5]  # where the second one reads the first
    one, other, join = piece("path", [1], 0, 1), piece("path", [1], 0, 2), piece("summary", [4], 0)
    joined = [lay_out([piece("prompt", [7]), *paths, join], "structured") for paths in ([one], [one, other])]
    assert number_contexts(joined)[:, :4].tolist() == [[0, 1, 2, -1], [0, 1, 1, 3]]  # a join of one path, and of two


def test_rows_of_one_prompt_stay_together() -> None:
    assert micro_batches([3, 9, 4, 5, 8], 2, ["a", "b", "a", "b", "c"]) == [[1, 3], [4, 2], [0]]
    first, second = alike(0, 2), alike(1, 2)
    assert beginning(first[0]) == beginning(first[1]) != beginning(second[0])


def scaled(model, batch):
    batch.query_scale[0, 0] = 1.5


def hooked(model, batch):
    model.model.layers[0].register_forward_hook(lambda *_: None)


def with_thoughts(model, batch):
    attach(model, 3)


def halved(model, batch):
    model.to(torch.bfloat16)


def with_dropout(model, batch):
    model.config.attention_dropout = 0.1
    model.train()


@pytest.mark.parametrize("change", [scaled, hooked, with_thoughts, halved, with_dropout], ids=lambda f: f.__name__)
def test_what_is_left_out_goes_through_the_module(change) -> None:
    model, batch = sharp_model(), collate(alike())
    assert training_logits(model, batch) is not logits_after
    change(model, batch)
    assert training_logits(model, batch) is logits_after


def test_long_rows_go_through_the_module() -> None:
    model = sharp_model()
    long = collate([lay_out([piece("prompt", [1] * (LONGEST + 1))], "structured")])
    assert training_logits(model, long) is logits_after


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_under_autocast_products_are_in_bfloat16_and_as_near_to_float32_as_the_modules(model_type, monkeypatch) -> None:
    changes = {"head_dim": 8} if model_type == "gemma3_text" else {}
    model = tiny_family(model_type, vocab_size=VOCABULARY, **changes).model
    batch = collate(alike(), contexts=True)
    (_, exact), _ = both(model, batch)
    kinds, run = [], flat.run
    monkeypatch.setattr(flat, "run", lambda *given: kinds.append(given[-1]) or run(*given))
    (flats, flat_grads), (twins, twin_grads) = both(model, batch, autocast=True)
    assert kinds == [torch.bfloat16]
    assert 0 < (flats - twins).abs().max() < HALF * twins.abs().max()
    own, module = (torch.cat([(g[n] - exact[n]).flatten() for n in exact]).norm() for g in (flat_grads, twin_grads))
    whole = torch.cat([grad.flatten() for grad in exact.values()]).norm()
    assert 0 < own <= 1.5 * module < HALF * whole
    assert all(grad.dtype == torch.float32 for grad in flat_grads.values())


def test_attention_over_rows_in_order_is_the_same_without_gathering(monkeypatch):
    torch.manual_seed(4)
    rows, width = 3, 5
    index = torch.arange(rows * width).view(rows, width)
    mask = torch.zeros(rows, width, width).masked_fill_(torch.ones(width, width).triu(1).bool(), -torch.inf)
    given = [torch.randn(rows * width, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    grad = torch.randn(rows * width, 4, 8)

    def found() -> list[torch.Tensor]:
        out = flat_ops.Attend.apply(*given, index, index.flatten(), mask)
        return [out, *torch.autograd.grad(out, given, grad)]

    fast = found()
    assert flat_ops._is_in_order(index.flatten(), rows * width)
    assert not flat_ops._is_in_order(index.flip(0).flatten(), rows * width)
    monkeypatch.setattr(flat_ops, "_is_in_order", lambda places, tokens: False)
    assert all(map(torch.equal, fast, found()))


def test_a_model_is_read_once_while_it_is_trained_and_anew_after_that(monkeypatch) -> None:
    model, read = sharp_model(), []
    monkeypatch.setattr(flat, "describe", lambda own: read.append(own) or describe(own))
    with read_once(model), read_once(model):
        assert plain_family(model) is plain_family(model)
        assert fits(model)
    assert len(read) == 1
    handle = model.model.layers[0].register_forward_hook(lambda *given: None)
    with read_once(model):
        assert not fits(model)
        with pytest.raises(Unfit, match="hook"):
            plain_family(model)
    handle.remove()
    assert fits(model)
    assert len(read) == 3
