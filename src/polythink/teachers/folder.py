"""The folder of a cold start: one process at a time, one teacher, prompt and rule, and nothing left by killed runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.run.folder import os_errors, read_json, take_lock, write_json
from polythink.run.jsonl import read_jsonl
from polythink.run.plain import changes

log = logging.getLogger(__name__)

LOCK = "coldstart.lock"  # not `lock`, which an experiment holds in the folder of the stage that it runs
FILES = ("settings.json", "kept.jsonl", "table.json", "solutions.json")  # that are written whole
SETTINGS = ("prompt", "rule", "dialect", "right_only", "teacher")


@contextmanager
def coldstart_lock(folder: Path) -> Iterator[None]:
    """Keep other cold starts out of a folder, and delete what killed ones left; `UserError` if one is at work there."""
    lock = take_lock(folder / LOCK)
    if lock is None:
        raise UserError(f"another cold start is at work in {folder}; wait until it ends, or give another folder")
    try:
        for name in FILES:
            for temporary in folder.glob(f".{name}.*.tmp"):
                temporary.unlink(missing_ok=True)
        yield
    finally:
        os.close(lock)


def check_finished(folder: Path) -> None:
    """`UserError` if a cold start is at work in a folder that is about to be read."""
    if os.access(folder / LOCK, os.W_OK):
        with coldstart_lock(folder):
            pass


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new cold start; `UserError` if an earlier one in the folder had others and has responses.

    Without any response there is nothing to mix: its failures are deleted, and the folder is used anew.
    """
    path, answers = folder / "settings.json", folder / "all.jsonl"
    settings = json.loads(json.dumps(settings))  # as they will be read back
    if path.exists():
        before = read_json(path)
        if not (isinstance(before, dict) and set(SETTINGS) <= before.keys()):
            raise UserError(f"{path} was not written by a cold start; give another folder")
        found = changes({name: before[name] for name in settings if name in before}, settings)
        if not found:
            return
        said = [f"{key}: {_short(old)} -> {_short(new)}" for key, (old, new) in found.items()]
        if answers.exists() and any(row.get("trace") for row in read_jsonl(answers)):
            raise UserError(
                f"{folder} holds a cold start with {', '.join(said)} (before -> now); give the same settings, or "
                "another folder"
            )
        log.warning("%s: the cold start with %s got no response and is replaced", folder, ", ".join(said))
        with os_errors(answers):
            answers.unlink(missing_ok=True)
    write_json(path, settings)


def _short(value: Any, longest: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
