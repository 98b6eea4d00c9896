"""What the engine drew, written as text and read back as training data, is the same tokens again."""

from __future__ import annotations

import random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from helpers.tiny import lean_towards, requests
from helpers.training import make_lm, mixture, sft_config
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.problems.prompts import Prompt
from polythink.run.jsonl import write_jsonl
from polythink.trace.layout import lay_out
from polythink.trace.parse import TraceError, parse
from polythink.trace.tokens import opening_end, pieces_of
from polythink.trace.tree import Block, Trace
from polythink.train.data import TraceEncoder

BUDGETS = {"max_main_tokens": 6, "max_path_tokens": 6, "max_summary_tokens": 8, "max_trace_tokens": 250, "paths": 2}
BARE = Prompt("bare", "{problem}")
PREFIXES = ["a b c", " a", "c\n", ""]


def model(dialect: str, tokenizer: str = "countdown"):
    return from_config(ModelConfig(num_hidden_layers=1, tokenizer=tokenizer), dialect, ("a", "b", "c"), seed=4)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_drawn_text_is_read_back_as_the_same_tokens(prefix: str):
    lm = model("parathinker")
    leans = dict.fromkeys(lm.dialect.tags, -20.0) | {"</think1>": 1.5, "</think2>": 1.5, "</summary>": 0.5}
    lean_towards(lm, leans)
    params = SamplingParams(**BUDGETS, summary_prefix=prefix)
    encode, read = TraceEncoder(lm, params, BARE), 0
    for rollout in Engine(lm).generate(requests(lm, 60), params, seed=2):
        tokens = [token for segment in rollout.segments for token in segment.tokens]
        if rollout.truncated or "<|unknown|>" in rollout.text or {lm.pad, lm.eos} & set(tokens[:-1]):
            continue  # tokens that no text spells
        layout, drawn = encode(lm.decode(rollout.prompt), rollout.text), rollout.layout()
        for fact in ("tokens", "segment", "position", "previous", "sees"):
            assert np.array_equal(getattr(layout, fact), getattr(drawn, fact)), (fact, rollout.text)
        assert rollout.misplaced_tags or layout.sampled.tolist() == drawn.sampled.tolist()  # what replaces is forced
        read += 1
    assert read > 10


@pytest.mark.parametrize("dialect", ["parallel_r1", "parathinker"])
@pytest.mark.parametrize("tokenizer", ["countdown", "bytes"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_text_of_segments_is_read_back_as_the_same_tokens(dialect: str, tokenizer: str, prefix: str):
    """Segments are decoded one by one, as the engine does it, also where it draws no such traces by chance."""
    lm, rng = model(dialect, tokenizer), random.Random(5)
    encode = TraceEncoder(lm, SamplingParams(summary_prefix=prefix), BARE)

    def words() -> str:
        return " ".join(rng.choices("abc", k=rng.randrange(4)))

    for _ in range(40):
        parts = [words()]
        for _ in range(rng.randrange(1, 3) if not lm.dialect.runtime_forks else 1):  # the runtime forks once
            labels = lm.dialect.draw_labels(rng.randrange(2, 5), rng)
            paths = tuple(Trace((f" {words()} ",)) for _ in labels or (0, 0))
            said = f"{prefix} {words()}" if tokenizer == "countdown" else prefix + words()
            parts += [Block(paths, Trace((said,) if said else ()), labels), words()]
        trace = Trace(tuple(part for part in parts if part))
        pieces = pieces_of([5], trace, lm.dialect, lm.encode, "structured", (lm.eos,), prefix)
        again = encode(lm.decode([5]), "".join(lm.decode(piece.tokens) for piece in pieces[1:]))
        drawn = lay_out(pieces, "structured")
        for fact in ("tokens", "segment", "position", "previous", "sampled", "sees"):
            assert np.array_equal(getattr(again, fact), getattr(drawn, fact)), fact


def test_a_summary_that_begins_otherwise_is_refused():
    lm = model("parathinker")
    encode = TraceEncoder(lm, SamplingParams(summary_prefix="a b"), BARE)
    block = "<think1>a</think1><summary>{}</summary>"
    for text in ("a b c", " a b", "a  b\n"):
        encode("a", block.format(text))
    for text in ("", "a", "b a b", "a c b"):
        with pytest.raises(TraceError, match="a summary that does not begin with summary_prefix, 'a b'"):
            encode("a", block.format(text))


def test_white_space_counts_where_the_tokenizer_has_it():
    encode = model("parallel_r1", "bytes").encode
    found = [opening_end(Trace((text,)), "a b", encode) for text in ("a bc", " a b", "a  b", "a b")]
    assert found == [3, None, None, 3]
    words = model("parallel_r1").encode
    assert [opening_end(Trace((text,)), "a b", words) for text in ("a b c", " a b", "a  b", "c a b")] == [3, 4, 4, None]
    nested = parse("<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary></Summary>")
    assert opening_end(nested, "a", words) is None


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_of_either_format_under_names_of_ones_own(tmp_path, suffix: str):
    lm, config, file = make_lm(), sft_config(steps=1, batch=1), tmp_path / f"rows.{suffix}"
    block = "<Parallel><Path> 1 + 2 = 3 ok </Path><Path> 1 - 2 </Path></Parallel>\n<Summary> + </Summary>"
    rows = [{"problem": "1 2 -> 3", "response": block}] * 2
    if suffix == "jsonl":
        write_jsonl(file, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)

    def read(**source):
        return mixture(lm, config, (), data=[{"file": str(file), **source}]).batch(0)

    assert max(read(columns={"question": "problem", "trace": "response"})[0].paths) == 2
    for columns, words in (
        ({}, "question"),
        ({"question": "problem", "trace": "solution"}, "no column 'solution'; its columns are problem, response"),
        ({"answer": "problem"}, "columns"),
    ):
        with pytest.raises(UserError, match=words):
            read(columns=columns)
    with pytest.raises(UserError, match="columns names those of a file"):
        mixture(lm, config, (), data=[{"stage": "start", "columns": {"trace": "response"}}])
