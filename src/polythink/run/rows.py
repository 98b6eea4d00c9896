"""Rows of a JSONL or Parquet file that a user gives, one dictionary at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polythink.errors import UserError


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a `.jsonl` or `.parquet` file in order; blank lines are no rows.

    `UserError` for a missing file or another suffix (at once), and for a broken one (when it is met; a faulty line of
    a JSONL file is named by its number from 1).
    """
    path = Path(path)
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"cannot read rows from {path}: the name must end in {' or '.join(readers)}")
    if not path.is_file():
        raise UserError(f"no file {path}" if not path.exists() else f"{path} is not a file")
    return readers[path.suffix.lower()](path)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting that Python refuses
        raise UserError(f"{where} cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} holds a JSON {type(row).__name__}; every line must be an object: {{...}}")
    return row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"cannot read {path}: {first_line}") from None
