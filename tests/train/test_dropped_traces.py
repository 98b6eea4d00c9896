"""Traces that fine-tuning cannot use: each is counted with its reason, and the others are trained on."""

from __future__ import annotations

import logging
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from helpers.training import SHAPE, make_lm, sft_config
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel
from polythink.problems.prompts import Prompt
from polythink.run.jsonl import read_rows, write_jsonl
from polythink.train.data import TraceEncoder, encode_rows
from polythink.train.data_keys import DataConfig
from polythink.train.sft import train_sft

BARE = Prompt("bare", "{problem}")
GOOD = "1 + 2 ok"


def byte_lm(dialect: str = "parallel_r1", **changes):
    return from_config(ModelConfig(**SHAPE, tokenizer="bytes", **changes), dialect)


def encoded(lm, *traces: str, mode: str = "structured", max_tokens: int = 1000):
    """The layouts that are left, and the reasons why the others are not."""
    rows, dropped = [{"question": "1 2 -> 3", "trace": trace} for trace in traces], Counter()
    encode = TraceEncoder(lm, SamplingParams(mode=mode), BARE)
    return encode_rows(rows, "rows", encode, DataConfig(file="rows"), max_tokens, 0, dropped).layouts, dropped


# ---- control tokens ----


@pytest.mark.parametrize("mode", ["structured", "sequential"])
@pytest.mark.parametrize("make", [make_lm, byte_lm])
@pytest.mark.parametrize(
    "trace",
    [
        "1 {end} + 2",
        "{end} 1",
        "1 + {pad} 2",
        "<Parallel><Path>1 {end}</Path><Path>2</Path></Parallel><Summary>1</Summary>",
    ],
)
def test_a_control_token_inside_a_trace_is_counted(make, mode, trace):
    lm = make()
    spelled = {"end": lm.tokenizer.eos_token, "pad": lm.tokenizer.pad_token}
    (layout,), dropped = encoded(lm, GOOD, trace.format(**spelled), mode=mode)
    assert dropped == {"form: control_token": 1}
    assert lm.decode(layout.tokens[layout.segment > 0]).split() == GOOD.split()


@pytest.mark.parametrize("make", [make_lm, byte_lm])
@pytest.mark.parametrize("tail", ["{end}", " {end}", " {end}\n", "{end} {end}\n"])
def test_an_end_token_that_a_teacher_left_at_the_end_is_the_end(make, tail):
    lm = make()
    (layout,), dropped = encoded(lm, GOOD + tail.format(end=lm.tokenizer.eos_token))
    assert not dropped
    assert layout.tokens.tolist().count(lm.eos) == 1
    assert layout.tokens[-1] == lm.eos
    assert layout.sampled[-1]


def test_control_tokens_of_an_added_vocabulary_are_known():
    lm = byte_lm()
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_start"]})
    lm = LanguageModel(lm.model, lm.tokenizer, lm.settings)  # what a text may not spell is looked up once
    _, dropped = encoded(lm, GOOD, "a <|im_start|>user b", "a < | im_start b")
    assert dropped == {"form: control_token": 1}


# ---- blocks that are never drawn ----


PATHS = "<Path>1</Path><Path>2</Path>"


def test_nested_blocks_are_counted_where_paths_are_drawn_at_once():
    block = f"<Parallel>{PATHS}</Parallel><Summary>1</Summary>"
    in_path = block.replace("2</Path>", f"2 {block}</Path>")
    in_summary = block.replace("1</Summary>", f"{block} 1</Summary>")
    flat = f"{block} 1 {block}"
    layouts, dropped = encoded(make_lm(), flat, in_path, in_summary)
    assert (len(layouts), dropped) == (1, {"form: nested": 2})
    layouts, dropped = encoded(make_lm(), flat, in_path, in_summary, mode="sequential")
    assert (len(layouts), dropped) == (3, {})


@pytest.mark.parametrize("between", ["", " then ", "\n"])
def test_where_the_runtime_forks_it_forks_once(between):
    block = "<think3>a</think3><think1>b</think1><summary>c</summary>"
    lm = from_config(ModelConfig(**SHAPE, tokenizer="bytes"), "parathinker")
    layouts, dropped = encoded(lm, block, f"{block}{between}{block}", f"{block} d")
    assert (len(layouts), dropped) == (2, {"form: second_block": 1})
    layouts, dropped = encoded(lm, block, f"{block}{between}{block}", mode="sequential")
    assert (len(layouts), dropped) == (2, {})


# ---- length ----


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_traces_beyond_the_context_are_counted_and_the_rest_trained(architecture, tmp_path):
    """Position 63 is the last one; the prompt has 8 tokens, the end token is one more."""
    lm = byte_lm(architecture=architecture, max_position_embeddings=64)
    rows = [{"question": "1 2 -> 3", "trace": "1" * n} for n in (20, 55, 56, 300, 20)]
    found = train_sft(lm, sft_config(batch=3, steps=2), rows, tmp_path, prompt=BARE)
    assert found["dropped"] == {"beyond the context": 2}


