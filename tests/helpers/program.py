"""What tests of programs share: a command in this process, work in a forked one, shape and recipe of tiny models."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from typer import Typer
from typer.testing import CliRunner

from polythink.cli.main import main

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48,
}  # fmt: skip
HEAD = """
name: small
prompt: countdown_parallel
decoding: {paths: 2, max_main_tokens: 16, max_path_tokens: 8, max_summary_tokens: 4, max_trace_tokens: 60}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, head_dim: 16, intermediate_size: 64}
stages:
"""  # of a recipe whose stages follow


def invoke(app: Typer, *arguments: object, **options) -> Any:
    """The result of a command; a `UserError` passes through, for `main` to print."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def forked(work: Callable[[], object]) -> int:
    """Do the work in a process forked from this one, which imports nothing anew; its exit status, as `Popen` has it."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Forked(multiprocessing.get_context("fork").Process):
    """The program in a process that imports nothing anew, with what tests ask of a `Popen`."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(daemon=True)
        self.arguments = arguments
        self.out, self.err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self.start()

    def run(self) -> None:
        os.setsid()
        sys.stdout, sys.stderr = self.out, self.err
        sys.argv = ["polythink", *self.arguments]
        main()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, seconds: float) -> int | None:
        self.join(seconds)
        return self.exitcode

    def communicate(self) -> tuple[str, str]:
        for file in (self.out, self.err):
            file.seek(0)
        return self.out.read(), self.err.read()


def run_forked(*arguments: str, seconds: float = 120) -> tuple[int, str, str]:
    """Exit status, output and errors of the program, in a process that imports nothing anew."""
    process = Forked(*arguments)
    return process.wait(seconds), *process.communicate()
