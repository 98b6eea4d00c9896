"""JSON lines: the files that runs write, which a kill can tear, and the tables (JSONL or Parquet) that users give."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.run.folder import atomic_write, os_errors, to_jsonable

log = logging.getLogger(__name__)


# ---- reading ----


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a file that a run wrote. A torn last line (no line end, not JSON) is dropped with a warning.

    `UserError` for a missing file and for any other fault, with its line number.
    """
    return list(_jsonl(Path(path), torn_end=True))


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a user's `.jsonl` or `.parquet` file, one at a time; blank lines are skipped.

    `UserError` at once for a missing file or another suffix, and for a broken row when it is reached: a torn last line
    is an error here, since only the user can know what is missing.
    """
    path = Path(path)
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"cannot read rows from {path}: the name must end in {' or '.join(readers)}")
    if not path.is_file():
        raise UserError(f"no file {path}" if not path.exists() else f"{path} is not a file")
    return readers[path.suffix.lower()](path)


def _jsonl(path: Path, torn_end: bool = False) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if torn_end and not line.endswith(b"\n") and not _is_json(line):
                    log.warning("%s: dropped a torn last line of %d bytes", path, len(line))
                elif line.strip():
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


# ---- writing ----


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write all rows, one line each, or leave the old file (see `atomic_write`)."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(_line(row) for row in rows)


class JsonlWriter:
    """Appends rows to a JSONL file: each is a whole line, handed to the system before `write` returns.

    A kill can tear only the last line. Opening the file again drops what is torn, so that no row is glued to it;
    a full disk raises `UserError` and leaves the rows before it whole.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            rest = _rest(self.path)
            if _is_json(rest):  # whole but for its line end, as other programs leave it
                self._file.write(b"\n")
            elif rest:
                os.truncate(self.path, self.path.stat().st_size - len(rest))
                log.warning("%s: dropped a torn last line of %d bytes", self.path, len(rest))

    def write(self, row: dict) -> None:
        line = memoryview(_line(row))
        whole = os.fstat(self._file.fileno()).st_size
        with os_errors(self.path):
            try:
                while line:  # a nearly full disk takes a part and refuses the rest
                    line = line[self._file.write(line) :]
            except OSError:
                os.ftruncate(self._file.fileno(), whole)
                raise

    def sync(self) -> None:
        """Put the rows on the disk: before something is written that counts on them, should the machine stop."""
        with os_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(row: dict) -> bytes:
    return json.dumps(to_jsonable(row), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def _rest(path: Path) -> bytes:
    """What follows the last line end, read from the end in blocks: the file may be large."""
    rest = b""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end and b"\n" not in rest:
            start = max(0, end - (1 << 16))
            file.seek(start)
            rest = file.read(end - start) + rest
            end = start
    return rest.rpartition(b"\n")[2]


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