def test_positions_count_and_not_tokens():
    """Two paths of 30 tokens reach no further than one."""
    lm = byte_lm(max_position_embeddings=64)
    text = f"<Parallel><Path>{'1' * 30}</Path><Path>{'2' * 30}</Path></Parallel><Summary>1</Summary>"
    layouts, dropped = encoded(lm, text)
    assert len(layouts[0]) > 64 > layouts[0].position.max()
    _, dropped = encoded(lm, GOOD, text, mode="sequential")
    assert dropped == {"beyond the context": 1}


def test_traces_beyond_a_window_that_masks_do_not_have_are_counted():
    lm = byte_lm(
        architecture="qwen3", options={"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    )
    assert len(encoded(lm, "1" * 7, "1" * 8)[0]) == 2
    lm.model.config.attention_chunk_size = 16
    layouts, dropped = encoded(lm, "1" * 7, "1" * 8)
    assert (len(layouts), dropped) == (1, {"beyond the context": 1})


def test_a_demonstration_beyond_the_context_is_one_sentence(mini, tmp_path):
    from helpers.training import mixture

    lm = make_lm(max_position_embeddings=16)
    with pytest.raises(
        UserError, match=r"50 demonstrations in turn are too long, .*countdown-mini.* positions, and the model has 16"
    ):
        train_sft(lm, sft_config(), mixture(lm, sft_config(), mini), tmp_path)


# ---- words and columns ----


def test_a_word_that_the_vocabulary_lacks_costs_its_own_trace_alone(caplog):
    with caplog.at_level(logging.WARNING):
        layouts, dropped = encoded(make_lm(), "1 + pomegranate", GOOD, "quince", GOOD)
    assert (len(layouts), dropped) == (2, {"vocabulary": 2})
    assert "2 of 4 traces" in caplog.text
    assert "row 1: the tokenizer's closed vocabulary has no token for 'pomegranate'" in caplog.text
    with pytest.raises(UserError, match=r"none of its 2 traces .*'vocabulary': 2.*'medlar'"):
        encoded(make_lm(), "medlar", "sloe")


def test_a_prompt_that_is_not_there_is_not_counted_as_a_trace():
    rows = [{"question": "1 2 -> 3", "trace": GOOD, "prompt": "countdown_paralel"}]
    encode = TraceEncoder(make_lm(), SamplingParams(), BARE)
    with pytest.raises(UserError, match="did you mean 'countdown_parallel'"):
        encode_rows(rows, "rows", encode, DataConfig(file="rows"), 100, 0, Counter())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1", "traces": "1"}, "row 2: every row needs a text trace; did you mean 'traces'"),
        ({"question": "1", "answer": "3", "z": 1}, "row 2: every row needs a text trace; known: answer, question, z"),
        ({"Question": "1", "trace": "1"}, "row 2: every row needs a text question; did you mean 'Question'"),
        ({"question": "1", "trace": None}, "row 2: every row needs a text trace; here it is None"),
        ({"question": ["1"], "trace": "1"}, r"row 2: every row needs a text question; here it is \['1'\]"),
        ({"question": "1", "trace": "1", "prompt": 5}, "row 2: prompt is the name of a prompt or a file, not 5"),
    ],
)
def test_columns_that_are_missing_are_named(row, message):
    encode = TraceEncoder(make_lm(), SamplingParams(), BARE)
    with pytest.raises(UserError, match=message):
        encode_rows([{"question": "1", "trace": "1"}, row], "rows", encode, DataConfig(file="x"), 100, 0, Counter())


def test_columns_of_a_parquet_file_are_named(tmp_path):
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "1", "response": "1", "traces": "1"}]), file)
    with pytest.raises(UserError, match=r"rows.parquet, row 1: every row needs a text trace; did you mean 'traces'"):
        train_sft(make_lm(), sft_config(), file, tmp_path / "run", prompt=BARE)


def test_rows_of_a_parquet_file_are_those_of_json_lines(tmp_path):
    rows = [{"question": f"1 {n} -> 3", "trace": f"1 + {n} ok"} for n in (1, 2, 3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    encode = TraceEncoder(make_lm(), SamplingParams(), BARE)
    found = []
    for suffix in ("jsonl", "parquet"):
        source = DataConfig(file=str(tmp_path / f"rows.{suffix}"))
        stored = encode_rows(read_rows(source.file), source.file, encode, source, 100, 0, Counter())
        found.append([layout.tokens.tolist() for layout in stored.layouts])
    assert found[0] == found[1]
