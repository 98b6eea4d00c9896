"""A real vLLM, where POLYTHINK_VLLM names the Python interpreter that has one (docs/serve.md)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PATIENCE = 1200.0  # seconds; a bound for what hangs: a first start compiles, and so does a first request
ENVIRONMENT = {  # dev mode has the endpoints that take weights; the others keep a small server small on a CPU
    "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
ARGUMENTS = (
    "--served-model-name", "tiny", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512",
    "--max-num-seqs", "8", "--enforce-eager", "--logprobs-mode", "processed_logprobs",
)  # fmt: skip


def interpreter() -> str:
    """The interpreter; skips the test where none is named."""
    found = os.environ.get("POLYTHINK_VLLM", "")
    if not found:
        pytest.skip("needs a real vLLM: POLYTHINK_VLLM names the Python interpreter that has one (docs/serve.md)")
    assert os.access(found, os.X_OK), f"POLYTHINK_VLLM={found} is no interpreter"
    return found


@dataclass
class RealVllm:
    """A server that runs, in a process group of its own."""

    process: subprocess.Popen
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        """At once, with the processes that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def real_vllm(folder: Path, log: Path, port: int = 0) -> Iterator[RealVllm]:
    """vLLM with the model of this folder under the name "tiny"; what it says is written to `log`."""
    port = port or free_port()
    command = [interpreter(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *ARGUMENTS], stdout=out, stderr=out, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
    server = RealVllm(process, port)
    try:
        end = time.monotonic() + PATIENCE
        while not answers(server):
            assert process.poll() is None, f"vLLM has ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < end, "vLLM does not listen"
            time.sleep(0.5)
        yield server
    finally:
        server.kill()


def answers(server: RealVllm) -> bool:
    try:
        return httpx.get(f"{server.base}/models", trust_env=False, timeout=10).status_code == 200
    except httpx.TransportError:
        return False
