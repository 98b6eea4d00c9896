"""What a person sees of an experiment while it runs."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from polythink.pipeline import board as board_module
from polythink.pipeline.board import Board, latest
from polythink.pipeline.schedule import BEFORE, BLOCKED, ELSEWHERE, Job


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still unless a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(board_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def jobs(folder: Path, count: int = 3) -> list[Job]:
    runs = [("a-seed0", "b-seed0"), *[(f"a-seed{i}",) for i in range(count)]]
    return [Job(f"stage{i}", str(i), None, {}, folder / str(i), runs[i]) for i in range(count)]


def drawn(board: Board) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(board)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_without_a_terminal_every_change_is_a_line(tmp_path, capsys, clock) -> None:
    with Board(jobs(tmp_path)) as board:
        first = ({"0": "done", "1": "running", "2": "waiting"}, {"0": BEFORE})
        board.show(*first)
        clock.now += 7
        board.show(*first)
        board.show({"0": "done", "1": "failed", "2": "failed"}, {"0": BEFORE, "2": BLOCKED})
    assert capsys.readouterr().err.splitlines() == [
        "stage0 (shared by 2 runs): done (earlier)",
        "stage1 (a-seed0): running",
        "stage1 (a-seed0): failed after 7 s",
        "stage2 (a-seed1): failed (not run: a stage before it failed)",
    ]


def test_a_stage_of_another_process_is_said_to_be_one(tmp_path, capsys) -> None:
    with Board(jobs(tmp_path, 1)) as board:
        board.show({"0": "waiting"}, {})
        board.show({"0": "waiting"}, {"0": ELSEWHERE})
        board.show({"0": "waiting"}, {"0": ELSEWHERE})
    assert capsys.readouterr().err == "stage0 (shared by 2 runs): waiting (runs in another process)\n"


def test_the_table_shows_states_and_the_newest_metrics(tmp_path, clock) -> None:
    board = Board(jobs(tmp_path))
    board.show({"0": "done", "1": "running", "2": "waiting"}, {"0": BEFORE})
    clock.now += 3
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.25}\n{"step": 3, "lo'
    )
    head, *rows, counts = drawn(board)
    assert head.split() == ["stage", "needed", "by", "state", "time", "latest"]
    assert rows[0].split() == ["stage0", "shared", "by", "2", "runs", "done", "(earlier)"]
    assert rows[1].endswith("running         3 s   step 2  loss 1.25")
    assert rows[2].split() == ["stage2", "a-seed1", "waiting"]
    assert counts == "1 done, 1 running, 1 waiting"


def test_of_many_stages_only_the_active_ones_are_listed(tmp_path) -> None:
    board = Board(jobs(tmp_path, 30))
    board.show({**{str(i): "done" for i in range(10)}, "10": "running", "11": "failed"}, {"12": ELSEWHERE})
    _, *rows, counts = drawn(board)
    assert [row.split()[0] for row in rows] == ["stage10", "stage11"]
    assert counts == "10 done, 1 running, 1 failed, 18 waiting"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, ""),
        ("", ""),
        ('{"step": 1', ""),
        ('{"step": 7, "reward": 0.25, "accuracy": null, "kl": 3}\n', "step 7  reward 0.25"),
        ('{"step": 7, "accuracy": 0.256}\n', "step 7  accuracy 26%"),
        ('{"step": 1, "x": "' + "y" * 9000 + '"}\n{"step": 2}\n', "step 2"),
    ],
)
def test_the_newest_row_is_the_last_whole_one(tmp_path, text: str | None, shown: str) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert latest(tmp_path) == shown
