"""The run folder: whole files or none, rows that survive a kill, and what the run ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polythink.errors import UserError

log = logging.getLogger(__name__)
PACKAGES = (
    "polythink",
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "math-verify",
    "sympy",
    "numpy",
    "pyarrow",
)


# ---- whole files ----


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there takes the place of `path` at the end, or disappears.

    After an error (a full disk, Ctrl-C) the old file is as it was and no temporary file is left.
    An `OSError` becomes a `UserError` that names the file and the reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os_errors(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def os_errors(path: str | Path) -> Iterator[None]:
    """An `OSError` while writing `path` as one sentence: which file, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write the whole file or leave the old one (see `atomic_write`)."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write the whole file in UTF-8 or leave the old one (see `atomic_write`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, obj: Any) -> None:
    """Write indented JSON or leave the old file (see `atomic_write`; numbers as in `to_jsonable`)."""
    write_text(path, json.dumps(to_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write all rows, one line each, or leave the old file (see `atomic_write`)."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(_line(row) for row in rows)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; a `UserError` names the file that is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: not valid JSON: {error}") from None


# ---- locks ----


def take_lock(path: str | Path) -> int | None:
    """The descriptor of a lock file that this process now holds; None where another process does.

    It is held until the descriptor is closed, or the process and those that it was handed to have ended.
    """
    import fcntl  # not on every system

    with os_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Keeps other processes out of a folder meanwhile; `UserError` where one is at work in it already."""
    lock = take_lock(Path(folder) / "lock")
    if lock is None:
        raise UserError(f"another process is at work in {folder}; wait for its end, or give another folder")
    try:
        yield
    finally:
        os.close(lock)


# ---- rows ----


class JsonlWriter:
    """Appends rows to a JSONL file, each one whole line and on its way to the disk before `write` returns.

    A kill can tear the last line only. Opening a file again drops such a rest, so that no row is glued to it;
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

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: str | Path) -> list[dict]:
    """The rows of a JSONL file. A torn last line (no line end, not JSON) is dropped with a warning; any other fault
    is a `UserError` with its line number."""
    rows = []
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) and not line.endswith(b"\n"):
                log.warning("%s: dropped a torn last line of %d bytes", path, len(line))
                break
            raise UserError(f"{path}, line {number}: not valid JSON") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: must be an object with named fields")
        rows.append(row)
    return rows


def _line(row: dict) -> bytes:
    return json.dumps(to_jsonable(row), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def _rest(path: Path) -> bytes:
    """What follows the last line end."""
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
    except ValueError:
        return False
    return True


def to_jsonable(obj: Any) -> Any:
    """Data that JSON can hold: numbers that are not finite become null, paths text, arrays and tensors
    numbers and lists."""
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {str(key): to_jsonable(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_jsonable(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if hasattr(obj, "tolist"):
        return to_jsonable(obj.tolist())
    return obj


# ---- environment ----


def environment() -> dict[str, Any]:
    """What a result depends on besides its recipe: versions, machine, source commit. JSON-ready."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": versions["torch"],
        "packages": versions,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "git": _git_commit(),
        "command": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of our own source, `+changes` if files differ from it; None where the source is not under git."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):  # somebody else's repository around our installation
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
