"""Who sees whom: the future, the cache, padding, batch mates, parallel paths; and the fork/join engine on top of it."""

from __future__ import annotations

import pytest
import torch

from helpers.shapes import VARIANTS, make, tokens
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError
from polythink.models.architectures.calls import CACHE_NAME
from polythink.models.batch import collate
from polythink.models.lm import LanguageModel, ModelSettings
from polythink.models.logprobs import token_logprobs
from polythink.models.tokenizers import word_tokenizer
from polythink.trace.dialect import PARALLEL_R1

ALL = pytest.mark.parametrize("name", VARIANTS)
TREES = pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("-wide")])
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


# ---- causality ----


@ALL
def test_the_future_changes_nothing(name):
    """Exactly 0, in both backbones."""
    ids, changed = tokens(2, 12), tokens(2, 12)
    changed[:, 7:] = tokens(2, 5, seed=9)
    model = make(name)
    assert torch.equal(model(ids).logits[:, :7], model(changed).logits[:, :7])
    assert not torch.equal(model(ids).logits[:, 7:], model(changed).logits[:, 7:])
    model = make(name, "seq2seq")
    found = [model(tokens(2, 9, seed=4), decoder_input_ids=x).logits for x in (ids, changed)]
    assert torch.equal(found[0][:, :7], found[1][:, :7])


# ---- the cache ----


@ALL
@pytest.mark.parametrize("sizes", [(1,) * 10, (4, 1, 3, 2)], ids=["one by one", "in chunks"])
def test_incremental_is_full(name, sizes):
    model, ids = make(name), tokens(2, 10)
    full, past, found = model(ids).logits, None, []
    for part in ids.split(sizes, dim=1):
        out = model(part, cache=past, use_cache=True)
        past = out[CACHE_NAME]
        found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), full, **CLOSE)


@ALL
def test_incremental_is_full_with_an_encoder(name):
    model, source, ids = make(name, "seq2seq"), tokens(2, 8, seed=2), tokens(2, 10)
    real = torch.ones(2, 8, dtype=torch.long)
    real[1, 5:] = 0
    full, past, found = model(source, real, decoder_input_ids=ids).logits, None, []
    encoded = model.encoder(source, real)
    for part in ids.split((3, 1, 4, 2), dim=1):
        out = model(attention_mask=real, encoder_outputs=encoded, decoder_input_ids=part, cache=past, use_cache=True)
        past = out[CACHE_NAME]
        found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), full, **CLOSE)


@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("vanilla", 2 * 2 * 32),
        ("eit", 2 * 2 * 32),
        ("partialformer", 2 * (4 + 6) * 8 + 6 * 8),  # L (G + E) D + E D
        ("partialformer-own", 2 * (4 + 6) * 8),
    ],
)
def test_the_cache_holds_what_is_needed_and_no_more(name, floats):
    """Floats a token: keys and values of every layer, and PartialFormer's one key set of the stack."""
    past = make(name)(tokens(3, 10), use_cache=True)[CACHE_NAME]
    held = sum(layer.keys.numel() + layer.values.numel() for layer in past.layers)
    assert held == 3 * 10 * floats


# ---- padding and batches ----


@ALL
def test_left_padding_changes_nothing(name):
    model, ids = make(name), tokens(2, 9)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), ids], 1)
    real = (torch.arange(13) >= 4).long().expand(2, -1)
    expected, found = model(ids).logits, model(padded, attention_mask=real)
    torch.testing.assert_close(found.logits[:, 4:], expected, **CLOSE)
    assert found.logits.isfinite().all()
    first = model(padded[:, :8], attention_mask=real[:, :8], use_cache=True)
    then = model(padded[:, 8:], attention_mask=real, cache=first[CACHE_NAME])
    torch.testing.assert_close(then.logits, expected[:, 4:], **CLOSE)


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_source_changes_nothing(name, side):
    model, source, ids = make(name, "seq2seq"), tokens(2, 8, seed=2), tokens(2, 6)
    nothing, empty = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
    ones = torch.ones(2, 8, dtype=torch.long)
    parts = [(nothing, source), (empty, ones)] if side == "left" else [(source, nothing), (ones, empty)]
    padded, real = (torch.cat(p, 1) for p in parts)
    expected = model(source, decoder_input_ids=ids).logits
    torch.testing.assert_close(model(padded, real, decoder_input_ids=ids).logits, expected, **CLOSE)


@ALL
def test_batch_mates_change_nothing(name):
    model, ids = make(name), tokens(3, 9)
    real = torch.ones(3, 9, dtype=torch.long)
    real[1, :5] = 0
    together = model(ids, attention_mask=real).logits
    for row in (0, 2):
        torch.testing.assert_close(together[row], model(ids[row, None]).logits[0], **CLOSE)
    torch.testing.assert_close(together[1, 5:], model(ids[1, None, 5:]).logits[0], **CLOSE)


