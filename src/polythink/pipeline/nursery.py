"""Stages as forks of one process that has imported everything: an experiment of twelve stages imports torch once.

The parent (`Nursery`) asks over a socket, one JSON line for each stage, with its log and its lock as file descriptors;
the server (this module as a program) forks, and answers with the process's number, later with its exit status. The
server computes nothing itself, so a fork starts as a new process would: one thread, no caches but imported modules.
When the parent is gone the server ends, and the stages that run go on, as processes of their own would.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

LINE = 1 << 16  # bytes of a request or an answer, at most
LOST = -int(signal.SIGKILL)  # status of stages whose server was killed


class Forked:
    """A stage's process, as `subprocess.Popen` shows one."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._pid: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        while self._pid is None:
            self._nursery.listen(None)
        return self._pid

    def poll(self) -> int | None:
        if self.returncode is None:
            self._nursery.listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired` where nothing was heard for `timeout` seconds."""
        while self.returncode is None:
            if not self._nursery.listen(timeout):
                raise subprocess.TimeoutExpired("a stage", timeout or 0.0)
        return self.returncode


class Nursery:
    """The server, started with the first stage."""

    def __init__(self, environment: Mapping[str, str], imports: str = "polythink.pipeline.runners") -> None:
        self._environment, self._imports = environment, imports
        self._socket: socket.socket | None = None
        self._asked: list[Forked] = []  # whose numbers are not known yet, in order
        self._running: dict[int, Forked] = {}
        self._heard = b""

    def start(self, spec: Path, threads: int, log: int, lock: int) -> Forked:
        """Fork the stage that `spec` describes, to compute in `threads` threads.

        The file `log` takes what it writes; the file `lock` is open as long as it lives.
        """
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            command = [sys.executable, "-m", "polythink.pipeline.nursery", str(theirs.fileno()), self._imports]
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs.fileno(),),
                env={**self._environment, "OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip
            theirs.close()
        forked = Forked(self)
        self._asked.append(forked)
        try:
            socket.send_fds(
                self._socket, [json.dumps({"spec": str(spec), "threads": threads}).encode() + b"\n"], [log, lock]
            )
        except OSError:  # the server was killed: reading says so
            self.listen(None)
        return forked

    def listen(self, timeout: float | None) -> bool:
        """Note what the server says within `timeout` seconds (None: wait for it); whether it said anything."""
        self._socket.settimeout(timeout)
        try:
            heard = self._socket.recv(LINE)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionError:
            heard = b""
        if not heard:
            for forked in (*self._asked, *self._running.values()):
                forked._pid, forked.returncode = forked._pid or self._server.pid, LOST
            self._asked, self._running = [], {}
            return True
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for said in map(json.loads, lines):
            if "status" in said:
                self._running.pop(said["pid"]).returncode = said["status"]
            else:
                forked = self._asked.pop(0)
                forked._pid = said["pid"]
                self._running[forked._pid] = forked
        return True

    def close(self) -> None:
        """End the server."""
        if self._socket is not None:
            self._socket.close()
            self._server.wait()
            self._socket = None


# ---- the server ----


def serve(connection: socket.socket, imports: str) -> None:
    """Fork for every request until the parent is gone, with this module imported. What it asked in vain is not begun.

    It may be gone before the import is done, interrupted in its first seconds.
    """
    try:
        import_module(imports)
    except Exception:
        traceback.print_exc()  # the stages import it again, and end with the same error
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    waiting = selectors.DefaultSelector()
    for source in (connection, ended):
        waiting.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj == ended:
                os.read(ended, LINE)
                _tell_ended(connection)
                continue
            request, files, _, _ = socket.recv_fds(connection, LINE, 2)
            if not request or _is_gone(connection):
                return
            _fork(connection, **json.loads(request), log=files[0], lock=files[1], close=(ended, wake))
            for file in files:
                os.close(file)


def _tell_ended(connection: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(connection, pid=pid, status=os.waitstatus_to_exitcode(status))


def _is_gone(connection: socket.socket) -> bool:
    """Whether the parent has closed its end; its requests can be read all the same."""
    hung_up = select.poll()
    hung_up.register(connection, 0)  # a broken line is told unasked
    return bool(hung_up.poll(0))


def _say(connection: socket.socket, **said: int) -> None:
    with suppress(BrokenPipeError):  # the parent has gone since: reading says so
        connection.sendall(json.dumps(said).encode() + b"\n")


def _fork(connection: socket.socket, spec: str, threads: int, log: int, lock: int, close: tuple[int, ...]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ready, begun = os.pipe()
    pid = os.fork()
    if pid:
        os.close(begun)
        os.read(ready, 1)  # until the stage has a session, and so a group that the schedule can end
        os.close(ready)
        _say(connection, pid=pid)
        return
    status = 1
    try:
        os.setsid()  # Ctrl-C reaches the stage and its children through the schedule
        for file in (ready, begun):
            os.close(file)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        for file in close:
            os.close(file)
        for standard in (1, 2):
            os.dup2(log, standard)
        os.close(log)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of what the stage starts itself
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
        from polythink.pipeline import stage

        status = stage.run_as_program([spec])
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
