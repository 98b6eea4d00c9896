"""Running a program that a model wrote, with hidden assertions about it, so that it can neither do harm nor cheat.

**How.** A keeper process (`sandboxed.keeper`; standard library only) forks two fresh processes for each program: one
runs the program and answers calls of its functions, the other runs the assertions (`sandboxed.judge`) with stand-ins
that send each call's arguments over a pipe and build the result anew as plain data. A verdict comes from the judge
alone. So a program can pass only by returning right values: ending early, printing, patching builtins or `assert`,
equality of its own and a search through its memory lead nowhere, as assertions and expected values are never in its
process. What it costs: a value that is no plain data (`sandboxed.values`) equals nothing but itself, and functions
cannot be arguments.

**What is guaranteed on Linux (x86_64, aarch64), as root and not.** The program's process opens nothing, creates
nothing, starts no process and no thread, signals and connects to nobody: the kernel refuses all calls that are not on
the list of `sandboxed.seccomp`, before the program is compiled. Memory, processor time, and printed bytes are bounded;
after its deadline it is killed and reaped, with all that descends from it. It has an empty environment and an empty
working directory, removed afterwards. It may import the modules of `sandboxed.keeper.MODULES`. If this process ends,
however it ends, so do they.

**Elsewhere** (macOS, other processors, a kernel without seccomp): limits on time, size of files, open files and
printed bytes hold; limits on memory and processes as far as the system has them (macOS does not bound memory); the
process group is killed at the deadline. Files, network and processes are refused by an audit hook inside Python
(`sandboxed.guard`), which is no wall against code that gets at memory. The verdict is as unforgeable as on Linux. This
is said once, as a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.problems.sandboxed.values import LONGEST, Closed, Link, TooLong

# Why an assertion does not hold: it is false; the program raised; it cannot be compiled; it took too long, too much
# memory, or printed or returned too much; it did what is not permitted; its process ended.
REASONS = ("assertion", "exception", "syntax", "timeout", "memory", "output", "forbidden", "killed")
START_SECONDS = 60  # until a keeper is ready, on a busy machine; does not count against any program
SLACK_SECONDS = 10  # over the deadline, until a keeper that says nothing is killed itself
LONGEST_TESTS = 64 << 20  # bytes
MESSAGES = {
    "timeout": "it was not done in time", "output": "it printed more than it may",
    "killed": "its process, or the one of the tests, was killed",
}  # fmt: skip
UNFILTERED = (
    "this system has no filter for system calls that polythink knows: programs are kept from files, the network and "
    "other processes by Python alone, which does not stop code that reaches past it; run models' programs on Linux "
    "(x86_64, aarch64), or in a container"
)
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from polythink.problems.sandboxed.keeper import main; main()"


@dataclass(frozen=True)
class Limits:
    """What one program may take, its assertions included. `filter`: the kernel's filter, where there is one."""

    seconds: float = 5.0
    memory: int = 512 << 20  # bytes of address space
    output: int = 1 << 20  # bytes printed to stdout and stderr together
    filter: bool = True


@dataclass(frozen=True)
class Test:
    """Hidden assertions: statements, run one after the other in one namespace, each of which holds or does not.

    `setup` is run before; both call the program's functions by the `names` given. None of that reaches the program;
    `given` is what it builds on: code that is run before its own, in its process.
    """

    __test__ = False  # for pytest: this is no class of tests

    assertions: tuple[str, ...]
    names: tuple[str, ...]
    setup: str = ""
    given: str = ""


@dataclass(frozen=True)
class Outcome:
    """Which assertions hold; why the first of the others does not (one of `REASONS`); what was printed, up to 4 KiB."""

    holds: tuple[bool, ...]
    reason: str = ""
    message: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        return all(self.holds)

    @property
    def share(self) -> float:
        """The share of assertions that hold, 0..1."""
        return sum(self.holds) / len(self.holds)


class Sandbox:
    """Runs programs, up to `workers` at once, each in a fresh process. Thread-safe.

    Keepers are started when they are first needed. Close it, or use it as a context manager, to end them.
    """

    def __init__(self, workers: int = 2, limits: Limits = Limits()) -> None:
        self.workers, self.limits = workers, limits
        self._idle: queue.LifoQueue[_Keeper | None] = queue.LifoQueue()  # None: one that is not started
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, program: str, test: Test) -> Outcome:
        """Run the program's text, then the assertions. Raises nothing, whatever the program does.

        `UserError` only if no process can be started. Waits until one of the `workers` is free.
        """
        assert test.assertions, "a program without assertions passes in any case"
        keeper = self._idle.get()
        try:
            keeper = keeper if keeper and keeper.alive else _Keeper()
            return keeper.run(program, test, self.limits)
        finally:
            self._idle.put(keeper if keeper and keeper.alive else None)

    def close(self) -> None:
        """End all processes. The sandbox can be used again: new ones start."""
        for _ in range(self.workers):
            keeper = self._idle.get()
            if keeper:
                keeper.kill()
        for _ in range(self.workers):
            self._idle.put(None)


