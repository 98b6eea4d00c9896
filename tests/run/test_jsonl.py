"""JSON lines: rows that survive a kill, and what is said about files that cannot be read."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from polythink.errors import UserError
from polythink.run.jsonl import JsonlWriter, read_jsonl, read_rows, write_jsonl

# ---- tables that users give ----

ROWS = [{"text": "a\u2028b é", "n": 1}, {"text": "c", "n": None}]


def test_jsonl_and_parquet_give_the_same_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a\u2028b é", "n": 1}\n\n{"text": "c", "n": null}', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.PARQUET")
    assert list(read_rows(tmp_path / "rows.jsonl")) == ROWS
    assert list(read_rows(str(tmp_path / "rows.PARQUET"))) == ROWS


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_columns_may_have_other_names(tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(file, ROWS)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    assert [row["trace"] for row in read_rows(file, columns={"trace": "text"})] == ["a\u2028b é", "c"]
    with pytest.raises(UserError, match=r"no column 'txt'; its columns are text, n; did you mean 'text'\?"):
        list(read_rows(file, columns={"trace": "txt"}))


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


@pytest.mark.parametrize("line", [r'{"a": "x \ud83d"}', r'{"a": [{"b": "\uDE00 y"}]}', r'{"\ud800": 1}'])
def test_half_a_character_is_named_by_its_line_or_replaced(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text('{"a": "\\ud83d\\ude00"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 holds \\u\w{4}, half of a character"):
        list(read_rows(tmp_path / "rows.jsonl"))
    whole, replaced = read_rows(tmp_path / "rows.jsonl", replace_broken=True)
    assert whole == {"a": "\N{GRINNING FACE}"}
    assert "\N{REPLACEMENT CHARACTER}" in json.dumps(replaced, ensure_ascii=False).encode().decode()


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"b": ', "}")])
def test_rows_nested_too_deep_to_be_written_are_refused(tmp_path, opened, closed):
    for levels, fits in ((99, True), (101, False), (400, False), (5000, False)):
        line = '{"a": ' + opened * levels + "1" + closed * levels + ', "b": "' + "{" * 200 + '"}'
        (tmp_path / "rows.jsonl").write_text(line)
        if fits:
            write_jsonl(tmp_path / "copy.jsonl", read_rows(tmp_path / "rows.jsonl"))
            continue
        with pytest.raises(UserError, match="line 1 cannot be read: its lists and objects lie more than 100 levels"):
            list(read_rows(tmp_path / "rows.jsonl"))


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    assert list(read_rows(tmp_path / "rows.jsonl")) == [{"a": 1}, {"a": 2}]


def test_a_name_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    assert list(read_rows("~/rows.jsonl")) == [{"a": 1}]


def test_a_parquet_text_that_is_not_utf8_is_an_error_of_one_sentence(tmp_path):
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.array([0, 2], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff\xfe")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="a text in its rows 0 to 1023 is not UTF-8"):
        list(read_rows(tmp_path / "rows.parquet"))


def test_what_json_has_no_form_for_is_named_by_its_column(tmp_path):
    with pytest.raises(UserError, match="its column 'raw' holds a value of type bytes"):
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 1, "raw": b"5"}])
    assert not (tmp_path / "rows.jsonl").exists()


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


# ---- rows that a run writes ----

ENDLESS = """
import sys
from polythink.run.jsonl import JsonlWriter
writer = JsonlWriter(sys.argv[1])
for step in range(10**9):
    writer.write({"step": step, "text": "x" * 100_000})
"""


def test_rows_survive_a_kill_and_the_next_run_goes_on_after_them(tmp_path, caplog) -> None:
    path = tmp_path / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
    while process.poll() is None and (not path.exists() or path.stat().st_size < 2_000_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = len(read_jsonl(path))
    assert whole >= 19
    with path.open("ab") as file:  # what a kill in the middle of a write leaves; this one may have left some itself
        file.write(b'{"step": 99, "te')
    torn = len(path.read_bytes().rpartition(b"\n")[2])
    caplog.clear()
    assert [row["step"] for row in read_jsonl(path)] == list(range(whole))
    assert f"dropped a torn last line of {torn} bytes" in caplog.text
    with JsonlWriter(path) as writer:
        writer.write({"step": "next"})
    assert [row["step"] for row in read_jsonl(path)] == [*range(whole), "next"]


@pytest.mark.parametrize("rest", [b"", b'{"a"', b'{"a": "' + b"x" * 200_000])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_torn_rest_of_any_length_is_dropped(tmp_path, rest: bytes, rows: int) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"b": 1}\n' * rows + rest)
    JsonlWriter(path).close()
    assert path.read_bytes() == b'{"b": 1}\n' * rows


def test_a_whole_last_line_without_its_line_end_is_a_row(tmp_path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n\n{"a": 2}')
    assert read_jsonl(tmp_path / "t.jsonl") == [{"a": 1}, {"a": 2}]
    with JsonlWriter(tmp_path / "t.jsonl") as writer:
        writer.write({"a": 3})
    assert read_jsonl(tmp_path / "t.jsonl") == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1}\n{"a"\n{"a": 3}\n', "line 2 is not JSON"),
        ('{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        ('{"a": 1}\n[1]\n', "line 2 holds a JSON list"),
    ],
)
def test_a_broken_row_is_named(tmp_path, text: str, sentence: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_jsonl(tmp_path / "t.jsonl")


def test_rows_are_readable_by_every_json_reader(tmp_path) -> None:
    with JsonlWriter(tmp_path / "t.jsonl") as writer:
        writer.write({"nan": math.nan, "inf": [-math.inf], "np": np.float64(1.5), "text": "a\nb\u2028é"})
        line = (tmp_path / "t.jsonl").read_text(encoding="utf-8")
    assert line.endswith("\n")
    assert json.loads(line, parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None],
        "np": 1.5,
        "text": "a\nb\u2028é",
    }
