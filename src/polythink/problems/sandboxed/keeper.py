"""The keeper: a small process that runs one program after the other in children of its own, and ends them.

It imports Python's standard library and nothing else, once; each program then gets a fresh process by fork, which takes
about a millisecond. It never runs a program's code, and never sees the tests: the sockets over which the caller sends
them go straight to the children. For each job it forks two: the program, then the judge (`program`, `judge`).
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import importlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from polythink.problems.sandboxed import guard, judge, program, seccomp
from polythink.problems.sandboxed.values import Link

# What programs and tests may import: it is there before the door to files is closed.
MODULES = (
    "__future__", "_strptime", "abc", "array", "ast", "base64", "binascii", "bisect", "builtins", "calendar", "cmath",
    "collections", "collections.abc", "colorsys", "contextlib", "copy", "dataclasses", "datetime", "decimal", "difflib",
    "enum", "fractions", "functools", "gc", "hashlib", "heapq", "html", "inspect", "io", "itertools", "json", "keyword",
    "math", "numbers", "operator", "os", "pprint", "queue", "random", "re", "secrets", "statistics", "string", "struct",
    "sys", "textwrap", "time", "timeit", "traceback", "types", "typing", "unicodedata", "uuid", "warnings", "weakref",
    "zlib",
)  # fmt: skip
ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "utf-8-sig", "unicode_escape", "rot13", "hex", "idna")
KEPT = 4096  # bytes of a program's output that are given back
NOBODY = 65534
OPEN_FILES = 8


def main() -> None:
    """Serve jobs that come over the socket of descriptor `sys.argv[1]`, until it closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    folder = sys.argv[2]  # for the programs' working directories
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    for name in MODULES:
        importlib.import_module(name)
    for name in ENCODINGS:
        codecs.lookup(name)
    if sys.platform == "linux":
        seccomp.prctl(seccomp.PR_SET_CHILD_SUBREAPER, 1)  # what a program leaves behind becomes a child of this process
    gc.freeze()
    try:
        _serve(control, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(control: socket.socket, folder: str) -> None:
    replies = Link(control.fileno())
    replies.send({"filter": seccomp.available()})
    while True:
        header, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
        if not header:
            return
        replies.send(run(json.loads(header), *descriptors, control, folder))


def run(limits: dict[str, Any], program_end: int, judge_end: int, control: socket.socket, folder: str) -> Any:
    """One job: fork the two, watch them until the judge ends, the time is over or too much was printed; end them.

    Returns {"end": `done`, `timeout` or `output`, "output": the beginning of what the program printed}.
    """
    started = time.monotonic()
    place = tempfile.mkdtemp(dir=folder)
    ours, theirs = socket.socketpair()
    printed, prints = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    running = [_fork(lambda: _be_program(limits, place, [nothing, prints, prints, program_end, ours.fileno()]))]
    ended, lives = os.pipe()  # the other end is held by the judge alone: it reads as closed when the judge has ended
    running.append(
        _fork(lambda: _be_judge(limits, place, [nothing, nothing, nothing, judge_end, theirs.fileno(), lives]))
    )
    for descriptor in (program_end, judge_end, prints, nothing, lives):
        os.close(descriptor)
    ours.close()
    theirs.close()
    try:
        return _watch(started + limits["seconds"], limits["output"], printed, ended, control, running)
    finally:
        _end(running)
        os.close(printed)
        os.close(ended)
        shutil.rmtree(place, ignore_errors=True)


def _watch(
    deadline: float, most: int, printed: int, ended: int, control: socket.socket, running: list[int]
) -> dict[str, str]:
    poll = select.poll()
    for descriptor in (printed, ended, control.fileno()):
        poll.register(descriptor, select.POLLIN)
    output, length, end = b"", 0, "done"
    while (left := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
        if control.fileno() in ready:  # the caller is gone
            _end(running)
            sys.exit()
        if printed in ready:
            data = os.read(printed, 1 << 16)
            length += len(data)
            output += data[: KEPT - len(output)]
            if length > most:
                end = "output"
                _kill(running[0])  # the judge finds its pipe closed
            if not data or end == "output":
                poll.unregister(printed)
        elif ended in ready:
            return {"end": end, "output": output.decode("utf-8", "replace")}
    return {"end": "timeout", "output": output.decode("utf-8", "replace")}


def _end(running: list[int]) -> None:
    """Kill these process groups and whatever else has become a child of this process, and reap them all.

    The judge, which was forked last, goes first: it must not live to see its program end, and report that.
    """
    for child in reversed(running):
        _kill(child)
    while True:
        try:
            child, _ = os.waitpid(-1, 0 if running else os.WNOHANG)
        except ChildProcessError:
            return
        if child in running:
            running.remove(child)
        elif child == 0:
            for other in _descendants(os.getpid()):
                _kill(other)
            time.sleep(0.001)


def _kill(child: int) -> None:
    for kill in (os.killpg, os.kill):  # its group may not be there yet
        try:
            kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _descendants(root: int) -> list[int]:
    """All processes below one; [] where the system has no /proc."""
    if not os.path.isdir("/proc/self"):
        return []
    above: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                above[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in above.items() if parent == pid]
    return found[1:]


# ---- the children ----


def _fork(become: Callable[[], None]) -> int:
    """Fork a child that never returns here."""
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        if os.getppid() == keeper:
            become()
    finally:
        os._exit(1)


def _be_program(limits: dict[str, Any], place: str, descriptors: list[int]) -> None:
    _take(descriptors)
    sources = Link(3).receive()
    os.close(3)
    _confine(limits, place)
    program.serve(sources, Link(4))


def _be_judge(limits: dict[str, Any], place: str, descriptors: list[int]) -> None:
    _take(descriptors)
    task = Link(3, sys.maxsize).receive()
    _confine(limits, place)
    judge.judge(task, Link(3), Link(4))


def _take(descriptors: list[int]) -> None:
    """Have these open as 0, 1, 2, .. and nothing else."""
    high = [os.dup2(descriptor, 100 + i) for i, descriptor in enumerate(descriptors)]
    for i, descriptor in enumerate(high):
        os.dup2(descriptor, i)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _confine(limits: dict[str, Any], place: str) -> None:
    """Give up, for good, what a program has no need of. The order matters: each step takes rights that others need."""
    os.chdir(place)
    os.environ.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed(0)  # the same program gets the same verdict every time
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), "utf-8", "replace") for n in (1, 2))
    linux = sys.platform == "linux"
    seconds = int(limits["seconds"]) + 2  # should this process outlive its keeper's watch
    bounds = {
        "CPU": seconds, "AS": limits["memory"], "FSIZE": 0, "CORE": 0, "NOFILE": OPEN_FILES, "NPROC": 0, "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }  # fmt: skip
    for name, bound in bounds.items():
        if hasattr(resource, f"RLIMIT_{name}"):
            with contextlib.suppress(*(() if linux else (ValueError, OSError))):  # macOS refuses to bound some
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))
    if os.geteuid() == 0:  # as root, limits on processes and modes of files do not hold
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        except OSError:  # a container without other users; the filter holds there as well
            pass
    if linux:
        seccomp.prctl(seccomp.PR_SET_DUMPABLE, 0)  # no core file, no tracing
        seccomp.prctl(seccomp.PR_SET_PDEATHSIG, signal.SIGKILL)  # its keeper's end is its own
    if limits["filter"]:
        seccomp.confine()
    else:
        guard.install()
