"""A dialect from a YAML file: what it declares, and what is said about each mistake in it."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from helpers.productions import random_block, random_dialect
from polythink.errors import UserError
from polythink.trace.detect import find_dialect
from polythink.trace.dialect import DIALECTS, get_dialect
from polythink.trace.dialect_file import from_plain, to_plain
from polythink.trace.parse import parse
from polythink.trace.production import Dialect, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.render import render
from polythink.trace.tree import Trace

MINE = """
name: mine
nests: false
source: my own notes
block:
  - tag: "[Fork of ideas]"
  - plan: [<Goal>, </>]
    outline: [<Idea>, </>]
    gap: "\\n"
  - paths: [<Try>, </>]
    counted: outlines
    heading: "\\n{id}:"
    gap: "\\n"
  - summary: [<Join>, </>]
    answers: true
  - tag: "[End]"
    by: runtime
"""


def written(folder, text: str = MINE, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_file_declares_a_dialect_and_a_new_dialect_needs_no_other_line(tmp_path):
    dialect = get_dialect(written(tmp_path))
    assert dialect == Dialect(
        "mine",
        (
            Tag("[Fork of ideas]"),
            PlanTags("<Goal>", "</>", item=("<Idea>", "</>"), gap="\n"),
            PathTags("<Try>", "</>", counted="outlines", heading="\n{id}:", gap="\n"),
            SummaryTags("<Join>", "</>", answers=True),
            Tag("[End]", by="runtime"),
        ),
        nests=False,
        source="my own notes",
    )
    text = "x[Fork of ideas]\n<Goal>g\n<Idea>1: a</>\n</>\n<Try>\n1: b</><Join>c</>[End]"
    assert render(parse(text, dialect), dialect) == text
    assert find_dialect([text, "<Parallel>"], written(tmp_path), "here") == (dialect, 1)
    with pytest.raises(UserError, match="no text of here holds a block"):
        find_dialect(["<guideline>"], written(tmp_path), "here")


def test_a_changed_file_is_read_again(tmp_path):
    assert get_dialect(written(tmp_path)).name == "mine"
    assert get_dialect(written(tmp_path, MINE.replace("name: mine", "name: other"))).name == "other"


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_the_published_ones_can_be_written_in_that_form(dialect):
    assert from_plain(to_plain(dialect), "here") == replace(dialect, published_check=False)


def test_any_production_can_be_written_in_that_form():
    rng = random.Random(8)
    for _ in range(200):
        dialect = random_dialect(rng)
        again = from_plain(to_plain(dialect), "here")
        assert (again, hash(again)) == (dialect, hash(dialect))
        trace = Trace((random_block(rng, dialect, 1),))
        assert parse(render(trace, dialect), again) == trace


BLOCK = "block: [{paths: [<P>, </P>]}, {summary: [<S>, </S>]}]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "is no mapping of name, block, nests"),
        ("", "is no mapping"),
        ("name: x", "has no 'block'; a dialect has a name and a block"),
        (BLOCK, "has no 'name'"),
        (f"name: x\nnest: true\n{BLOCK}", "has no key 'nest'; did you mean 'nests'?"),
        (f"name: x\nnests: yes please\n{BLOCK}", "nests is true or false, not 'yes please'"),
        (f"name: 3\n{BLOCK}", "name is a text, not 3"),
        (f"name: a/b\n{BLOCK}", "a name is letters, digits, _ and -, not 'a/b'"),
        (f"name: a:8\n{BLOCK}", "a name is letters"),
        ("name: x\nblock: <P>", "block is a list, not '<P>'"),
        ("name: x\nblock: [<P>]", "element 1 of its block: an element has one of the keys tag, plan, paths, summary"),
        ("name: x\nblock: [{tag: <A>, plan: [<G>, </G>]}]", "and this one has tag and plan"),
        ("name: x\nblock: [{path: [<P>, </P>]}]", "and this one has none"),
        ("name: x\nblock: [{tag: <A>, written: model}]", "has no key 'written'"),
        ("name: x\nblock: [{paths: [<P>, </P>], lest: 2}]", "has no key 'lest'; did you mean 'least'?"),
        ("name: x\nblock: [{paths: <P>}]", "paths is a list of an opening and a closing tag, not '<P>'"),
        ("name: x\nblock: [{paths: [<P>]}]", "paths is a list of an opening and a closing tag"),
        ("name: x\nblock: [{paths: [<P>, 4]}]", "paths is a list of an opening and a closing tag"),
        ("name: x\nblock: [{paths: [<P>, </P>], least: true}]", "least is a whole number, not True"),
        (
            "name: x\nblock: [{tag: <A>, by: me}, {paths: [<P>, </P>]}, {summary: [<S>, </S>]}]",
            "by is one of model, run",
        ),
        ("name: x\nblock: [{paths: [<P>, </P>]}]", "nothing follows its paths"),
        (f"name: x\nmisplaced_tags: drop\n{BLOCK}", "misplaced_tags is one of keep, replace, not 'drop'"),
        (f"name: npr\n{BLOCK}", "has the name of a published format, npr"),
        ("name: [", "cannot be read: "),
        ("a: &a [*a]", "has no key 'a'"),
        ("name: x\nblock: " + "[" * 4000, "cannot be read"),
        ("x" * 200_000, "has 200,000 bytes"),
    ],
)
def test_each_mistake_is_named(tmp_path, text, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        get_dialect(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value) or "dialect 'x'" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no dialect file '.*none.yaml' \(No such file"):
        get_dialect(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        get_dialect(str(tmp_path / "bytes.yaml"))
