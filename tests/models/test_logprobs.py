"""Log-probabilities along chains, and the masks and attention functions that are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from helpers.device import DEVICE, collate
from helpers.layouts import TOLERANCE, VOCABULARY, block_of, draw, piece, plain_logits, some_layouts
from helpers.tiny import family
from polythink.errors import UserError
from polythink.models.batch import Batch
from polythink.models.logprobs import check_forward, masked_logits, sliding_window, token_logprobs
from polythink.trace.layout import lay_out


def test_log_probabilities_by_hand(model):
    """A chain's log-probabilities are those of the chain alone: `log_softmax` row by row, with temperature."""
    rng = np.random.default_rng(5)
    prompt, main = draw(rng, 4), draw(rng, 2)
    written, _, block = block_of(rng, 0, 3)
    batch = collate([lay_out([piece("prompt", prompt), piece("main", main), *block], "structured")])
    temperature = torch.ones(batch.tokens.shape, device=DEVICE)
    temperature[0, 6:] = 0.7
    with torch.no_grad():
        found = token_logprobs(model, batch, temperature)[0]
    assert found[0] == 0
    start = len(prompt) + len(main)
    for tokens in written:
        ids = prompt + main + tokens
        table = (plain_logits(model, ids) / 0.7).log_softmax(-1)
        for k, token in enumerate(tokens):
            assert found[start + k].item() == pytest.approx(table[5 + k, token].item(), abs=TOLERANCE)
        start += len(tokens)
    table = plain_logits(model, prompt + main).log_softmax(-1)
    assert found[3].item() == pytest.approx(table[2, prompt[3]].item(), abs=TOLERANCE)


def test_wanted_tokens_alone_are_scored_and_alike(model):
    batch = collate(some_layouts())
    with torch.no_grad():
        everything = token_logprobs(model, batch)
        some = token_logprobs(model, batch, wanted=batch.sampled)
    assert (some[~batch.sampled] == 0).all()
    assert (some - everything)[batch.sampled].abs().max() < 1e-5
    assert (token_logprobs(model, batch, wanted=torch.zeros_like(batch.real)) == 0).all()


def test_chunks_change_neither_values_nor_gradients(model, monkeypatch):
    batch = collate(some_layouts(3))

    def run():
        model.zero_grad()
        logprobs = token_logprobs(model, batch)
        logprobs.sum().backward()
        return logprobs.detach(), model.lm_head.weight.grad.clone()

    whole = run()
    monkeypatch.setattr("polythink.models.logprobs.CHUNK_ELEMENTS", 7 * VOCABULARY)
    chunked = run()
    model.zero_grad()
    for a, b in zip(whole, chunked, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


# ---- what goes wrong without an error ----


@pytest.mark.parametrize(
    ("attention", "message"),
    [("eager", "adds a bool mask as 0 and 1"), ("flex_attention", "aborts the process"), ("polythink", "'polythink'")],
)
def test_other_attention_is_refused(model, monkeypatch, attention, message):
    batch = collate(some_layouts(2))
    if attention == "flex_attention" and DEVICE.type != "cpu":
        message = "needs attention 'sdpa'"  # it aborts the process on a CPU only
    monkeypatch.setattr(model.config, "_attn_implementation", attention)
    with pytest.raises(UserError, match=message):
        token_logprobs(model, batch)


def test_masks_that_torch_would_take_silently_are_refused(model):
    batch = collate(some_layouts(2))
    spoilt = {
        "must be bool": batch.mask.float(),
        "shape": batch.mask[:, 0],
        "restart": None,
    }
    for message, mask in spoilt.items():
        with pytest.raises(UserError, match=message):
            masked_logits(model, dataclasses.replace(batch, mask=mask))
    kept = [f.name for f in dataclasses.fields(batch) if f.name != "mask" and getattr(batch, f.name) is not None]
    plain = Batch(**{name: getattr(batch, name)[:1, :5] for name in kept}, mask=None)
    check_forward(model, plain.positions, None)


def test_a_sliding_window_is_refused_only_where_it_would_bite():
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    batch = collate(some_layouts(2))
    check_forward(model, batch.positions, batch.mask)
    config.sliding_window = int(batch.positions.max()) + 1
    check_forward(model, batch.positions, batch.mask)
    config.sliding_window -= 1
    with pytest.raises(UserError, match="sliding window"):
        check_forward(model, batch.positions, batch.mask)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_positions_beyond_the_context_are_refused(model_type):
    """A table of learned positions has no row for them: an error without a sentence, and on a GPU one of the device."""
    model = family(model_type, n_positions=24, max_position_embeddings=24).model
    layout = lay_out([piece("prompt", [3] * 4), piece("main", [4] * 20)], "structured")
    token_logprobs(model, collate([layout]))
    longer = lay_out([piece("prompt", [3] * 4), piece("main", [4] * 21)], "structured")
    with pytest.raises(UserError, match="a trace reaches position 24 and the model's context holds 24"):
        token_logprobs(model, collate([layout, longer]))


def test_rotary_scaling_is_refused_where_it_would_depend_on_batch_mates():
    scaling = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 24}
    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    model = family("llama", head_dim=8, rope_parameters=scaling | factors).model
    layout = lay_out([piece("prompt", [3] * 4), piece("main", [4] * 20)], "structured")
    token_logprobs(model, collate([layout]))
    longer = lay_out([piece("prompt", [3] * 4), piece("main", [4] * 21)], "structured")
    with pytest.raises(UserError, match=r"position 24, and beyond 24 the model's rotary scaling \(longrope\)"):
        token_logprobs(model, collate([layout, longer]))


def test_qwen_without_local_layers_has_no_window():
    assert sliding_window(Qwen3Config(use_sliding_window=False, sliding_window=8)) is None
    assert sliding_window(Qwen3Config(use_sliding_window=True, sliding_window=8, max_window_layers=1)) == 8
