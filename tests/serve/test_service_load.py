"""Bigger loads: many generations at once, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc

import pytest

from helpers.tiny import drawn, requests, tiny
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.serve.config import ServeConfig
from polythink.serve.service import Busy, Service, Wanted

BUDGETS = {"max_main_tokens": 12, "max_path_tokens": 8, "max_summary_tokens": 5, "max_trace_tokens": 110}


def params_of(rng: random.Random) -> SamplingParams:
    mode = rng.choice(("structured", "structured", "reread", "sequential"))
    return SamplingParams(mode=mode, paths=rng.choice((1, 2, 4, 8)), max_blocks=2, fork_at=1, **BUDGETS)


@pytest.mark.long
@pytest.mark.parametrize("look_ahead", [False, True])
def test_two_hundred_clients_at_once_and_none_is_lost(look_ahead):
    """Mixed widths, a tight budget, some go away, some come when the queue is full: all the others get what they would
    have got alone, and each wave leaves as little as the one before."""
    lm = tiny(seed=2)
    asked = requests(lm, 40)
    pages = GraphedBackend(lm).cache.bytes_for(1)
    held = []

    async def client(service, number: int, alone: dict) -> str:
        rng = random.Random(number)
        i = rng.randrange(len(asked))
        params, leaves = params_of(rng), rng.random() < 0.25
        await asyncio.sleep(rng.random() / 10)
        while True:
            try:
                generation = service.submit([Wanted(asked[i], params, number % 5)], key=f"key {number % 7}")
                break
            except Busy:
                await asyncio.sleep(0.02)
        after = rng.randint(0, 30)
        async for _ in generation:
            if leaves and not after:
                generation.cancel()
                return "left"
            after -= 1
        name = (i, params.model_dump_json(), number % 5)
        alone.setdefault(name, []).append(generation.rollouts[0])
        return "done"

    async def run() -> None:
        backend = GraphedBackend(lm, look_ahead=look_ahead)
        engine = Engine(lm, 32, backend=backend, kv_cache_memory_bytes=600 * pages, max_step_branches=48)
        service = Service(engine, ServeConfig(max_queue=100, timeout_s=None), "tiny")
        await service.start()
        for wave in range(4):
            found: dict = {}
            results = await asyncio.gather(*(client(service, n, found) for n in range(200)))
            assert results.count("done") + results.count("left") == 200
            while service.counters()["requests"]:
                await asyncio.sleep(0.01)
            assert service.counters()["kv_bytes"] == engine.scheduler.claimed == 0
            if wave == 0:
                first.update(found)
            for name, rollouts in found.items():
                assert all(drawn(r) == drawn(first[name][0]) for r in rollouts if name in first)
            del found, results
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        assert service.counters()["aborted"] > 20
        await service.stop(10)

    first: dict = {}
    tracemalloc.start()
    asyncio.run(run())
    tracemalloc.stop()
    assert held[3] - held[1] < 200_000, held
    for (i, params, seed), rollouts in list(first.items())[:40]:
        (alone,) = Engine(lm, backend="lean").generate([asked[i]], SamplingParams.model_validate_json(params), seed)
        assert drawn(rollouts[0]) == drawn(alone)
