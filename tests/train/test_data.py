"""What fine-tuning reads: shares, stored rows, demonstrations, and what is dropped or refused."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from helpers.training import BOTH, PROMPT, SHAPE, mixture, sft_config
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import parse_config
from polythink.run.jsonl import read_rows, write_jsonl
from polythink.trace.parse import TraceError
from polythink.train.data import Demonstrations, TraceEncoder, encode_rows, epoch_index
from polythink.train.data_keys import DataConfig
from polythink.train.mixture import mixture_of_rows, pack_rows, split_by_weight


def test_batches_hold_the_shares_and_depend_on_seed_and_step_alone(lm, mini):
    config = sft_config()
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
    assert split_by_weight([0.3, 0.3, 0.2, 0.2], 96) == [29, 29, 19, 19]
    assert sum(split_by_weight([1, 1, 1], 128)) == 128
    with pytest.raises(UserError, match="no trace in a batch of 10"):
        split_by_weight([1, 1000], 10)


def test_rows_from_a_file(lm, mini, tmp_path):
    rng = random.Random(0)
    rows = [{"question": p.question, "answer": p.answer, "trace": demonstrate(p, DemoStyle(), rng)} for p in mini[:9]]
    rows[0]["trace"] = rows[0]["trace"].replace("</Path>", "", 1)
    rows[1]["prompt"] = "countdown_sequential"
    rows[2]["trace"] += " ok" * 80
    write_jsonl(tmp_path / "rows.jsonl", rows)
    config = sft_config(steps=None, epochs=2, batch=3, max_tokens=100)
    source = [{"file": str(tmp_path / "rows.jsonl")}]
    data = mixture(lm, config, mini, data=source)
    assert data.dropped == {"form: path_in_path": 1, "too long": 1}
    assert data.steps(2) == 2 * 7 // 3
    prompts = [lm.decode(layout.tokens[layout.segment == 0]) for i in range(3) for layout in data.batch(i)]
    assert sum(" alone" in prompt for prompt in prompts) >= 1
    flat = mixture(lm, config, mini, mode="sequential", data=source)
    assert flat.dropped == {"too long": 1}, "a flat text needs no grammar"


def test_a_demonstration_that_is_too_long_gives_its_place_to_another(lm):
    config = DataConfig(problems="hard", weight=1, demonstrations={"paths": [2, 4]})

    def drawn(max_tokens: int) -> tuple[list[list[int]], Counter]:
        asked, encode = problems("hard", "train", limit=30), TraceEncoder(lm, SamplingParams(), PROMPT)
        source = Demonstrations(asked, config, encode, 0, max_tokens)
        return [source.layout(i).tokens.tolist() for i in range(60)], source.dropped

    free, none = drawn(4096)
    bound = max(map(len, free)) - 1
    short, dropped = drawn(bound)
    assert max(map(len, free)) > bound >= max(map(len, short))
    assert [b for a, b in zip(free, short, strict=True) if len(a) <= bound] == [a for a in free if len(a) <= bound]
    assert not none
    assert dropped["too long"] >= sum(len(a) > bound for a in free)
    assert drawn(bound) == (short, dropped)
    with pytest.raises(UserError, match=r"50 demonstrations in turn are too long, .* and max_tokens is 9; raise max"):
        drawn(9)


def test_epochs_are_whole_batches_whatever_rounding_says(lm, mini):
    rows = [{"question": p.question, "trace": "1 ok"} for p in mini[:10] * 10]
    encode = TraceEncoder(lm, SamplingParams(mode="sequential"), PROMPT)
    for epochs, batch, steps in ((0.29, 1, 29), (1.15, 5, 23), (0.999, 1, 99)):
        config = sft_config(steps=None, epochs=epochs, batch=batch)
        assert mixture_of_rows(rows, encode, config, 0).steps(epochs) == steps


def test_blocks_within_blocks_are_never_drawn_side_by_side(lm, mini, tmp_path):
    flat, other = (demonstrate(p, DemoStyle(), random.Random(0)) for p in mini[:2])
    nested = flat.replace("</Path>", other + "</Path>", 1)
    rows = [{"question": mini[0].question, "trace": trace} for trace in (flat, nested)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    config = sft_config(steps=None, epochs=1, batch=1)
    for mode, dropped in (("structured", {"form: nested": 1}), ("sequential", {})):
        data = [{"file": str(tmp_path / "rows.jsonl"), "mode": mode}]
        assert mixture(lm, config, mini, data=data).dropped == dropped, "in flat text the model may write anything"
    with pytest.raises(TraceError) as caught:
        TraceEncoder(lm, SamplingParams(), PROMPT)("", nested)
    assert caught.value.offset == nested.index("<Parallel>", nested.index("<Path>"))
    with pytest.raises(TraceError, match="the engine opens none below max_depth=1"):
        TraceEncoder(lm, SamplingParams(), PROMPT)("", flat.replace("</Summary>", other + "</Summary>", 1))


@pytest.mark.parametrize("thoughts", [True, False])
def test_a_flat_text_needs_the_grammar_where_paths_have_thought_embeddings(thoughts, tmp_path):
    """The engine gives the tokens of a path that the model opened their number, well formed or not."""
    lm = from_config(ModelConfig(**SHAPE, thought_embeddings=thoughts), "parathinker", ("a", "b"), seed=0)
    whole, cut = "<think3>a</think3><summary>b</summary>", "<think3>a b"
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "a", "trace": trace} for trace in (whole, cut)])
    encode = TraceEncoder(lm, SamplingParams(mode="sequential"), Prompt("bare", "{problem}"))
    dropped, file = Counter(), tmp_path / "rows.jsonl"
    rows = encode_rows(read_rows(file), str(file), encode, DataConfig(file=str(file)), 100, 0, dropped)
    assert (len(rows), dropped) == ((1, {"form: cut_in_path": 1}) if thoughts else (2, {}))
    assert 3 in rows.layouts[0].labels


def test_a_file_without_usable_rows_is_refused(lm, mini, tmp_path):
    config, data = sft_config(), [{"file": str(tmp_path / "rows.jsonl")}]
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "1 2 -> 3"}])
    with pytest.raises(UserError, match="needs a text trace"):
        mixture(lm, config, mini, data=data)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "1 2 -> 3", "trace": "<Path>"}])
    with pytest.raises(UserError, match="none of its 1 traces"):
        mixture(lm, config, mini, data=data)


def test_a_prompt_that_quotes_tags_is_not_a_block():
    lm = from_config(ModelConfig(**SHAPE, tokenizer="bytes"), "parallel_r1")
    layout = TraceEncoder(lm, SamplingParams(), PROMPT)("Log <Parallel><Path>a</Path>", "b", "parallel")
    assert set(layout.kinds) == {"prompt", "main"}
    assert layout.kinds.count("prompt") == 1
    assert (layout.position == np.arange(len(layout))).all()


def test_rows_are_packed_without_loss(lm, mini):
    layouts = mixture(lm, sft_config(), mini).batch(0)
    rows = pack_rows(layouts, 150)
    assert len(rows) < len(layouts)
    assert max(map(len, rows)) <= 150
    assert sum(map(len, rows)) == sum(map(len, layouts))
    assert len(pack_rows(layouts, 2)) == len(layouts), "a trace longer than the width has a row of its own"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"file": "a", "problems": "b"}, "exactly one of file, stage and problems"),
        ({"problems": "mini"}, "give the weight"),
        ({"file": "a", "demonstrations": {"style": "sequential"}}, "demonstrations are made of problems"),
        ({"stage": "a", "demonstrations": {}}, "demonstrations are made of problems"),
        ({"file": "a", "labels": "ordered"}, "unknown key labels"),
        ({**BOTH[0], "demonstrations": {"pathz": 3}}, "unknown key demonstrations.pathz; did you mean 'paths'"),
        ({**BOTH[0], "demonstrations": {"paths": []}}, "the list is empty"),
        ({"problems": "attribution:train", "weight": 1, "demonstrations": {"p_right": 0}}, "only paths and labels"),
        ({**BOTH[0], "mode": "sequential", "early_join": 0.5}, "leave it out with mode: sequential"),
    ],
)
def test_mistakes_in_a_source(source, message):
    with pytest.raises(UserError, match=message):
        parse_config(DataConfig, source, "test")


def test_a_source_that_was_written_is_read_back():
    """What is written has all keys in it, also those that this source does not use."""
    demonstrations = {"paths": [2, 3], "labels": "ordered"}
    attribution = {"problems": "attribution:train", "weight": 1, "demonstrations": demonstrations}
    for source in ({"file": "a", "early_join": 0.5}, attribution, BOTH[0]):
        config = parse_config(DataConfig, source, "test")
        assert parse_config(DataConfig, config.model_dump(mode="json"), "read back") == config


def test_a_source_may_be_laid_out_in_a_mode_of_its_own(lm, mini):
    parallel = {"problems": "mini", "weight": 1, "demonstrations": {"paths": 3}}
    found = mixture(lm, sft_config(), mini, data=[parallel, {**parallel, "mode": "sequential"}])
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
    three = {"problems": "mini", "weight": 1, "demonstrations": {"paths": 3}}
    flat = {**three, "demonstrations": {"paths": 8}, "mode": "sequential"}
    assert mixture(lm, sft_config(), mini, data=[three, flat]).most_paths == 3
    assert mixture(lm, sft_config(), mini, data=[flat]).most_paths == 0
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"question": mini[0].question, "trace": demonstrate(mini[0], DemoStyle(), random.Random(0))}])
    for mode, most in (("structured", 3), ("sequential", 0)):
        assert mixture(lm, sft_config(), mini, data=[{"file": str(file), "mode": mode}]).most_paths == most


def test_real_traces(shared_data):
    """Every trace of the published pilot is laid out flat as it stands, and structured where the grammar holds."""
    lm = from_config(ModelConfig(**SHAPE, tokenizer="bytes"), "parallel_r1")
    rows = list(read_rows(shared_data / "parallel_gsm8k.parquet"))
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