# ---- parallel paths ----


def tree(lengths=(6, 4, 3, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (1, 1, T, T) and positions (1, T) of prefix | path | path | join, written by hand, no layout code."""
    prefix, first, second, join = lengths
    total = sum(lengths)
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    mask[prefix + first : prefix + first + second, prefix : prefix + first] = False
    after = prefix + max(first, second)
    positions = [*range(prefix + first), *range(prefix, prefix + second), *range(after, after + join)]
    return mask[None, None], torch.tensor([positions])


@TREES
def test_a_path_inside_a_trace_is_the_path_alone(name):
    model, ids = make(name), tokens(1, 17)
    mask, positions = tree()
    found = model(ids, attention_mask=mask, position_ids=positions).logits
    for span in (slice(6, 10), slice(10, 13)):
        alone = model(torch.cat([ids[:, :6], ids[:, span]], 1)).logits[:, 6:]
        torch.testing.assert_close(found[:, span], alone, **CLOSE)


@TREES
def test_a_sibling_changes_nothing_and_the_join_sees_it(name):
    model, ids = make(name), tokens(1, 17)
    other = ids.clone()
    other[:, 6:10] = tokens(1, 4, seed=8)
    mask, positions = tree()
    a, b = (model(x, attention_mask=mask, position_ids=positions).logits for x in (ids, other))
    assert torch.equal(a[:, 10:13], b[:, 10:13])
    assert not torch.allclose(a[:, 13:], b[:, 13:], atol=1e-3)


WIDE = pytest.mark.parametrize("name", ["eit-wide", "e_eit-wide"])


@WIDE
def test_wide_kernels_are_refused_on_parallel_traces(name):
    """By the forward, and by the engine before it draws anything."""
    mask, positions = tree()
    with pytest.raises(UserError, match=r"kernels wider than one key .* set its kernels to 1 for parallel traces"):
        make(name)(tokens(1, 17), attention_mask=mask, position_ids=positions)
    with pytest.raises(UserError, match="set its kernels to 1"):
        Engine(language_model(name), max_num_seqs=1)


@WIDE
def test_wide_kernels_outside_the_self_attention_of_traces_are_no_matter(name):
    mask, positions = tree()
    make(name, interaction_in=["source"])(tokens(1, 17), attention_mask=mask, position_ids=positions)


# ---- the engine ----


def language_model(name: str) -> LanguageModel:
    """Of one variant, leaning towards blocks so that there is something to fork."""
    tokenizer = word_tokenizer(("a", "b", "c"), PARALLEL_R1)
    model = make(name, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1)
    lm = LanguageModel(model, tokenizer, ModelSettings())
    bias = torch.zeros(len(tokenizer))
    bias[lm.tag_ids["<Parallel>"]] = 3.0
    model.lm_head.register_forward_hook(lambda module, args, out: out + bias.to(out.dtype))
    return lm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("vanilla", "flat"),
        ("eit", "padded"),
        ("e_eit", "padded"),
        ("partialformer", "padded"),
        ("partialformer-full", "flat"),
        ("partialformer-own", "padded"),
    ],
)
def test_the_engine_draws_what_its_slow_twin_draws(name, backend):
    """Forks and joins included; the log-probabilities recorded are those of one masked forward."""
    lm = language_model(name)
    engine = Engine(lm, max_num_seqs=4)
    assert engine.backend.kind == backend
    requests = [Request(tuple(lm.encode("a b c c a"[: 1 + 4 * (i % 3)])), f"p{i}", 0) for i in range(3)]
    decoding = SamplingParams(
        paths=2, max_blocks=2, max_main_tokens=8, max_path_tokens=4, max_summary_tokens=4, max_trace_tokens=50
    )
    found = engine.generate(requests, decoding, seed=1)
    assert sum(s.kind == "path" for r in found for s in r.segments) >= 4
    again = reference_generate(lm, requests, decoding, seed=1)
    assert [[s.tokens for s in r.segments] for r in found] == [[s.tokens for s in r.segments] for r in again]
    for rollout in found:
        layout = rollout.layout()
        forward = token_logprobs(lm.model, collate([layout]))[0, len(rollout.prompt) :]
        drawn = torch.tensor([x for s in rollout.segments for x in s.logprobs])
        sampled = torch.from_numpy(layout.sampled[len(rollout.prompt) :])
        torch.testing.assert_close(drawn[sampled], forward[sampled], atol=1e-4, rtol=0)


@pytest.mark.slow
@TREES
def test_the_engine_takes_half_precision(name):
    """The self-check of a bfloat16 model passes: decoding, one masked forward and each path alone agree."""
    lm = language_model(name)
    lm.model.to(torch.bfloat16)
    assert Engine(lm, max_num_seqs=1).backend.lm.model.dtype == torch.bfloat16
