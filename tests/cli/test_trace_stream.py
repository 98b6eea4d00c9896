"""`trace check` and `trace convert` hold one row at a time, however many a file has."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator

import pytest
import typer

from polythink.cli import trace

TEXTS = (
    "x <Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary> y",
    "<Parallel><Path>a</Path></Parallel>",
)


class Row(dict):
    """A row that can be watched."""

    __hash__ = object.__hash__


@pytest.fixture
def most_alive(monkeypatch) -> list[int]:
    """The largest number of rows that were in use at once while a file of 3,000 was read."""
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = [0]

    def rows(path) -> Iterator[tuple[str, Row]]:
        for number in range(3000):
            row = Row(trace=TEXTS[number % 2], number=number)
            alive.add(row)
            most[0] = max(most[0], len(alive))
            yield f"{path}, line {number + 1}", row
            del row

    monkeypatch.setattr(trace, "read_placed", rows)
    return most


def test_check_holds_one_row_at_a_time(tmp_path, most_alive, capsys):
    with pytest.raises(typer.Exit):
        trace.check_file(tmp_path / "big.jsonl", "trace", as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"] == 3000
    assert 1 <= most_alive[0] <= 3


def test_convert_holds_one_row_at_a_time(tmp_path, most_alive):
    out = tmp_path / "out.jsonl"
    with pytest.raises(typer.Exit):
        trace.convert_file(tmp_path / "big.jsonl", "trace", "npr", out, plans="write")
    lines = out.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(0, 3000, 2))
    assert 1 <= most_alive[0] <= 3
