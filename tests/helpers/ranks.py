"""Real processes that train together over gloo, forked from a server that has imported everything and computed nothing.

A launch with torchrun imports torch in every process; here one launch costs what the training costs.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from polythink.cli.main import main
from polythink.errors import UserError

PRELOAD = ["helpers.ranks", "helpers.training", "polythink.pipeline.together", "polythink.cli.runs"]
LONG = 400.0  # seconds: a process that has not ended by then hangs, however slow the machine is


@dataclass(frozen=True)
class Ended:
    """How a process ended: what the function gave, the exit status, and the sentence of an error."""

    status: int
    value: Any = None
    said: str = ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Ranks:
    """`world` processes that call `function(*args)`, each told by the environment who it is, as by torchrun."""

    def __init__(self, world: int, function: Callable[..., Any], *args: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        port, self.pipes, self.processes = free_port(), [], []
        for rank in range(world):
            ours, theirs = context.Pipe(duplex=False)
            said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port}  # fmt: skip
            process = context.Process(target=_run, args=(said, theirs, function, args))
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def wait(self) -> list[Ended]:
        """How each ended; one that hangs is killed, and fails the test."""
        try:
            return [self._ended(*pair) for pair in zip(self.pipes, self.processes, strict=True)]
        finally:
            for process in self.processes:
                process.kill()

    def _ended(self, pipe: Connection, process: multiprocessing.process.BaseProcess) -> Ended:
        assert pipe.poll(LONG), f"process {process.pid} hangs"
        try:
            status, value, said = pipe.recv()
        except EOFError:
            status = value = said = None
        process.join(LONG)
        assert process.exitcode is not None, f"process {process.pid} does not end"
        return Ended(process.exitcode if status is None else status, value, said or "")


def _run(environment: dict[str, Any], pipe: Connection, function: Callable[..., Any], args: tuple) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    try:
        pipe.send((0, function(*args), ""))
    except SystemExit as end:
        pipe.send((end.code, None, ""))
    except UserError as error:
        pipe.send((2, None, str(error)))
    except Exception as error:
        pipe.send((1, None, f"{type(error).__name__}: {error}"))
    pipe.close()
    os._exit(0)  # as a program that ends with its group's sockets open


def together(world: int, function: Callable[..., Any], *args: Any) -> list[Ended]:
    """Run and wait."""
    return Ranks(world, function, *args).wait()


def program(folder: Path, *arguments: str) -> None:
    """The whole program in each process. What one says goes to `folder`/out-RANK and err-RANK; ends with its status."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{name}-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.argv = ["polythink", *arguments]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def torchrun(*arguments: object, nodes: tuple[int, int] = (1, 0), port: int = 0, **more: Any) -> subprocess.Popen:
    """`polythink train` under torchrun: two processes on this machine, or one of each of two nodes."""
    count, node = nodes
    where = ["--standalone", "--nproc-per-node", "2"]
    if count > 1:
        where = ["--nnodes", str(count), "--node-rank", str(node), "--nproc-per-node", "1",
                 "--master-addr", "127.0.0.1", "--master-port", str(port)]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "polythink", "train"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **more,
    )  # fmt: skip


def said(folder: Path, name: str, world: int) -> list[str]:
    """What each process of `program` said."""
    return [(folder / f"{name}-{rank}").read_text() for rank in range(world)]
