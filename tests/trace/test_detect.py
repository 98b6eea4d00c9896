"""Which dialect texts are written in: most of the published ones share tags with another."""

from __future__ import annotations

import random

import pyarrow.parquet
import pytest

from helpers.productions import random_block
from polythink.errors import UserError
from polythink.trace.detect import find_dialect, foreign_dialect, opening_tags
from polythink.trace.dialect import DIALECTS, PARALLEL_R1, get_dialect
from polythink.trace.render import render
from polythink.trace.tree import Trace


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_texts_of_every_dialect_are_recognised(dialect):
    rng = random.Random(4)
    texts = [render(Trace(("x ", random_block(rng, dialect, 1))), dialect) for _ in range(30)]
    found, holding = find_dialect([*texts, "no tags at all", "<summary>HTML</summary> <step>"], None, "here")
    assert (found, holding) == (dialect, 30)
    assert find_dialect([texts[0]], None, "here")[0] == dialect
    for text in texts:
        assert opening_tags(text)[dialect.name] > 0
        assert foreign_dialect(text, dialect) == ""


def test_of_dialects_that_explain_a_text_equally_well_it_is_the_first():
    for _ in range(3):
        assert find_dialect(["<Parallel>", "<Parallel><Path>a"], None, "here") == (PARALLEL_R1, 2)
    assert find_dialect(["<Parallel>\n<Goal>"], None, "here")[0].name == "multiverse"
    assert find_dialect(["<Parallel>\n<Outlines>"], None, "here")[0].name == "threadweaver"


def test_tags_that_say_nothing():
    for text in ("<summary>s</summary>", "<step>1</step>", "<plan>", "plain", ""):
        assert not opening_tags(text)
        assert find_dialect([text], None, "here") == (PARALLEL_R1, 0)


def test_the_inventory_is_large_enough():
    text = "<think40>a</think40><summary>s</summary>"
    assert find_dialect(["<think2>", text], None, "here") == (get_dialect("parathinker:40"), 2)
    assert find_dialect(["<think9999>"], None, "here")[0] == get_dialect("parathinker")


def test_a_dialect_that_no_text_is_of_is_refused():
    texts = ["<guideline><plan>a</plan></guideline>", "x"]
    with pytest.raises(UserError, match=r"no text of here holds a block of parallel_r1, and 1 hold the tags of npr"):
        find_dialect(texts, "parallel_r1", "here")
    assert foreign_dialect(texts[0], PARALLEL_R1) == "npr"
    assert find_dialect(texts, "npr", "here") == (get_dialect("npr"), 1)
    assert find_dialect(["x"], "npr", "here") == (get_dialect("npr"), 0)


def test_the_real_traces_are_of_their_dialect(shared_data):
    rows = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet")["trace"].to_pylist()
    dialect, holding = find_dialect(rows, None, "here")
    assert (dialect, holding) == (PARALLEL_R1, sum("<Parallel>" in row for row in rows))
