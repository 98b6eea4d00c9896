"""Rollouts from real servers of others, where they are installed: llama.cpp's (xllamacpp), and `transformers serve`.

What each lacks: llama.cpp ignores `stop_token_ids`, returns log-probabilities at temperature 1 whatever it samples at,
and has no way to take new weights. `transformers serve` takes no token ids and returns none, so it is refused; so is
the server of llama-cpp-python, whose prompts are text.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import torch

from helpers.tiny import gaps, requests, tiny
from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.lm import save
from polythink.models.to_gguf import listed, write_gguf

pytestmark = pytest.mark.long
LLAMA = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port, p.hostnames = sys.argv[1], 0, ["127.0.0.1"]
p.n_ctx, p.n_parallel, p.warmup, p.cpuparams.n_threads = 4096, 4, False, 1
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = x.Server(p)
print(server.listening_address, flush=True)
time.sleep(3600)
"""
PATIENCE = 120.0  # seconds; a bound for what hangs, no measure of speed
SMALL = dict(max_main_tokens=20, max_path_tokens=12, max_summary_tokens=8, max_trace_tokens=120, fork_at=1)


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Iterator[tuple]:
    for package in ("xllamacpp", "gguf"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install xllamacpp gguf")
    lm, file = tiny(), tmp_path_factory.mktemp("llama") / "tiny.gguf"
    tokens = lm.tokenizer.convert_ids_to_tokens(list(range(lm.model.config.vocab_size)))
    write_gguf(lm.model, file, listed(tokens, lm.ends[0]))
    with program("-c", LLAMA, str(file)) as process:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1"), "the server does not start"
        yield lm, f"{url}/v1"


def test_llama_cpp_draws_what_a_masked_forward_finds(llama):
    lm, url = llama
    with HttpRollouts(RemoteConfig(url=url, concurrency=4), lm) as backend:
        assert (backend.served.server.name, backend.abilities.stops) == ("llama.cpp", False)
        assert (backend.abilities.at_temperature, backend.abilities.cut) == (False, False)
        for mode in ("reread", "sequential"):
            found = backend.generate(requests(lm, 8), SamplingParams(mode=mode, paths=3, **SMALL), seed=3)
            assert max(gaps(lm, found)) < 1e-4
        assert {"path", "copy", "summary"} <= {s.kind for r in backend.generate(
            requests(lm, 4), SamplingParams(mode="reread", paths=3, **SMALL)) for s in r.segments}  # fmt: skip
        with pytest.raises(UserError, match=r"temperature 0.7 .*returns those at temperature 1"):
            backend.generate(requests(lm, 1), SamplingParams(mode="reread", temperature=0.7))
        with pytest.raises(UserError, match="no documented way to take new weights"):
            backend.reload("anywhere")


def test_llama_cpp_samples_the_distribution(llama):
    """A chi-squared test of first tokens, seeds fixed: with 11 degrees of freedom 99.99% lie below 38."""
    lm, url = llama
    prompt, n = tuple(lm.encode("a b")), 600
    with HttpRollouts(RemoteConfig(url=url), lm) as backend:
        one = SamplingParams(mode="sequential", max_main_tokens=1, max_trace_tokens=1)
        found = backend.generate([Request(prompt, "p", i) for i in range(n)], one, seed=1)
    counts = Counter(rollout.segments[0].tokens[0] for rollout in found)
    with torch.no_grad():
        expected = lm.model(torch.tensor([prompt])).logits[0, -1].float().softmax(-1).tolist()
    assert sum((counts[i] - n * p) ** 2 / (n * p) for i, p in enumerate(expected)) < 38


def test_transformers_serve_is_refused_in_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lm = tiny()
    save(lm, tmp_path)
    port = free_port()
    command = ("transformers.cli.transformers", "serve", str(tmp_path), "--port", str(port), "--host", "127.0.0.1")
    with program("-m", *command) as process:
        wait_until_it_listens(f"http://127.0.0.1:{port}/v1/models", process)
        config = RemoteConfig(url=f"http://127.0.0.1:{port}/v1", model=str(tmp_path))
        with pytest.raises(UserError, match=r"does not complete token ids|returns no token ids") as refused:
            HttpRollouts(config, lm)
    assert "\n" not in str(refused.value)


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_it_listens(url: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            httpx.get(url, trust_env=False)
            return
        except httpx.TransportError:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.1)
