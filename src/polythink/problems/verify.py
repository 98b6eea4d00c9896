"""math-verify in a process of its own, killed when it overruns.

sympy on a model's text may take forever (`9^{9^{9^9}}`), cannot be interrupted by a signal outside the main thread, and
must not stall a trainer or a server. A `Worker` is a plain child process that speaks JSON lines over its pipes, not a
`multiprocessing` child: the caller's main module is not imported again, and daemons and notebooks can use it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from polythink.errors import UserError

START_SECONDS = 120  # to import sympy on a busy machine; does not count against any answer
ALGEBRA = "polythink.problems.algebra"  # the module whose `equal` the worker calls
MEMORY = 2 << 30  # bytes of data a worker may hold


class Worker:
    """The parent's side of one worker process. Starting it blocks until it is ready. One question at a time."""

    def __init__(self) -> None:
        package = Path(__file__).parents[2]
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, ALGEBRA],  # -P: not the sympy.py of the user's folder
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path}, text=True, encoding="utf-8", bufsize=1,
        )  # fmt: skip
        if self._exchange("", START_SECONDS) != "ready":
            self.kill()
            command = f"{sys.executable} -m {__name__} {ALGEBRA}"
            raise UserError(f"math-verify did not start in a worker process: run `{command}` to see why")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, given: str, reference: str, seconds: float) -> bool | None:
        """Whether the answers are equal; None if there is no reply in time, and then the worker is dead."""
        reply = self._exchange(json.dumps([given, reference, seconds]) + "\n", seconds)
        return None if reply is None else json.loads(reply)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # unsent bytes to a dead process
                pipe.close()

    def _exchange(self, line: str, seconds: float) -> str | None:
        """Send a line and read one; a process that takes longer is killed, which ends the read."""
        overran = threading.Event()
        watchdog = threading.Timer(seconds, lambda: (overran.set(), self._process.kill()))
        watchdog.daemon = True
        watchdog.start()
        try:
            self._process.stdin.write(line)
            reply = self._process.stdout.readline()
        except BrokenPipeError:  # the process is gone
            reply = ""
        except BaseException:  # Ctrl-C, a time limit of the caller: what it says now is no answer to the next question
            self.kill()
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
        if overran.is_set() or not reply:
            self.kill()
            return None
        return reply.rstrip("\n")


def main() -> None:
    """The child's side: say `ready`, then answer `[given, reference, seconds]` with `true`, `false` or `null`."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is not a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    equal = _checker()
    _limit_memory()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        given, reference, seconds = json.loads(line)
        _set_alarm(int(seconds) + 5)  # ends this process if its parent is gone and cannot
        try:
            same = equal(given, reference)
        except (MemoryError, RecursionError):
            same = None
        _set_alarm(0)
        print(json.dumps(same), file=replies, flush=True)


def _checker() -> Callable[[str, str], bool]:
    equal = importlib.import_module(sys.argv[1]).equal  # here, not above: sympy takes seconds to import
    equal("x + 1", r"\frac{1}{2}")  # the first call is the slow one
    return equal


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # a second line of defence: not every system has it
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def _set_alarm(seconds: int) -> None:
    if hasattr(signal, "alarm"):  # not on every system
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
