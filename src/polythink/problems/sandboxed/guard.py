"""Where the kernel has no filter for us (macOS, another processor): the same refusals from within Python.

An audit hook (PEP 578) sees each call that would open, create, start, signal or connect, and raises. It stops what a
program does through Python's library. It is no wall: code that reaches memory past Python could take it down.
"""

from __future__ import annotations

import sys
from typing import Any

REFUSED = (
    "open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "tempfile.", "glob.", "pathlib.", "fcntl.",
    "resource.", "signal.", "pty.", "syslog.", "sqlite3.", "mmap.", "_thread.", "_posixsubprocess.",
)  # fmt: skip
UNSEEN = (
    "pidfd_open",
    "fork",
    "forkpty",
    "mkfifo",
    "mknod",
    "pipe",
    "pipe2",
    "memfd_create",
    "eventfd",
    "setsid",
    "setpgid",
    "kill",
)
CLOSED = ("ctypes", "_ctypes", "_posixsubprocess", "polythink")  # the ways past Python


def install() -> None:
    """Refuse from here on; there is no way to remove an audit hook."""
    import os

    for name in list(sys.modules):
        if name.partition(".")[0] in CLOSED and "sandboxed" not in name:
            del sys.modules[name]
    for name in UNSEEN:  # of these, some releases of Python say nothing to hooks
        for module in (os, sys.modules.get("posix")):
            if module is not None and hasattr(module, name):
                setattr(module, name, _refuse)
    sys.addaudithook(_hook)


def _refuse(*given: Any, **named: Any) -> None:
    raise PermissionError(1, "not permitted here")


def _hook(event: str, details: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED) or (event == "import" and str(details[0]).partition(".")[0] in CLOSED):
        raise PermissionError(1, f"{event} is not permitted here")
