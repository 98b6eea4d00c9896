"""The service: many clients on an event loop, one engine in a thread."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from helpers.tiny import drawn, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.serve.service import Service, Wanted

PARAMS = SamplingParams(
    paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=110
)


def config(**changes) -> SimpleNamespace:
    given = {"max_queue": 256, "max_requests_per_key": None, "timeout_s": None, "drain_s": 5.0}
    return SimpleNamespace(**{**given, **changes})


def serving(test, *, engine=None, **limits):
    """Run an async test against a service, which is idle and empty afterwards."""

    async def run():
        service = Service(engine or Engine(tiny(), max_num_seqs=4), config(**limits), "tiny")
        await service.start()
        try:
            await asyncio.wait_for(test(service), 60)
        finally:
            await service.stop(5.0)
        engine_ = service.engine
        assert engine_.unfinished == 0
        assert not engine_.scheduler.live
        assert not engine_.scheduler.queued
        assert engine_.scheduler.claimed == 0
        assert service.counters()["kv_bytes"] == 0

    asyncio.run(run())


async def read(generation) -> list:
    return [update async for update in generation]


def texts(updates, index=0) -> dict[int, str]:
    found: dict[int, str] = {}
    for update in updates:
        if update.index == index:
            found[update.event.segment] = found.get(update.event.segment, "") + update.text
    return {segment: text for segment, text in found.items() if text}


def test_what_is_served_is_what_the_engine_draws():
    lm = tiny()
    asked = requests(lm, 7)
    alone = Engine(lm).generate(asked, PARAMS, seed=3)

    async def test(service):
        ones = [service.submit([Wanted(r, PARAMS, 3)], key=f"k{i % 2}") for i, r in enumerate(asked[:3])]
        both = service.submit([Wanted(r, PARAMS, 3) for r in asked[3:]])
        found = await asyncio.gather(*[read(g) for g in (*ones, both)])
        rollouts = [r for g in (*ones, both) for r in g.rollouts]
        assert [drawn(r) for r in rollouts] == [drawn(r) for r in alone]
        for index, rollout in enumerate(both.rollouts):
            assert sorted(texts(found[-1], index).values()) == sorted(s.text for s in rollout.segments if s.text)
            assert "".join(s.text for s in rollout.segments) == alone[3 + index].text
        logprobs = [u.event.logprob for u in found[0] if u.event.kind == "token"]
        assert sorted(logprobs) == sorted(x for s in ones[0].rollouts[0].segments for x in s.logprobs)

    serving(test, engine=Engine(lm, max_num_seqs=4))


def test_a_cancelled_generation_frees_everything():
    async def test(service):
        lm = service.lm
        generation = service.submit([Wanted(r, PARAMS, 3) for r in requests(lm, 6)])
        async for _ in generation:
            generation.cancel()
        assert {r.finish_reason for r in generation.rollouts} == {"abort"}
        assert len(generation.rollouts) == 6
        for rollout in generation.rollouts:
            assert rollout.truncated == 0
            rollout.layout()

    serving(test)
