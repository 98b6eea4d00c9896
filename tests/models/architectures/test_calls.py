"""What callers hand to the forwards: the cache under both its names, keywords that are unknown, a cache in training."""

from __future__ import annotations

import pytest
import torch

from helpers.shapes import make, tokens
from polythink.models.architectures.calls import CACHE_NAME, CACHE_NAMES
from polythink.models.forward import cache_argument

BACKBONES = pytest.mark.parametrize("backbone", ["causal", "seq2seq"])
NAMES = pytest.mark.parametrize("name", ["vanilla", "eit", "e_eit", "partialformer"])


def given(backbone: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs under which the generating side reads `ids`."""
    return {"input_ids": ids} if backbone == "causal" else {"input_ids": tokens(2, 6, seed=4), "decoder_input_ids": ids}


@NAMES
@BACKBONES
@pytest.mark.parametrize("argument", CACHE_NAMES)
@torch.no_grad()
def test_the_cache_is_taken_under_both_names(name, backbone, argument):
    model, ids = make(name, backbone), tokens(2, 9)
    first = model(**given(backbone, ids[:, :5]), use_cache=True)
    then = model(**given(backbone, ids[:, 5:]), **{argument: first[CACHE_NAME]})
    torch.testing.assert_close(then.logits, model(**given(backbone, ids)).logits[:, 5:], atol=1e-5, rtol=0)
    assert then[CACHE_NAME] is first[CACHE_NAME]
    assert then[CACHE_NAME].get_seq_length() == 9
    assert cache_argument(model) == "cache", "the engine asks"


@BACKBONES
@pytest.mark.parametrize("training", [False, True])
def test_generation_reads_each_token_once(backbone, training):
    """Also in training mode with gradient checkpointing: without gradients no layer runs twice."""
    model, ids, read = make("partialformer", backbone), tokens(2, 6), []
    how = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, use_cache=False, **how)
    if training:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    model.decoder.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    assert torch.equal(model.generate(ids, **how), expected)
    assert read == [6 if backbone == "causal" else 1, 1, 1, 1, 1]


@BACKBONES
def test_two_caches_are_refused(backbone):
    model = make("vanilla", backbone)
    caches = {name: model(**given(backbone, tokens(2, 3)), use_cache=True)[CACHE_NAME] for name in CACHE_NAMES}
    with pytest.raises(TypeError, match="both `cache` and `past_key_values`"):
        model(**given(backbone, tokens(2, 3)), **caches)


@BACKBONES
@pytest.mark.parametrize("keyword", ["past_key_value", "path_ids", "cu_seq_lens_q", "head_mask"])
def test_an_unknown_keyword_is_refused(backbone, keyword):
    """One that is None asks for nothing."""
    model, inputs = make("vanilla", backbone), given(backbone, tokens(2, 3))
    with pytest.raises(TypeError, match=f"no argument '{keyword}'"):
        model(**inputs, **{keyword: torch.ones(2, 3)})
    assert torch.equal(model(**inputs, **{keyword: None}).logits, model(**inputs).logits)


@BACKBONES
def test_a_filled_cache_under_gradient_checkpointing_is_refused(backbone):
    """It was dropped, so the tokens were read as if nothing stood before them."""
    model, ids = make("vanilla", backbone), tokens(2, 6)
    with torch.no_grad():
        past = model(**given(backbone, ids[:, :3]), use_cache=True)[CACHE_NAME]
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ValueError, match="turn the checkpointing off"):
        model(**given(backbone, ids[:, 3:]), cache=past)
    assert model(**given(backbone, ids), use_cache=True).get(CACHE_NAME) is None


def test_labels_that_stand_where_they_are_predicted():
    model, ids = make("vanilla"), tokens(2, 6)
    shifted = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    torch.testing.assert_close(model(ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)
