"""How much the program says: `--quiet` only results and errors, `--verbose` library warnings and times as well."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Mapping
from typing import Literal

Level = Literal["quiet", "normal", "verbose"]
level: Level = "normal"
_started = time.perf_counter()


def set_level(chosen: Level) -> None:
    """Set the level of this program, of the libraries it imports, and of the processes it starts."""
    global level
    from polythink.run.progress import Progress

    level, Progress.hidden = chosen, chosen == "quiet"
    if chosen == "quiet":
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # read when transformers is imported; warnings otherwise
    if chosen != "normal":
        warnings.simplefilter("ignore" if chosen == "quiet" else "default")
        shown = logging.ERROR if chosen == "quiet" else logging.INFO
        logging.basicConfig(level=shown, format="%(relativeCreated)6d ms  %(name)s: %(message)s")


def log(text: str) -> None:
    """Print what a command reports while it works; nothing under `--quiet`."""
    if level != "quiet":
        print(text)


def note(text: str) -> None:
    """Say on stderr what a reader of the output should know; nothing under `--quiet`."""
    if level != "quiet":
        print(f"note: {text}", file=sys.stderr, flush=True)


def announce(text: str) -> None:
    """Say on stderr, for a person, what is about to take seconds: importing torch, loading a model."""
    if level == "verbose" or (level == "normal" and sys.stderr.isatty()):
        print(text, file=sys.stderr, flush=True)


def print_times() -> None:
    """Under `--verbose`: seconds since the start and processor seconds."""
    if level == "verbose":
        print(f"{time.perf_counter() - _started:.1f} s, {time.process_time():.1f} s of processor time", file=sys.stderr)


def print_definitions(rows: Mapping[str, str]) -> None:
    """Names and what they are, in two columns; for a pipe one line each, for a terminal wrapped to its width."""
    names = max(map(len, rows), default=0)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for name, text in rows.items():
        lines = textwrap.wrap(text, max(20, width - names - 2)) if width else [text]
        print(f"{name:{names}}  " + f"\n{'':{names + 2}}".join(lines or [""]))
