"""A real server process on loopback. It is forked from the tests' own, which has torch in memory already."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import OpenAI

from polythink.engine.engine import Engine
from polythink.models.lm import LanguageModel
from polythink.serve.app import build_app
from polythink.serve.config import ServeConfig
from polythink.serve.run import bind, run
from polythink.serve.service import Service

LISTENING = re.compile(r"polythink serving (.*) on (http://\S+) \(page at /, API at /v1\)")
PATIENCE = 60.0  # seconds; a bound for what hangs, no measure of speed


@dataclass
class Served:
    """A server that runs: its address, its process, and what it has written to stderr."""

    process: multiprocessing.Process
    url: str
    stderr: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str = "none", **more) -> OpenAI:
        """OpenAI's own client, without its retries."""
        http = httpx.Client(trust_env=False, verify=False, timeout=PATIENCE)  # certificates take long to load
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http, **more)

    def http(self, **more) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "trust_env": False, "verify": False, "timeout": PATIENCE, **more})

    def counters(self, **headers: str) -> dict[str, float]:
        """What /metrics says, by name, without labels; answers by their status."""
        with self.http(headers=headers) as client:
            lines = client.get("/metrics").text.splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                status = re.search(r'status="(\d+)"', name)
                key = name.partition("{")[0].removeprefix("polythink_") + (f":{status[1]}" if status else "")
                found[key] = found.get(key, 0.0) + float(value)
        return found

    def wait_until(self, condition: Callable[[dict[str, float]], bool], **headers: str) -> dict[str, float]:
        """The counters, as soon as they are so."""
        end = time.monotonic() + PATIENCE
        while not condition(found := self.counters(**headers)):
            assert time.monotonic() < end, f"still {found}"
            time.sleep(0.02)
        return found

    def wait_idle(self, **headers: str) -> dict[str, float]:
        """The counters, once nothing runs, waits or is kept."""
        busy = ("num_requests_running", "num_requests_waiting", "num_http_generations", "kv_cache_bytes")
        return self.wait_until(lambda found: not any(found[name] for name in busy), **headers)

    def ended(self) -> int | None:
        """The exit status, once the process has ended."""
        self.process.join(PATIENCE)
        return self.process.exitcode

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Send a signal and wait; the exit status."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)
        return self.ended()


def start(program: Callable[[], None], folder: Path) -> Served:
    """A process in which `program` serves; returns once it says that it listens."""
    out, err = folder / "stdout", folder / "stderr"
    out.write_text("")

    def child() -> None:
        gc.freeze()  # a collection would go through all that the tests' process holds
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        with os.fdopen(1, "w", closefd=False) as sys.stdout, os.fdopen(2, "w", closefd=False) as sys.stderr:
            logging.basicConfig(force=True, stream=sys.stderr)  # what pytest has put there is not for this process
            program()

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    end = time.monotonic() + PATIENCE
    while not (found := LISTENING.search(out.read_text())):
        assert process.is_alive(), f"the server has ended: {err.read_text()}"
        assert time.monotonic() < end, "the server does not listen"
        time.sleep(0.01)
    return Served(process, found[2], err)


def program_of(make: Callable[[], LanguageModel], name: str = "tiny", **settings) -> Callable[[], None]:
    """Serves a model under this name; `settings` are those of `ServeConfig`."""

    def program() -> None:
        config = ServeConfig(**{"port": 0, "read_timeout_s": PATIENCE, **settings})
        limits = {name: getattr(config, name) for name in ("kv_cache_memory_bytes", "max_step_branches")}
        engine = Engine(make(), config.max_num_seqs, **limits)
        service = Service(engine, config, name)
        run(build_app(service, config), service, config, bind(config), lambda line: print(line, flush=True))

    return program


@contextmanager
def served(make: Callable[[], LanguageModel], folder: Path, name: str = "tiny", **settings) -> Iterator[Served]:
    """A server of a model, which is stopped afterwards."""
    running = start(program_of(make, name, **settings), folder)
    try:
        yield running
    finally:
        running.stop(signal.SIGKILL)
