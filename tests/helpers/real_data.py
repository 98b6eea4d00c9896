"""Folders of real problems for POLYTHINK_DATA, small enough for a test, and a teacher that knows their real traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.chat_server import ChatServer, serving
from polythink.problems.prompts import get_prompt

TAUGHT = 241  # real traces of GSM8K questions
LEFT_WHOLE = ("aime24", "aime25", "amc23", "math300", "dapo_math_train")
Row = dict[str, Any]


def rows_of(data: Path, name: str) -> list[Row]:
    return pq.read_table(data / f"{name}.parquet").to_pylist()


def write_rows(folder: Path, name: str, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def real_problems(data: Path, folder: Path, others: int = 40) -> Path:
    """The sets that Parallel-R1 names; of GSM8K the questions that have a real trace, and the first `others`."""
    folder.mkdir()
    for name in LEFT_WHOLE:
        (folder / f"{name}.parquet").symlink_to(data / f"{name}.parquet")
    taught = {row["question"] for row in rows_of(data, "parallel_gsm8k")}
    asked = enumerate(rows_of(data, "gsm8k_train"))
    write_rows(folder, "gsm8k_train", [row for i, row in asked if row["question"] in taught or i < others])
    return folder


def guessable_problems(data: Path, folder: Path, answers: str) -> Path:
    """The same, but what is trained on has one of these digits as its answer: who guesses is right now and then."""
    folder.mkdir()
    for name in LEFT_WHOLE[:-1]:
        (folder / f"{name}.parquet").symlink_to(data / f"{name}.parquet")
    right: dict[str, Callable[[Row], str]] = {
        "gsm8k_train": lambda row: row["answer"].rpartition("#### ")[2],
        "dapo_math_train": lambda row: row["answer"],
    }
    for name, answer in right.items():
        write_rows(folder, name, [row for row in rows_of(data, name) if answer(row) in tuple(answers)])
    return folder


@contextmanager
def recorded_teacher(data: Path) -> Iterator[ChatServer]:
    """An endpoint that writes the real trace of a question, and GSM8K's own solution where there is none.

    GSM8K's solutions end in `#### 5`, which is no answer here: what is kept is the real traces.
    """
    prompt = get_prompt("parallel")
    with serving() as server:
        for row in rows_of(data, "gsm8k_train"):
            server.recorded[prompt.fill(row["question"])] = row["answer"]
        for row in rows_of(data, "parallel_gsm8k"):
            server.recorded[prompt.fill(row["question"])] = row["trace"]
        yield server
