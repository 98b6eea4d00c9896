"""Supervised fine-tuning: one loss however a batch is divided, data by shares, and going on as if never stopped."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.training import PROMPT, SHAPE, gradients, make_lm, same_bits, weights_of, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.build import ModelConfig, from_config
from polythink.models.logprobs import token_logprobs
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import demonstrate
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.run.jsonl import read_rows as read_table
from polythink.trace.parse import TraceError
from polythink.train.data import TraceEncoder, epoch_index, make_mixture, pack_rows, read_rows, split_by_share
from polythink.train.sft import SFTConfig, accumulate_gradient, count_scored, train_sft

BOTH = (
    {"problems": "mini", "style": "parallel", "weight": 2},
    {"problems": "mini", "style": "sequential", "weight": 1},
)


def config_of(**changes) -> SFTConfig:
    plain = {"kind": "sft", "data": BOTH, "steps": 6, "batch": 12, "lr": 3e-3, "micro_batch": 5, "checkpoint_every": 2}
    return parse_config(SFTConfig, {k: v for k, v in {**plain, **changes}.items() if v is not None}, "test")


def mixture(lm, config, mini, mode="structured", seed=0):
    encode = TraceEncoder(lm, SamplingParams(mode=mode), PROMPT)
    return make_mixture(
        config.data, encode, config.batch, config.max_tokens, seed, lambda name: mini, lambda source: source.file
    )


# ---- one loss ----


def test_loss_and_gradient_do_not_depend_on_the_division(lm, mini):
    layouts = mixture(lm, config_of(), mini).batch(0)
    found = []
    for changes in ({"micro_batch": 12}, {"micro_batch": 1}, {"micro_batch": 5}, {"pack": 150, "micro_batch": 2}):
        lm.model.zero_grad(set_to_none=True)
        found.append((*accumulate_gradient(lm, config_of(**changes), layouts), gradients(lm.model).clone()))
    lm.model.zero_grad(set_to_none=True)
    found.append((*accumulate_gradient(lm, config_of(), layouts[::-1]), gradients(lm.model).clone()))
    for loss, tokens, gradient in found[1:]:
        assert tokens == found[0][1]
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        assert torch.allclose(gradient, found[0][2], atol=1e-6)


def test_loss_by_hand(lm, mini):
    layouts = mixture(lm, config_of(), mini).batch(0)
    total, count = 0.0, 0
    with torch.no_grad():
        for layout in layouts:
            logprobs = token_logprobs(lm.model, collate([layout]))[0].numpy()
            total -= logprobs[layout.sampled].sum()
            count += layout.sampled.sum()
    loss, tokens = accumulate_gradient(lm, config_of(), layouts)
    assert tokens == count
    assert loss == pytest.approx(total / count, abs=1e-5)


def test_forced_tokens_count_only_where_the_response_is_asked_for(lm, mini):
    (layout,) = [x for x in mixture(lm, config_of(), mini).batch(0) if "path" in x.kinds][:1]
    forced = int((~layout.sampled & (layout.segment > 0)).sum())
    assert forced == 3 + 2, "three path_prefixes of paths, the block's closing and the summary's opening"
    assert count_scored(layout, "response") - count_scored(layout, "sampled") == forced


def test_sequential_layouts_sample_every_tag(lm, mini):
    structured, sequential = (mixture(lm, config_of(), mini, mode).batch(0) for mode in ("structured", "sequential"))
    for a, b in zip(structured, sequential, strict=True):
        assert (a.tokens == b.tokens).all(), "a mode is another layout of the same tokens"
        assert b.sampled.sum() == count_scored(a, "response")
        assert (b.position == np.arange(len(b))).all()


def test_loss_falls(lm, mini, tmp_path):
    config = config_of(steps=40, batch=24, micro_batch=24, lr=1e-2, schedule="cosine", checkpoint_every=40)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2


# ---- going on ----


class Stopped(Exception):
    pass


def stop_after(monkeypatch, steps: int):
    """The optimiser fails after so many updates, as a killed process would."""
    from polythink.train import sft

    real, count = sft.update, [0]

    def update(*args):
        if count[0] == steps:
            raise Stopped
        count[0] += 1
        return real(*args)

    monkeypatch.setattr(sft, "update", update)


@pytest.mark.parametrize("finish_reason", [1, 4])
def test_resumed_is_uninterrupted_bit_for_bit(mini, tmp_path, monkeypatch, stop):
    config = config_of(schedule="cosine", warmup=0.2)
    whole, parts = make_lm(), make_lm()
    train_sft(whole, config, mixture(whole, config, mini), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Stopped):
            train_sft(parts, config, mixture(parts, config, mini), tmp_path / "parts")
    again = make_lm()
    train_sft(again, config, mixture(again, config, mini), tmp_path / "parts")
    assert same_bits(weights_of(whole.model), weights_of(again.model))
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_not_trained_further(mini, tmp_path):
    config = config_of()
    lm, again = make_lm(), make_lm()
    first = train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    assert train_sft(again, config, mixture(again, config, mini), tmp_path) == first
    assert same_bits(weights_of(lm.model), weights_of(again.model))


def test_a_broken_checkpoint_is_named(lm, mini, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.pt.*delete it"):
        train_sft(lm, config_of(), mixture(lm, config_of(), mini), tmp_path)


def test_a_checkpoint_of_another_shape_is_named(mini, tmp_path):
    config = config_of(steps=2)
    lm, other = make_lm(), make_lm(hidden_size=16)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    with pytest.raises(UserError, match="cannot go on"):
        train_sft(other, config, mixture(other, config, mini), tmp_path)


# ---- data ----


def test_batches_hold_the_shares_and_depend_on_seed_and_step_alone(lm, mini):
    config = config_of()
    one, two = (mixture(lm, config, mini) for _ in range(2))
    one.batch(0)
    batch = one.batch(3)
    assert Counter("path" in layout.kinds for layout in batch) == {True: 8, False: 4}
    same = two.batch(3)
    assert all((a.tokens == b.tokens).all() for a, b in zip(batch, same, strict=True))
    other = mixture(lm, config, mini, seed=1).batch(3)
    assert any(len(a) != len(b) or (a.tokens != b.tokens).any() for a, b in zip(batch, other, strict=True))


def test_everything_is_read_once_an_epoch():
    orders = [[epoch_index(7, 3, i) for i in range(e * 7, e * 7 + 7)] for e in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] != orders[1]


def test_shares_become_whole_numbers():
    assert split_by_share([0.3, 0.3, 0.2, 0.2], 96) == [29, 29, 19, 19]
    assert sum(split_by_share([1, 1, 1], 128)) == 128
    with pytest.raises(UserError, match="nothing in a batch of 10"):
        split_by_share([1, 1000], 10)


def test_rows_from_a_file(lm, mini, tmp_path):
    rng = random.Random(0)
    rows = [{"question": p.question, "answer": p.answer, "trace": demonstrate(p, DemoStyle(), rng)} for p in mini[:9]]
    rows[0]["trace"] = rows[0]["trace"].replace("</Path>", "", 1)
    rows[1]["prompt"] = "countdown_sequential"
    rows[2]["trace"] += " ok" * 80
    write_jsonl(tmp_path / "rows.jsonl", rows)
    config = config_of(data=[{"file": str(tmp_path / "rows.jsonl")}], steps=None, epochs=2, batch=3, max_tokens=100)
    data = mixture(lm, config, mini)
    assert data.dropped == {"form: path_in_path": 1, "too long": 1}
    assert data.steps(2) == 2 * 7 // 3
    prompts = [lm.decode(layout.tokens[layout.segment == 0]) for i in range(3) for layout in data.batch(i)]
    assert sum(" alone" in prompt for prompt in prompts) >= 1
    flat = mixture(lm, config, mini, mode="sequential")
    assert flat.dropped == {"too long": 1}, "a flat text needs no grammar"


def test_a_path_with_a_block_in_it_cannot_be_cut(lm, mini, tmp_path):
    flat, other = (demonstrate(p, DemoStyle(), random.Random(0)) for p in mini[:2])
    nested = flat.replace("</Path>", other + "</Path>", 1)
    rows = [{"question": mini[0].question, "trace": trace} for trace in (flat, nested)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for truncated, dropped in ((1.0, {"form: nested": 1}), (0.0, {})):
        data = [{"file": str(tmp_path / "rows.jsonl"), "truncated": truncated}]
        assert mixture(lm, config_of(data=data, steps=None, epochs=1, batch=1), mini).dropped == dropped
    with pytest.raises(TraceError) as caught:
        TraceEncoder(lm, SamplingParams(), PROMPT)("", nested, truncated=True)
    assert caught.value.offset == nested.index("<Parallel>", nested.index("<Path>"))


@pytest.mark.parametrize("thoughts", [True, False])
def test_a_flat_text_needs_the_grammar_where_paths_have_thought_embeddings(thoughts, tmp_path):
    """The engine gives the tokens of a path that the model opened their number, well formed or not."""
    lm = from_config(ModelConfig(**SHAPE, thought_embeddings=thoughts), "parathinker", ("a", "b"), seed=0)
    whole, cut = "<think3>a</think3><summary>b</summary>", "<think3>a b"
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "a", "trace": trace} for trace in (whole, cut)])
    encode = TraceEncoder(lm, SamplingParams(mode="sequential"), Prompt("bare", "{problem}"))
    config, dropped = config_of(data=[{"file": "rows.jsonl"}]).data[0], Counter()
    rows = read_rows(tmp_path / "rows.jsonl", encode, config, 100, 0, dropped)
    assert (len(rows), dropped) == ((1, {"form: cut_in_path": 1}) if thoughts else (2, {}))
    assert 3 in rows.layouts[0].labels


def test_a_file_without_usable_rows_is_refused(lm, mini, tmp_path):
    config = config_of(data=[{"file": str(tmp_path / "rows.jsonl")}])
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "1 2 -> 3"}])
    with pytest.raises(UserError, match="needs a text trace"):
        mixture(lm, config, mini)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "1 2 -> 3", "trace": "<Path>"}])
    with pytest.raises(UserError, match="none of its 1 traces"):
        mixture(lm, config, mini)


def test_a_prompt_that_quotes_tags_is_not_a_block():
    lm = from_config(ModelConfig(**SHAPE, tokenizer="bytes"), "parallel_r1")
    layout = TraceEncoder(lm, SamplingParams(), PROMPT)("Log <Parallel><Path>a</Path>", "b", "parallel")
    assert set(layout.kinds) == {"prompt", "main"}
    assert layout.kinds.count("prompt") == 1
    assert (layout.position == np.arange(len(layout))).all()


def test_rows_are_packed_without_loss(lm, mini):
    layouts = mixture(lm, config_of(), mini).batch(0)
    rows = pack_rows(layouts, 150)
    assert len(rows) < len(layouts)
    assert max(map(len, rows)) <= 150
    assert sum(map(len, rows)) == sum(map(len, layouts))
    assert len(pack_rows(layouts, 2)) == len(layouts), "a trace longer than the width has a row of its own"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "either how many steps or how many epochs"),
        ({"data": [{"file": "a", "problems": "b"}]}, "one of file, stage and problems"),
        ({"data": [{"problems": "mini"}]}, "say their share"),
        ({"data": []}, "data"),
        ({"data": [{"file": "a", "paths": 2, "style": "sequential"}]}, r"data\.0: style, paths: how demonstrations"),
        ({"data": [{"stage": "a", "summary": "reference"}]}, "summary: how demonstrations of problems are written"),
        ({"data": [{"file": "a", "labels": "ordered"}]}, "labels: how demonstrations"),
        ({"data": [{"problems": "attribution:train", "weight": 1, "p_right": 0}]}, "p_right: .* only paths and labels"),
        ({"data": [{**BOTH[0], "mode": "sequential", "early_join": 0.5}]}, "early_join: .* are never cut"),
        ({"learning_rate": 1}, "unknown key learning_rate"),
        ({"schedule": "cosin"}, "schedule must be 'constant', 'cosine', 'linear' or 'inverse_sqrt'"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config_of(**changes)


def test_a_configuration_that_was_written_is_read_back():
    """What is written has all keys in it, also those that this source does not heed."""
    attribution = {"problems": "attribution:train", "weight": 1, "paths": [2, 3], "labels": "ordered"}
    for source in ({"file": "a", "early_join": 0.5}, attribution):
        config = config_of(data=[source])
        assert parse_config(SFTConfig, config.model_dump(mode="json"), "read back") == config


def test_demonstrations_have_no_epochs(lm, mini, tmp_path):
    config = config_of(steps=None, epochs=1)
    with pytest.raises(UserError, match="say how many steps"):
        train_sft(lm, config, mixture(lm, config, mini), tmp_path)


def test_autocast_trains(lm, mini, tmp_path):
    config = config_of(autocast=True, steps=2)
    full = accumulate_gradient(lm, config_of(), mixture(lm, config, mini).batch(0))[0]
    lm.model.zero_grad()
    half = accumulate_gradient(lm, config, mixture(lm, config, mini).batch(0))[0]
    assert half != full
    assert half == pytest.approx(full, rel=0.02)


def test_a_source_may_be_laid_out_in_a_mode_of_its_own(lm, mini):
    parallel = {"problems": "mini", "weight": 1, "paths": 3}
    config = config_of(data=[parallel, {**parallel, "mode": "sequential"}])
    found = mixture(lm, config, mini)
    layouts = found.batch(0)
    for layout in layouts[:6]:
        assert layout.kinds.count("path") == 3
        assert layout.position.max() + 1 < len(layout)
    for layout in layouts[6:]:
        assert layout.kinds.count("path") == 3
        assert (layout.position == np.arange(len(layout))).all(), "one behind the other"
        assert (layout.may_attend() == np.tri(len(layout), dtype=bool)).all()


def test_paths_count_where_they_are_at_once(lm, mini, tmp_path):
    """Beyond as many the engine scales attention: flat text with more paths in it has not trained for them."""
    three = {"problems": "mini", "weight": 1, "paths": 3}
    flat = {**three, "paths": 8, "mode": "sequential"}
    assert mixture(lm, config_of(data=[three, flat]), mini).most_paths == 3
    assert mixture(lm, config_of(data=[flat]), mini).most_paths == 0
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"question": mini[0].question, "trace": demonstrate(mini[0], DemoStyle(), random.Random(0))}])
    for mode, most in (("structured", 3), ("sequential", 0)):
        assert mixture(lm, config_of(data=[{"file": str(file), "mode": mode}]), mini).most_paths == most


def test_real_traces(shared_data):
    """Every trace of the published pilot is laid out flat as it stands, and structured where the grammar holds."""
    lm = from_config(ModelConfig(**SHAPE, tokenizer="bytes"), "parallel_r1")
    rows = list(read_table(shared_data / "parallel_gsm8k.parquet"))
    flat, structured = (TraceEncoder(lm, SamplingParams(mode=mode), PROMPT) for mode in ("sequential", "structured"))
    kept = 0
    for row in rows:
        whole = flat("1 + 1", row["trace"])
        assert (whole.position == np.arange(len(whole))).all()
        try:
            layout = structured("1 + 1", row["trace"])
        except TraceError:
            continue
        kept += 1
        assert (layout.tokens == whole.tokens).all()
        assert layout.position.max() + 1 < len(layout) or "path" not in layout.kinds
    assert len(rows) == 241
    assert kept == 239, "two have text where the grammar has none"