class _Keeper:
    """The caller's side of one keeper process. Starting it blocks until it is ready. One program at a time."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._folder = tempfile.mkdtemp(prefix="polythink-")
        needed = {name: value for name, value in os.environ.items() if name.startswith(("LD_", "DYLD_"))}
        command = [
            sys.executable, "-P", "-s", "-S", "-B", "-c", START, str(Path(__file__).parents[2]), str(theirs.fileno()),
            self._folder,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()], env={**needed, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        )  # fmt: skip
        theirs.close()
        ready = self._reply(START_SECONDS)
        if ready is None:
            self.kill()
            raise UserError(
                "the process that runs programs did not start: run "
                f"`{sys.executable} -c 'import polythink.problems.sandboxed.keeper'` to see why"
            )
        self._filters = bool(ready["filter"])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, program: str, test: Test, limits: Limits) -> Outcome:
        filters = limits.filter and self._filters
        if not filters:
            _warn_unfiltered()
        opened: list[socket.socket] = []
        watchdog = threading.Timer(limits.seconds + SLACK_SECONDS, self._give_up, (opened,))
        watchdog.daemon = True
        watchdog.start()
        reports: dict[int, tuple[str, str]] = {}
        ended = None
        try:
            with _unless_gone():
                for_program, for_judge = self._submit({**asdict(limits), "filter": filters})
                with for_program, for_judge:
                    opened += [for_program, for_judge]
                    _send(for_program, [test.given, program])
                    _send(for_judge, asdict(test), LONGEST_TESTS)
                    reports = _reports(for_judge)
                ended = self._reply()
        except BaseException:  # Ctrl-C, a time limit: what it says now is no answer to the next program
            self.kill()
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
        if ended is None:
            self.kill()
            ended = {"end": "killed", "output": ""}
        return _outcome(len(test.assertions), reports, ended)

    def _give_up(self, opened: list[socket.socket]) -> None:
        """Kill a keeper that says nothing, and wake whoever waits for its children (which Linux kills with it)."""
        self._process.kill()
        for end in opened:
            with contextlib.suppress(OSError):  # it is closed by now
                end.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End the keeper at once; its children end with it."""
        self._process.kill()
        self._process.wait()
        self._control.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _submit(self, limits: dict[str, object]) -> tuple[socket.socket, socket.socket]:
        """Begin a job: our ends of the sockets that go to the program and to the judge."""
        pairs = [socket.socketpair(), socket.socketpair()]
        with pairs[0][1] as first, pairs[1][1] as second:
            header = json.dumps(limits).encode()
            socket.send_fds(self._control, [header], [first.fileno(), second.fileno()])
        return pairs[0][0], pairs[1][0]

    def _reply(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The keeper's next message; None if it is gone, or says nothing for that long."""
        if seconds is not None and not select.select([self._control], [], [], seconds)[0]:
            return None
        with _unless_gone():
            return Link(self._control.fileno()).receive()
        return None


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """Passes over that the other side is gone; not over a time limit, which a caller's signal handler raises here."""
    try:
        yield
    except TimeoutError:
        raise
    except (Closed, OSError):
        pass


def _send(to: socket.socket, message: Any, longest: int = LONGEST) -> None:
    with _unless_gone(), contextlib.suppress(TooLong):  # a child that is gone, or told nothing, reports nothing
        Link(to.fileno(), longest).send(message)


def _reports(judge: socket.socket) -> dict[int, tuple[str, str]]:
    """What the judge says until it ends: reason and message of each assertion, by its place (see `judge.judge`)."""
    reports: dict[int, tuple[str, str]] = {}
    with contextlib.suppress(Closed):
        while True:
            place, reason, message = Link(judge.fileno()).receive()
            reports[place] = (reason, message)
    return reports


def _outcome(assertions: int, reports: dict[int, tuple[str, str]], ended: dict[str, str]) -> Outcome:
    """The outcome of what was reported. What was not reported does not hold, for the reason for which the job ended."""
    end = "killed" if ended["end"] == "done" else ended["end"]
    unsaid = reports.get(-1, (end, MESSAGES.get(end, "")))
    verdicts = [reports.get(place, unsaid) for place in range(assertions)]
    reason, message = next((verdict for verdict in verdicts if verdict[0]), ("", ""))
    if reason == "killed" and end == "output":  # the keeper closed its pipe
        reason, message = end, MESSAGES[end]
    return Outcome(tuple(not reason for reason, _ in verdicts), reason, message, ended["output"])


@cache
def _warn_unfiltered() -> None:
    warnings.warn(UNFILTERED, stacklevel=4)
