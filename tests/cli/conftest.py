"""The program in this process, as `main` runs it: quick, and still everything but the interpreter's start."""

from __future__ import annotations

import signal
import sys

import pytest

from helpers.charts import sketched  # noqa: F401


@pytest.fixture
def polythink(monkeypatch, capsys):
    """Runs the program; returns exit status, output and errors. An exception that `main` lets pass is the test's."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from polythink.cli.main import main

        monkeypatch.setattr(sys, "argv", ["polythink", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
