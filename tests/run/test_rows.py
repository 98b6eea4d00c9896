"""Rows of the files that users give: what is read, and what is said about files that cannot be."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from polythink.errors import UserError
from polythink.run.rows import read_rows

ROWS = [{"text": "a\u2028b é", "n": 1}, {"text": "c", "n": None}]


def test_jsonl_and_parquet_give_the_same_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a\u2028b é", "n": 1}\n\n{"text": "c", "n": null}', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.PARQUET")
    assert list(read_rows(tmp_path / "rows.jsonl")) == ROWS
    assert list(read_rows(str(tmp_path / "rows.PARQUET"))) == ROWS


def test_rows_are_read_one_by_one(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\nbroken')
    rows = read_rows(tmp_path / "rows.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(UserError, match="line 2"):
        next(rows)


def test_a_large_parquet_file_comes_whole_and_in_order(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"n": range(5000)}), tmp_path / "n.parquet")
    assert [row["n"] for row in read_rows(tmp_path / "n.parquet")] == list(range(5000))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": 1,}', "line 2 is not JSON: .* (column "),
        (b'{"a": "torn', "line 2 is not JSON"),
        (b"[1, 2]", "line 2 holds a JSON list; every line must be an object"),
        (b'{"a": "\xff"}', "line 2 is not UTF-8 text"),
        (b"[" * 100_000, "line 2 cannot be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 2 cannot be read"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, words):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 0}\n' + line + b"\n")
    with pytest.raises(UserError, match=words.replace("(", "\\(")):
        list(read_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("rows.csv", "must end in .jsonl or .parquet"), ("none.jsonl", "no file"), ("folder.jsonl", "is not a file")],
)
def test_what_is_not_such_a_file_is_refused_at_once(tmp_path, name, words):
    (tmp_path / "rows.csv").write_text("a,b")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=words):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*rows\.parquet: \w"):
        list(read_rows(tmp_path / "rows.parquet"))
