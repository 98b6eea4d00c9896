"""JSON lines: the files that runs write, which a kill can tear, and the tables (JSONL or Parquet) that users give."""

from __future__ import annotations

import codecs
import difflib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.run.folder import atomic_write, os_errors, to_jsonable

log = logging.getLogger(__name__)
MAX_NESTING = 100  # lists and objects within one another; far beyond any data, well within Python's recursion limit
_TOO_DEEP = f"its lists and objects lie more than {MAX_NESTING} levels deep"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of one, alone or of a pair


# ---- reading ----


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a file that a run wrote. A torn last line (no line end, not JSON) is dropped with a warning.

    `UserError` for a missing file and for any other fault, with its line number.
    """
    return [row for _, row in _jsonl(Path(path), torn_end=True)]


def first_row(path: str | Path) -> dict[str, Any]:
    """The first row that `read_jsonl` gives; empty where there is none. The rest of the file is not read."""
    return next((row for _, row in _jsonl(Path(path), torn_end=True)), {})


def read_rows(
    path: str | Path, replace_broken: bool = False, columns: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a user's `.jsonl` or `.parquet` file, one at a time; blank lines are skipped.

    `UserError` at once for a missing file or another suffix, and for a broken row when it is reached: a torn last line
    is an error here, since only the user can know what is missing. Half a character (one surrogate of the two that an
    emoji has in JSON) is an error too, or with `replace_broken` becomes the replacement character. `columns`: names
    under which columns of the file are given as well, {our name: its name}.
    """
    return (_renamed(row, columns or {}, place) for place, row in read_placed(path, replace_broken))


def read_placed(path: str | Path, replace_broken: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_rows`, each row with its place for messages: `FILE, line 5`, or `FILE` for one without lines."""
    path = Path(path).expanduser()
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"cannot read rows from {path}: the name must end in {' or '.join(readers)}")
    if not path.is_file():
        raise UserError(f"no file {path}" if not path.exists() else f"{path} is not a file")
    return readers[path.suffix.lower()](path, replace_broken=replace_broken)


def _renamed(row: dict[str, Any], columns: Mapping[str, str], place: str) -> dict[str, Any]:
    if absent := next((name for name in columns.values() if name not in row), None):
        raise UserError(f"{place}: no column {absent!r}; {missing_column(row, absent)}")
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def missing_column(row: Mapping[str, Any], *needed: str) -> str:
    """The end of a sentence about a row that lacks one of these columns: what it has, and the nearest name."""
    near = next((found for column in needed for found in difflib.get_close_matches(column, row, 1, 0.6)), None)
    has = f"its columns are {', '.join(row)}" if row else "it has no columns"
    return has + (f"; did you mean {near!r}?" if near else "")


def kind_of(value: Any) -> str:
    """What a value is, for people: `a list`, `null`, `a number`."""
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping", str: "text"}
    missing = value is None or (isinstance(value, float) and value != value)
    return "null" if missing else names.get(type(value), f"a value of type {type(value).__name__}")


def _jsonl(path: Path, torn_end: bool = False, replace_broken: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if torn_end and not line.endswith(b"\n") and not _is_json(line):
                    log.warning("%s: dropped a torn last line of %d bytes", path, len(line))
                elif line.strip():
                    yield f"{path}, line {number}", _row(line, f"{path}, line {number}", replace_broken)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _row(line: bytes, where: str, replace_broken: bool) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{where} cannot be read: {_TOO_DEEP}") from None
    except ValueError as error:  # a number that Python refuses
        raise UserError(f"{where} cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} holds a JSON {type(row).__name__}; every line must be an object: {{...}}")
    if line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth_exceeds(row, MAX_NESTING):
        raise UserError(f"{where} cannot be read: {_TOO_DEEP}")
    if _SURROGATE.search(line):
        row = {_whole(key, where, replace_broken): _whole(value, where, replace_broken) for key, value in row.items()}
    return row


def _depth_exceeds(value: Any, most: int) -> bool:
    """Whether lists and objects lie within one another more than `most` levels deep."""
    level = [value]
    for _ in range(most + 1):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [value for value in level if isinstance(value, list | dict)]
        if not level:
            return False
    return True


def _whole(value: Any, where: str, replace_broken: bool) -> Any:
    """The value without halves of characters in its texts, which no file can be written with."""
    if isinstance(value, list):
        return [_whole(item, where, replace_broken) for item in value]
    if isinstance(value, dict):
        return {_whole(k, where, replace_broken): _whole(v, where, replace_broken) for k, v in value.items()}
    if not isinstance(value, str) or not (broken := re.search("[\ud800-\udfff]", value)):
        return value
    if not replace_broken:
        code = f"\\u{ord(broken[0]):x}"
        raise UserError(
            f"{where} holds {code}, half of a character that was cut in two; write the whole character, or leave it out"
        )
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)


def _parquet(path: Path, replace_broken: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows; a Parquet file cannot hold half a character."""
    import pyarrow
    import pyarrow.parquet

    read = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield str(path), row
                read += len(batch)
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: a text in its rows {read} to {read + 1023} is not UTF-8") from None
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
    try:
        return json.dumps(to_jsonable(row), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except TypeError:  # bytes, times and decimals, which Parquet has and JSON has not
        raise UserError(f"a row cannot be written as JSON: {_not_json(row)}; leave that column out") from None


def _not_json(row: dict) -> str:
    for column, value in row.items():
        try:
            json.dumps(to_jsonable(value))
        except TypeError:
            return f"its column {column!r} holds {kind_of(value)}"
    raise AssertionError("every column can be written")


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
