"""Rows of traces that are already written: what each must hold. Imports without torch: asked before the first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.run.jsonl import kind_of, read_rows
from polythink.train.data_keys import DataConfig

ROW_FIELDS = ("question", "trace")


def check_row(row: Mapping[str, Any], where: str) -> None:
    """`UserError` for a row that lacks a text, with the nearest of the columns that it has."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is {kind_of(row)}; a row is a mapping with {' and '.join(ROW_FIELDS)}")
    for name in ROW_FIELDS:
        if not isinstance(row.get(name), str):
            has = f"; here it is {row[name]!r:.50}" if name in row else did_you_mean(name, row)
            raise UserError(f"{where}: every row needs a text {name}{has}")
    if not isinstance(row.get("prompt"), str | None):
        raise UserError(f"{where}: prompt is the name of a prompt or a file, not {row['prompt']!r:.50}")


def check_first_row(source: DataConfig) -> None:
    """`UserError` where the source's file holds no rows, or its first one is no trace; the others are not read."""
    assert source.file is not None
    first = next(read_rows(source.file, columns=source.columns), None)
    if first is None:
        raise UserError(f"{source.file} holds no rows; every row needs a text {' and a text '.join(ROW_FIELDS)}")
    check_row(first, f"{source.file}, row 1")
