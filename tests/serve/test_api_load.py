"""Two hundred clients at once for a minute or more: none lost, every row freed, memory flat."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from helpers.served import Served, served
from helpers.tiny import tiny
from polythink.models.lm import with_settings

SECONDS = float(os.environ.get("POLYTHINK_LOAD_SECONDS", "60"))  # 300 for a real trial
CLIENTS = int(os.environ.get("POLYTHINK_LOAD_CLIENTS", "200"))
DECODING = {"max_main_tokens": 16, "max_path_tokens": 12, "max_summary_tokens": 6, "max_trace_tokens": 160}


def model():
    return with_settings(tiny(), decoding=DECODING)


def memory(server: Served) -> float:
    """Resident MiB of the server."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def body_of(rng: random.Random) -> dict:
    body = {
        "prompt": rng.choice(["a", "a b c", ["a", "c c"], [3, 4, 5]]),
        "seed": rng.randrange(99),
        "n": rng.choice([1, 1, 2]),
    }
    if rng.random() < 0.6:
        body |= {"paths": rng.choice([1, 2, 4, 8]), "fork_at": 2}
    else:
        body |= {"max_tokens": rng.choice([1, 8, 40])}
    return body | {"stream": rng.random() < 0.5, "logprobs": rng.choice([None, 0, 2])}


class Crowd:
    """Clients that ask again and again until the time is up; some leave early, some read slowly."""

    def __init__(self, server: Served) -> None:
        self.server, self.end = server, time.monotonic() + SECONDS
        self.counts: Counter[str] = Counter()
        self.after_slow = 0  # answers to others while slow readers were at it
        self.memory: list[float] = []

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=240, trust_env=False, limits=limits) as http:
            clients = [self.client(http, random.Random(i), slow=i % 40 == 0) for i in range(CLIENTS)]
            await asyncio.gather(self.watch(), *clients)

    async def watch(self) -> None:
        while time.monotonic() < self.end:
            self.memory.append(memory(self.server))
            await asyncio.sleep(SECONDS / 60)

    async def client(self, http: httpx.AsyncClient, rng: random.Random, slow: bool) -> None:
        while time.monotonic() < self.end:
            body = body_of(rng) | ({"stream": True} if slow else {})
            kind = "slow" if slow else "leaves" if rng.random() < 0.2 else "stream" if body["stream"] else "whole"
            self.counts[f"asked {kind}"] += 1
            done = await getattr(self, kind)(http, rng, body)
            self.counts[f"done {kind}"] += done

    async def whole(self, http: httpx.AsyncClient, rng: random.Random, body: dict) -> bool:
        answer = (await http.post("/v1/completions", json=body)).json()
        return all(choice["finish_reason"] in ("stop", "length") for choice in answer["choices"])

    async def stream(self, http: httpx.AsyncClient, rng: random.Random, body: dict, pause: float = 0.0) -> bool:
        reasons, last = {}, ""
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                await asyncio.sleep(pause)
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    reasons[choice["index"]] = choice["finish_reason"]
                last = line or last
        return last == "data: [DONE]" and bool(reasons) and set(reasons.values()) <= {"stop", "length"}

    async def slow(self, http: httpx.AsyncClient, rng: random.Random, body: dict) -> bool:
        return await self.stream(http, rng, body, pause=0.2)

    async def leaves(self, http: httpx.AsyncClient, rng: random.Random, body: dict) -> bool:
        try:
            async with asyncio.timeout(rng.random() ** 3):
                await (self.stream if body["stream"] else self.whole)(http, rng, body)
        except TimeoutError:
            self.counts["left"] += 1
        return True


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 540)
def test_two_hundred_clients(tmp_path):
    with served(
        model, tmp_path, max_num_seqs=32, max_queue=4 * CLIENTS, kv_cache_memory_bytes=2**24, drain_s=5
    ) as server:
        crowd = Crowd(server)
        asyncio.run(crowd.run())
        found = server.wait_idle()
        print(dict(crowd.counts), {k: v for k, v in found.items() if v}, [round(m) for m in crowd.memory[::6]])
        for kind in ("whole", "stream", "slow", "leaves"):
            assert crowd.counts[f"done {kind}"] == crowd.counts[f"asked {kind}"] > 0
        assert crowd.counts["left"] > 0
        assert found["request_aborted_total"] > 0
        assert found["request_failed_total"] == 0
        assert not [name for name in found if name.startswith("http_requests_total:5")]
        third = len(crowd.memory) // 3
        before, after = (
            statistics.median(part) for part in (crowd.memory[third : 2 * third], crowd.memory[2 * third :])
        )
        assert after < before * 1.05 + 8, crowd.memory
        assert server.stop() == 0
        assert server.stderr.read_text() == ""
