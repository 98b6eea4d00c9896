"""The live view in a real terminal (a pseudo-terminal and an emulator): no frame is left over or too tall."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pty
import re
import struct
import sys
import termios

import pytest

from helpers.sweep import sweep

PROGRAM = """
import fcntl, struct, sys, termios, threading
from polythink.engine.params import Event
from polythink.report.terminal import LiveTrace, live_view

paths, words, resize_to = int(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])


class Watched(LiveTrace):
    begun, changed = 0, threading.Condition()

    def __rich_console__(self, console, options):
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
        yield from super().__rich_console__(console, options)

    def wait_for_a_frame(self):  # that shows what is there now: it is whole once the one after it has begun
        with self.changed:
            wanted = self.begun + 2
            assert self.changed.wait_for(lambda: self.begun >= wanted, 60)


view = Watched(lambda tokens: " ".join(f"w{token}" for token in tokens))
with live_view(view) as screen:
    view.on_event(Event("token", 0, 0, -1, 0, 7))
    for word in range(words):
        for path in range(1, paths + 1):
            view.on_event(Event("token", 0, path, 0, path, 1000 * path + word))
        if word % (words // 2) == words // 3:
            view.wait_for_a_frame()
        if resize_to and word == words // 2:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", *resize_to, 0, 0))
            sys.__stdout__.write("\\x1b[8;%d;%dt" % resize_to)  # tell the emulator
            sys.__stdout__.flush()
            view.wait_for_a_frame()
    print("a warning", file=sys.stderr)
    view.on_event(Event("done", 0, 0, -1, 0))
screen.print(view)
"""


class Terminal:
    """As much of a terminal as rich writes to: two screens, the main one with a history."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.history: list[str] = []
        self.screens = {name: [""] * rows for name in ("main", "other")}
        self.on, self.row, self.column = "main", 0, 0
        self.frames: list[list[str]] = []
        self.scrolled = 0  # lines that the other screen lost at its top

    def feed(self, text: str) -> None:
        for found in re.finditer(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|[\r\n]|[^\x1b\r\n]+", text):
            if found[2]:
                self._control(found[1], found[2])
            elif found[0] == "\r":
                self.column = 0
            elif found[0] == "\n":
                self._down()
            elif not found[0].startswith("\x1b"):
                for character in found[0]:
                    self._put(character)

    def _control(self, given: str, final: str) -> None:
        if given == "?1049":
            self.on = "other" if final == "h" else "main"
        elif final == "H":
            if self.on == "other":
                self.frames.append([line.rstrip() for line in self.screens["other"]])
            self.row = self.column = 0
        elif final == "A":
            self.row = max(0, self.row - int(given or 1))
        elif final == "K":
            self.screens[self.on][self.row] = ""
        elif final == "t":
            _, rows, self.columns = map(int, given.split(";"))
            for name, lines in self.screens.items():
                self.screens[name] = [line[: self.columns] for line in (lines + [""] * rows)[:rows]]
            self.rows, self.row = rows, min(self.row, rows - 1)

    def _down(self) -> None:
        lines = self.screens[self.on]
        if self.row < self.rows - 1:
            self.row += 1
            return
        if self.on == "main":
            self.history.append(lines[0])
        else:
            self.scrolled += 1
        lines[:] = [*lines[1:], ""]

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.screens[self.on][self.row].ljust(self.column)
        self.screens[self.on][self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    @property
    def text(self) -> str:
        """All that a user can scroll back to."""
        return "\n".join(line.rstrip() for line in [*self.history, *self.screens["main"]])


def show(rows: int, columns: int, paths: int, words: int = 150, resize_to: tuple[int, int] | None = None) -> Terminal:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = multiprocessing.get_context("fork").Process(target=run, args=(slave, master, paths, words, resize_to))
    process.start()
    os.close(slave)
    written = b""
    while True:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    process.join()
    os.close(master)
    terminal = Terminal(rows, columns)
    terminal.feed(written.decode())
    assert process.exitcode == 0, terminal.text
    return terminal


def run(slave: int, master: int, *arguments: object) -> None:
    """The program with this terminal, in a process forked for it."""
    os.close(master)
    for stream in range(3):
        os.dup2(slave, stream)
    os.close(slave)
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        os.environ.pop(name, None)
    os.environ["TERM"] = "xterm-256color"
    sys.argv = ["program", *map(repr, arguments)]
    exec(PROGRAM, {"__name__": "program"})
    sys.stdout.flush()


def check_end(terminal: Terminal, paths: int, words: int) -> None:
    """The whole trace stands there once, after what was written to stderr meanwhile, and nothing else."""
    for path in range(1, paths + 1):
        assert len(re.findall(rf"\bpath {path}\b", terminal.text)) == 1
    shown = re.findall(r"w\d+", terminal.text)
    assert len(shown) == 1 + paths * words
    assert len(set(shown)) == len(shown)
    assert terminal.text.count("a warning") == 1


SIZES = [(24, 80), (30, 40), (10, 80), (10, 28)]


@pytest.mark.parametrize(
    ("rows", "columns", "paths"),
    sweep([(*size, paths) for size in SIZES for paths in (3, 8)], [(24, 80, 3), (30, 40, 8), (10, 80, 8), (10, 28, 3)]),
)
def test_a_trace_taller_than_the_terminal_leaves_no_frames(rows: int, columns: int, paths: int) -> None:
    terminal = show(rows, columns, paths)
    check_end(terminal, paths, 150)
    assert terminal.scrolled == 0
    drawn = [frame for frame in terminal.frames if any(frame)]
    assert drawn, "frames were shown while it was sampled"
    newest = re.findall(r"\bw1(\d\d\d)\b", "\n".join(drawn[-1]))
    assert newest, "the newest words of a path are in sight"
    if not (rows == 10 and paths == 8):  # more paths than lines
        assert f"path {paths}" in "\n".join(drawn[-1])


@pytest.mark.parametrize("resize_to", [(12, 50), (40, 120)])
def test_a_resized_terminal_has_no_remains(resize_to: tuple[int, int]) -> None:
    terminal = show(24, 80, 3, resize_to=resize_to)
    check_end(terminal, 3, 150)
    drawn = [frame for frame in terminal.frames if any(frame)][-1]  # a frame on its way at that moment may scroll
    assert len(drawn) == resize_to[0]
    assert max(map(len, drawn)) <= resize_to[1]
    assert [len(re.findall(rf"\bpath {path}\b", "\n".join(drawn))) for path in (1, 2, 3)] == [1, 1, 1]
