"""`polythink`: what surrounds every command: signals, errors, exit statuses. The commands are listed in `app.py`.

Only the standard library is imported before `main` runs, so that an interruption during imports is caught too.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

ENDINGS = {130: "interrupted", 143: "terminated"}  # 128 and the signal's number


def main() -> None:
    """Run the program. A user's mistake is one line on stderr and exit status 2, an interruption one line and 128 plus
    the number of its signal."""
    # before torch is imported: threads that spin while they wait make shared cores ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from polythink.run.launcher import is_follower

    try:
        if not is_follower():  # of several processes one speaks for all, until they have met
            signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGINT, _interrupt)
        if not sys.stderr.isatty():
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows "?" where it lacks a character
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        _run()
    except KeyboardInterrupt:
        _stop(ENDINGS[130], 130)
    except SystemExit as error:
        if error.code in ENDINGS:  # 130: typer has caught the interruption
            _stop(ENDINGS[error.code] + getattr(error, "kept", ""), error.code)
        raise


def _run() -> None:
    from polythink.errors import UserError, out_of_memory

    try:
        from polythink.cli.app import app

        app(prog_name="polythink")
    except UserError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 2)
    except RuntimeError as error:
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        _stop(sentence, 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: an exception, as always; but at once while a module is imported, since some catch every exception."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"polythink: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as after an interruption: what is open is closed, started processes are stopped."""
    sys.exit(128 + number)


def _stop(sentence: str, status: int) -> None:
    print(f"polythink: {sentence}", file=sys.stderr)
    # The interpreter ends itself by SIGINT, whatever the status, if an interruption passed through code that was
    # compiled from a string (dataclasses are, during imports). It forgets that when it compiles another string.
    exec("pass")
    sys.exit(status)
