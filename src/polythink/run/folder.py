"""The run folder: files that are written whole or not at all, locks, and what a run or a result depends on."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

from polythink.errors import UserError

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
PLAIN = frozenset((int, str, bool, type(None)))  # types that JSON holds as they are


# ---- whole files ----


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces `path` at the end.

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
    """Turn an `OSError` while writing `path` into a `UserError` of one sentence: which file, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write the whole file or leave the old one (see `atomic_write`). One that holds the same is left as it is."""
    path = Path(path)
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write the whole file in UTF-8 or leave the old one (see `atomic_write`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, obj: Any) -> None:
    """Write indented JSON or leave the old file (see `atomic_write`; numbers as in `to_jsonable`)."""
    write_text(path, json.dumps(to_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; a `UserError` names the file that is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: not valid JSON: {error}") from None


def listed_stages(run: Path) -> list[dict[str, str]]:
    """The stages (name, kind, folder) that a run lists, in order; none where it is no run, `UserError` for damage."""
    file = run / "stages.json"
    listed = read_json(file) if file.is_file() else []
    if not isinstance(listed, list) or not all(isinstance(stage, dict) and "folder" in stage for stage in listed):
        raise UserError(f"{file} is damaged: it should list the stages of a run; delete it, or give another folder")
    return listed


def to_jsonable(obj: Any) -> Any:
    """Data that JSON can hold: non-finite numbers become null, paths text, arrays and tensors numbers and lists."""
    if type(obj) in PLAIN:  # most of what is written: ids of tokens, marks, words
        return obj
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


# ---- locks ----


def take_lock(path: str | Path) -> int | None:
    """Lock a file: its descriptor, or None if another process holds the lock.

    The lock lasts until the descriptor is closed, or until this process and those that inherited it have ended.
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
    """Keep other processes out of a folder; `UserError` if one is at work in it already."""
    lock = take_lock(Path(folder) / "lock")
    if lock is None:
        raise UserError(f"another process is at work in {folder}; wait until it ends, or give another folder")
    try:
        yield
    finally:
        os.close(lock)


# ---- folders that are used already, and for something new ----


TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # as `atomic_write` names its files


def sweep(folder: str | Path, deep: bool = True) -> None:
    """Delete the temporary files and folders of a killed process; only those directly in the folder unless `deep`."""
    for path in list(Path(folder).rglob(".*.tmp") if deep else Path(folder).glob(".*.tmp")):
        if not TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir():
            rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_new_folder(folder: str | Path, instead: str) -> None:
    """`UserError` unless the folder is new or empty, so that nothing is written over what is there.

    `instead` says what to do. A lock and the temporary files of a killed process do not count.
    """
    folder = Path(folder)
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UserError(f"cannot write {folder}: {place} is a file, and --out names a folder")
    if place != folder:
        return
    found = sorted(path.name for path in folder.iterdir() if path.name != "lock" and not path.match(".*.tmp"))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{folder} is in use: it holds {', '.join(found[:3])}{more}; {instead}")


# ---- environment ----

ENVIRONMENT = "environment.json"


def record_attempt(folder: str | Path) -> None:
    """Write this process's environment into environment.json, or append it there.

    The file keeps the first attempt's at its top for ever; those of resumed attempts follow under `later_attempts`.
    """
    path = Path(folder) / ENVIRONMENT
    first = read_json(path) if path.is_file() else None
    if first is None:
        write_json(path, environment())
    else:
        write_json(path, {**first, "later_attempts": [*first.get("later_attempts", ()), environment()]})


def read_attempts(folder: str | Path) -> list[dict[str, Any]]:
    """The environments that `record_attempt` wrote, the first attempt's first; none where there is no file."""
    path = Path(folder) / ENVIRONMENT
    if not path.is_file():
        return []
    first = dict(read_json(path))
    later = first.pop("later_attempts", [])
    return [first, *later]


def provenance(
    *, model: str | None = None, weights: str | None = None, device: str | None = None, dtype: str | None = None,
    seed: int | None = None, problems: str | None = None, limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Where a result comes from: the arguments, and what this process knows of itself. Flat and JSON-ready."""
    own = environment()
    program, *arguments = own["command"]
    return {
        "model": model, "weights": weights, "version": own["packages"]["polythink"], "commit": own["git"],
        "command": shlex.join([Path(program).name.replace("__main__.py", "polythink"), *arguments]),
        "date": own["time"], "device": device, "dtype": dtype, "torch": own["torch"],
        "transformers": own["packages"]["transformers"], "python": own["python"], "seed": seed, "problems": problems,
        "limit": limit,
    }  # fmt: skip


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
        "command": [re.sub(r"(?<=://)[^/?#\s]*@", "***@", argument) for argument in sys.argv],  # without passwords
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    from importlib import metadata  # half of what this module would cost every process to import

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
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
