"""Traces as training data in each mode: what is laid out, what carries loss, and what cannot be drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from polythink.engine.params import SamplingParams
from polythink.models.batch import collate
from polythink.models.build import ModelConfig, from_config
from polythink.models.logprobs import token_logprobs
from polythink.problems.prompts import Prompt
from polythink.trace.modes import MODES
from polythink.trace.parse import TraceError
from polythink.train.config import SFTConfig
from polythink.train.data import StoredTraces, TraceEncoder, encode_rows, fault_of
from polythink.train.data_keys import DataConfig
from polythink.train.sft import accumulate_gradient, count_scored

BARE = Prompt("bare", "{problem}")
SHAPE = dict(num_hidden_layers=2, tokenizer="bytes", max_position_embeddings=1024)
PLAIN = "go <Parallel><Path> a </Path><Path> b c </Path></Parallel>\n<Summary> both </Summary> so 7"
HEADED = (
    "go <Parallel>\n<Goal>two\n<Outline>1: sum</Outline>\n<Outline>2: product</Outline>\n</Goal>\n<Path>\n1: a{inner}"
    "</Path>\n<Path>\n2: b</Path>\n<Conclusion>both</Conclusion>\n</Parallel> so 7"
)
INNER = (
    " <Parallel>\n<Goal>\n<Outline>1.1: x</Outline>\n</Goal>\n<Path>\n1.1: x</Path>\n<Conclusion>y</Conclusion>\n"
    "</Parallel> z"
)
NESTED, HEADED = HEADED.format(inner=INNER), HEADED.format(inner="")


@pytest.fixture(scope="module", params=["parallel_r1", "multiverse"])
def case(request):
    """A model of a dialect, and a trace with two paths of different lengths."""
    lm = from_config(ModelConfig(**SHAPE), request.param, seed=4)
    return lm, PLAIN if request.param == "parallel_r1" else HEADED


def encoder(lm, mode: str, **params) -> TraceEncoder:
    return TraceEncoder(lm, SamplingParams(mode=mode, **params), BARE)


@pytest.mark.parametrize("mode", MODES)
def test_a_trace_is_laid_out_as_its_mode_is_trained(case, mode: str) -> None:
    lm, trace = case
    layout, trained = encoder(lm, mode)("1 + 1?", trace), MODES[mode].trained
    drawn, laid = encoder(lm, mode), encoder(lm, trained.name)("1 + 1?", trace)
    for fact in ("tokens", "segment", "position", "previous", "sees"):
        assert np.array_equal(getattr(layout, fact), getattr(laid, fact)) or not trained.isolated, fact
    assert (layout.position == np.arange(len(layout))).all() == (not trained.isolated)
    assert ("copy" in layout.kinds) == trained.rereads
    flat = encoder(lm, "sequential")("1 + 1?", trace)
    assert layout.tokens[layout.shown].tolist() == flat.tokens.tolist(), "the text is the same in every mode"
    # who writes a tag is a matter of drawing: what the runtime writes is forced, however the trace is laid out
    structured = encoder(lm, "structured")("1 + 1?", trace)
    written = structured if drawn.mode.isolated else flat
    assert layout.sampled[layout.shown].tolist() == written.sampled.tolist()


@pytest.mark.parametrize("loss_on", ["sampled", "response"])
def test_what_is_read_again_carries_no_loss(case, loss_on: str) -> None:
    lm, trace = case
    plain, again = (encoder(lm, mode)("1 + 1?", trace) for mode in ("structured", "reread"))
    assert len(again) > len(plain)
    assert count_scored(again, loss_on) == count_scored(plain, loss_on)
    config = SFTConfig(steps=1, loss_on=loss_on)
    batch = collate([again], lm.pad)
    with torch.no_grad():
        logprobs = token_logprobs(lm.model, batch, wanted=getattr(batch, loss_on))
    loss, tokens = accumulate_gradient(lm, config, [again])
    assert tokens == count_scored(plain, loss_on)
    assert loss == pytest.approx(-logprobs.sum().item() / tokens, rel=1e-5)
    packed, _ = accumulate_gradient(lm, config.model_copy(update={"pack": 2 * len(again)}), [again, again])
    assert packed == pytest.approx(loss, rel=1e-5)


def test_a_copy_counts_as_tokens_to_hold_and_the_message_says_so(case) -> None:
    lm, trace = case
    layout = encoder(lm, "reread")("1 + 1?", trace)
    copied = int((~layout.shown).sum())
    assert fault_of(layout, len(layout), 1024) == ("", "")
    reason, why = fault_of(layout, len(layout) - 1, 1024)
    assert reason == "too long"
    assert f"({copied} of them read again at a join)" in why


@pytest.mark.parametrize(
    ("mode", "most"), [("structured", 2), ("unseen_published", 2), ("reread", 0), ("seen_published", 0)]
)
def test_the_most_paths_are_those_that_a_join_reads_at_once(case, mode: str, most: int) -> None:
    lm, trace = case
    encode = encoder(lm, mode)
    assert StoredTraces([encode("1 + 1?", trace)], 0, encode.mode).most_paths == most


# ---- what cannot be drawn ----


@pytest.fixture(scope="module")
def multiverse():
    return from_config(ModelConfig(**SHAPE), "multiverse", seed=4)


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if mode.isolated])
def test_nested_blocks_are_data_down_to_the_depth_that_is_drawn(multiverse, mode: str) -> None:
    with pytest.raises(TraceError, match="opens none below max_depth=1") as caught:
        encoder(multiverse, mode)("1 + 1?", NESTED)
    assert caught.value.reason == "nested"
    layout = encoder(multiverse, mode, max_depth=2)("1 + 1?", NESTED)
    assert layout.kinds.count("copy") == 2 * MODES[mode].trained.rereads
    with pytest.raises(TraceError, match="early_join truncates plain paths"):
        encoder(multiverse, mode, max_depth=2)("1 + 1?", NESTED, early_join=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_path_without_the_heading_that_is_forced_is_refused_where_the_runtime_writes_it(multiverse, mode) -> None:
    wrong = HEADED.replace("<Path>\n2: b", "<Path>\n3: b")
    rows = [{"question": "1 + 1?", "trace": text} for text in (HEADED, wrong)]
    dropped: Counter = Counter()
    found = encode_rows(rows, "rows", encoder(multiverse, mode), DataConfig(file="rows"), 900, 0, dropped)
    isolated = MODES[mode].isolated
    assert dropped == ({"form: path_heading": 1} if isolated else {})
    assert len(found.layouts) == (1 if isolated else 2)


def test_a_summary_prefix_is_no_matter_where_the_format_has_no_summary() -> None:
    lm = from_config(ModelConfig(**SHAPE), "threadweaver", seed=4)
    trace = (
        "go <Parallel>\n<Outlines>\n<Outline>1: sum</Outline>\n</Outlines>\n<Thread>\n1: a</Thread>\n</Parallel> so 7"
    )
    assert len(encoder(lm, "reread", summary_prefix="so")("1 + 1?", trace)) > 0
