"""The service: many clients on an event loop, one engine in a thread."""

from __future__ import annotations

import asyncio
import random
import threading
from copy import copy
from functools import cache

import numpy as np
import pytest
import torch

from helpers.tiny import drawn, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.lm import with_settings
from polythink.serve.config import ServeConfig
from polythink.serve.service import Busy, Interrupted, Service, Wanted

PARAMS = SamplingParams(
    paths=3, max_blocks=2, max_main_tokens=12, max_path_tokens=7, max_summary_tokens=5, max_trace_tokens=80, fork_at=2
)
LONG = SamplingParams(mode="sequential", max_main_tokens=40, max_trace_tokens=40)


def config(**changes) -> ServeConfig:
    return ServeConfig(**{"timeout_s": None, "drain_s": 5.0, **changes})


small = cache(tiny)


@cache
def endless():
    """A model that writes no tag and no end, with room for long texts."""
    lm = tiny(max_position_embeddings=8192)
    bias = torch.zeros(lm.model.config.vocab_size, device=lm.device)
    bias[[lm.pad, *lm.ends, *lm.tag_ids.values()]] = -50
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm


BACKENDS: dict = {}  # checked once for all tests of a model


def backend(lm, kind: str = "lean"):
    key = (id(lm), kind)
    if key not in BACKENDS:
        BACKENDS[key] = Engine(lm, backend=kind).backend
    return BACKENDS[key]


def engine_of(lm, rows: int = 64, kind: str = "lean", **options) -> Engine:
    return Engine(lm, rows, backend=copy(backend(lm, kind)), **options)


def serving(test, lm=None, *, engine=None, drain_s=5.0, **limits) -> None:
    """Run an async test against a service, which is idle and empty afterwards: no row, no key, no value is held."""

    async def run():
        service = Service(engine or engine_of(lm or small(), 4), config(**limits), "tiny")
        await service.start()
        try:
            await asyncio.wait_for(test(service), 100)
        finally:
            await service.stop(drain_s)
        scheduler = service.engine.scheduler
        assert service.engine.unfinished == 0
        assert not any((scheduler.live, scheduler.queued, scheduler.prefixes, scheduler.scored))
        assert scheduler.claimed == 0
        counters = service.counters()
        assert [counters[name] for name in ("running", "waiting", "requests", "kv_bytes")] == [0, 0, 0, 0]
        assert not service._worker.thread.is_alive()
        assert not any((service._worker._of, service._worker._queues, service._worker._news))

    asyncio.run(run())


async def read(generation) -> list:
    return [update async for update in generation]


async def gather_into(updates: list, generation) -> None:
    async for update in generation:
        updates.append(update)


def texts(updates, index: int = 0) -> list[str]:
    """The text that came of each segment of a trace."""
    found: dict[int, str] = {}
    for update in updates:
        if update.index == index:
            found[update.event.segment] = found.get(update.event.segment, "") + update.text
    return sorted(text for text in found.values() if text)


def shown(rollout) -> list[str]:
    return sorted(segment.text for segment in rollout.segments if segment.text)


# --- what comes


@pytest.mark.parametrize("mode", ["structured", "reread"])
def test_what_is_served_is_what_the_engine_draws(mode):
    lm, params = small(), PARAMS.model_copy(update={"mode": mode})
    asked = requests(lm, 6)
    alone = engine_of(lm).generate(asked, params, seed=3)

    async def test(service):
        ones = [service.submit([Wanted(r, params, 3)], key=f"k{i % 2}") for i, r in enumerate(asked[:2])]
        rest = service.submit([Wanted(r, params, 3, stream=i % 2 == 0) for i, r in enumerate(asked[2:])])
        found = await asyncio.gather(*[read(g) for g in (*ones, rest)])
        rollouts = [r for g in (*ones, rest) for r in g.rollouts]
        assert [drawn(r) for r in rollouts] == [drawn(r) for r in alone]
        assert [r.text for r in rollouts] == [r.text for r in alone]
        assert texts(found[0]) == shown(alone[0])
        assert texts(found[2], 2) == shown(alone[4])
        assert [u.event.kind for u in found[2] if u.index == 1] == ["done"]
        logprobs = [u.event.logprob for u in found[0] if u.event.kind == "token"]
        assert sorted(logprobs) == sorted(x for s in rollouts[0].segments if s.kind != "copy" for x in s.logprobs)
        assert service.counters()["finished"] == 6
        assert service.counters()["tokens"] == sum(r.tokens for r in alone)

    serving(test, engine=engine_of(lm, 4, max_step_branches=3))


def test_alternatives_and_scores_come_too():
    lm = small()
    (request,) = requests(lm, 1)
    ids = lm.encode("a b c c a b")

    async def test(service):
        generation = service.submit([Wanted(request, PARAMS, 3, top_logprobs=2)])
        updates, scores = await asyncio.gather(read(generation), service.score(ids, 2))
        assert all(len(u.event.top) == 2 for u in updates if u.event.kind == "token" and not u.event.forced)
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids], device=lm.device), use_cache=False).logits[0, :-1].double()
        expected = logits.log_softmax(-1)[np.arange(5), ids[1:]].tolist()
        assert scores.logprobs[1:] == pytest.approx(expected, abs=1e-4)
        with pytest.raises(UserError, match="not in the model's vocabulary"):
            await service.score([10**6])
        with pytest.raises(UserError, match="0 tokens"):
            await service.score([])

    serving(test, lm)


def test_a_stop_string_ends_the_trace_where_it_begins():
    """Over several tokens, held back until it is known, and not in paths; the rollout is cut and says so."""
    lm = endless()
    (request,) = requests(lm, 1)
    (whole,) = engine_of(lm).generate([request], LONG, seed=3)
    words = whole.text.split(" ")
    stop = " ".join(words[20:23])
    first = whole.text.index(stop)

    async def test(service):
        generation = service.submit([Wanted(request, LONG, 3, stop=("never", stop, words[21] + " nothing"))])
        updates = await read(generation)
        (rollout,) = generation.rollouts
        assert "".join(u.text for u in updates) == rollout.text == whole.text[:first]
        assert (rollout.finish_reason, rollout.truncated) == ("stop", 0)
        drawn_tokens = rollout.segments[0].tokens
        assert drawn_tokens == whole.segments[0].tokens[: len(drawn_tokens)]
        assert len(drawn_tokens) < 40  # no more is drawn
        assert updates[-1].event.kind == "done"
        token = whole.segments[0].tokens[10]
        generation = service.submit([Wanted(request, LONG, 3, stop_token_ids=(token,))])
        updates, (rollout,) = await read(generation), generation.rollouts
        tokens = whole.segments[0].tokens
        assert rollout.segments[0].tokens == tokens[: tokens.index(token) + 1]
        assert "".join(u.text for u in updates) == rollout.text == lm.decode(tokens[: tokens.index(token)])
        with pytest.raises(UserError, match="a stop string is empty"):
            service.submit([Wanted(request, LONG, stop=("a", ""))])

    serving(test, lm)


@pytest.mark.parametrize("stop", ["c a", "<Parallel>"])
def test_stops_do_not_count_in_blocks(stop):
    """Whatever is drawn: text that came is the rollout's, and main text is cut at the first stop string."""
    lm = small(2)
    asked = requests(lm, 4)
    whole = engine_of(lm).generate(asked, PARAMS, seed=3)

    async def test(service):
        generation = service.submit([Wanted(r, PARAMS, 3, stop=(stop,)) for r in asked])
        updates = await read(generation)
        for index, (rollout, full) in enumerate(zip(generation.rollouts, whole, strict=True)):
            assert texts(updates, index) == shown(rollout)
            expected = []
            for segment in full.segments:
                found = segment.text.find(stop) if segment.kind == "main" else -1
                expected.append(segment.text if found < 0 else segment.text[:found])
                if found >= 0:
                    break
            assert [s.text for s in rollout.segments] == expected
            assert (rollout.finish_reason == "stop") == any(stop in s.text for s in full.segments if s.kind == "main")
            rollout.layout()

    serving(test, lm)


def test_steps_are_bounded_for_servers():
    lm = small()
    for given, of_engine, bound in ((None, None, 64 if lm.device.type == "cuda" else 16), (None, 5, 5), (3, 5, 3)):
        engine = engine_of(lm, max_step_branches=of_engine)
        assert Service(engine, config(max_step_branches=given), "tiny").engine.scheduler.max_step_branches == bound


# --- ends


def test_cancelled_generations_free_everything_and_say_what_was_drawn():
    async def test(service):
        generation = service.submit([Wanted(r, PARAMS, 3) for r in requests(service.lm, 5)])
        updates = []
        async for update in generation:
            updates.append(update)
            generation.cancel()
        generation.cancel()
        assert {r.finish_reason for r in generation.rollouts} == {"abort"}
        assert len(generation.rollouts) == 5  # those that had no row too
        for index, rollout in enumerate(generation.rollouts):
            assert rollout.truncated == 0
            assert texts(updates, index) == shown(rollout)
            rollout.layout()
        assert service.counters()["aborted"] == 5

    serving(test)


def test_disconnects_at_random_moments_leave_nothing_behind():
    rng = random.Random(0)

    async def client(service, number: int) -> None:
        params = PARAMS.model_copy(update={"paths": rng.randint(1, 8), "mode": rng.choice(("structured", "reread"))})
        wanted = [Wanted(r, params, number) for r in requests(service.lm, rng.randint(1, 3))]
        generation, left = service.submit(wanted, key=str(number % 3)), rng.choice((0, 1, 5, 20, 10**6))
        async for _ in generation:
            left -= 1
            if left < 0:
                generation.cancel()
                return  # reads no more

    async def test(service):
        await asyncio.gather(*(client(service, number) for number in range(10)))
        while service.counters()["requests"]:
            await asyncio.sleep(0.01)
        counters = service.counters()
        assert counters["aborted"] > 2
        assert counters["finished"] > 2

    pages = backend(small(), "graphed").cache.bytes_for(1)
    engine = engine_of(small(), 3, "graphed", kv_cache_memory_bytes=90 * pages, max_step_branches=4)
    serving(test, engine=engine)


def test_a_model_that_fails_once_ends_what_runs_and_the_service_goes_on():
    engine = engine_of(small(), 2)
    step, steps = engine.backend.step, []

    def failing(batch):
        steps.append(0)
        if len(steps) == 5:
            raise RuntimeError("out of order: secret/path.py")
        return step(batch)

    engine.backend.step = failing
    asked = requests(engine.lm, 5)
    alone = engine_of(small()).generate(asked, PARAMS, seed=3)

    async def test(service):
        generations = [service.submit([Wanted(r, PARAMS, 3)]) for r in asked]
        results = await asyncio.gather(*map(read, generations), return_exceptions=True)
        failed = [r for r in results if isinstance(r, Interrupted)]
        assert (len(failed), {e.status for e in failed}) == (2, {500})
        assert "RuntimeError" in str(failed[0])
        assert "secret" not in str(failed[0])
        for result, generation, rollout in zip(results, generations, alone, strict=True):
            if not isinstance(result, Interrupted):
                assert drawn(generation.rollouts[0]) == drawn(rollout)
        assert service.counters()["failed"] == 2

    serving(test, engine=engine)


def no_width(state) -> int:
    return 0


def test_a_policy_that_fails_ends_its_own_request_alone():
    asked = requests(small(), 4)
    alone = engine_of(small()).generate(asked, PARAMS, seed=3)
    bad = PARAMS.model_copy(update={"width": no_width})

    async def test(service):
        generations = [service.submit([Wanted(r, bad if i == 1 else PARAMS, 3)]) for i, r in enumerate(asked)]
        results = await asyncio.gather(*map(read, generations), return_exceptions=True)
        assert [isinstance(result, Interrupted) for result in results] == [i == 1 for i in range(4)]
        assert "width" in str(results[1])
        for i in (0, 2, 3):
            assert drawn(generations[i].rollouts[0]) == drawn(alone[i])
        assert service.counters()["failed"] == 1

    serving(test)


def test_logits_that_are_not_finite_are_the_models_fault():
    engine = engine_of(small())

    async def test(service):
        service.engine.backend.step = nan
        with pytest.raises(Interrupted, match="not finite"):
            await read(service.submit([Wanted(requests(service.lm, 1)[0], PARAMS)]))

    def nan(batch):
        raise UserError("the model returned logits that are not finite")

    serving(test, engine=engine)


def test_a_request_out_of_time_says_so_after_what_it_has_drawn():
    async def test(service):
        long = LONG.model_copy(update={"max_trace_tokens": 4000, "max_main_tokens": 4000})
        request, updates = Request(tuple(service.lm.encode("a b")), "p"), []
        generation = service.submit([Wanted(request, long)], timeout_s=0.15)
        waiting = service.submit([Wanted(request, long)], timeout_s=0.05)
        with pytest.raises(Interrupted, match="run out of its time") as found:
            await gather_into(updates, generation)
        assert (found.value.status, found.value.code) == (504, "timeout")
        assert updates[-1].event.rollout.finish_reason == "abort"
        assert "".join(u.text for u in updates) == generation.rollouts[0].text != ""
        with pytest.raises(Interrupted):
            await read(waiting)
        assert waiting.rollouts[0].tokens == 0

    serving(test, engine=engine_of(endless(), 1))


# --- limits


def test_too_much_at_once_is_refused_and_told_when_to_come_back():
    lm = endless()

    async def test(service):
        one = Wanted(requests(lm, 1)[0], LONG)
        held = [service.submit([one], "a"), service.submit([one], "b"), service.submit([one, one], "b")]
        with pytest.raises(Busy, match="4 traces run or wait") as found:
            service.submit([one], "c")
        assert (found.value.status, 1 <= found.value.retry_after <= 60) == (429, True)
        with pytest.raises(UserError, match="5 traces; this server runs and queues 4"):
            service.submit([one] * 5)
        held[0].cancel()
        await read(held[0])
        with pytest.raises(Busy, match="this key has 2 requests"):
            service.submit([one], "b")
        await read(service.submit([one], "a"))
        for generation in held:
            await read(generation)
        await read(service.submit([one], "b"))

    serving(test, engine=engine_of(lm, 2), max_queue=2, max_requests_per_key=2)


def test_what_can_never_be_sampled_is_refused_at_once_and_leaves_nothing():
    async def test(service):
        lm, good = service.lm, Wanted(requests(service.lm, 1)[0], PARAMS)
        bad = {
            "context holds": Wanted(Request((3,) * 5000), PARAMS),
            "at least one token": Wanted(Request(()), PARAMS),
            "not in the model's vocabulary": Wanted(Request((10**9,)), PARAMS),
            "-1 is not in": Wanted(Request((-1,)), PARAMS),
            "kv_cache_memory_bytes": Wanted(
                requests(lm, 1)[0], LONG.model_copy(update={"max_main_tokens": 900, "max_trace_tokens": 900})
            ),
            "top_logprobs=21": Wanted(requests(lm, 1)[0], PARAMS, top_logprobs=21),
        }
        for words, wanted in bad.items():
            with pytest.raises(UserError, match=words):
                service.submit([good, wanted])
        with pytest.raises(UserError, match="at least one trace"):
            service.submit([])
        assert service.counters()["requests"] == 0
        await read(service.submit([good]))

    pages = backend(small(), "graphed").cache.bytes_for(1)
    serving(test, engine=engine_of(small(), 4, "graphed", kv_cache_memory_bytes=40 * pages))


@pytest.mark.parametrize("own", [{"trained_paths": 2}, {"decoding": {"length_scaling_above": 2}}])
def test_a_model_that_cannot_scale_is_served_and_refuses_what_needs_it(own):
    engine, asked = engine_of(with_settings(tiny(), **own)), []
    params = PARAMS.model_copy(update=own.get("decoding", {}))

    def refuse() -> None:
        asked.append(1)
        raise UserError("it cannot scale")

    engine.backend.check_scaling = refuse

    async def test(service):
        assert asked == [1], "a request would wait for the model to be free"
        one = requests(service.lm, 1)[0]
        for _ in range(2):
            with pytest.raises(UserError, match=r"it cannot scale; or set length_scaling_above: 0"):
                service.submit([Wanted(one, params)])
        for changes in ({"paths": 2}, {"mode": "reread"}, {"mode": "sequential", "fork_at": None}):
            await read(service.submit([Wanted(one, params.model_copy(update=changes))]))
        assert asked == [1]

    serving(test, engine=engine)


def test_keys_take_turns_in_the_queue():
    """One key has many requests waiting; another one's first is next."""
    lm = endless()

    async def test(service):
        short = LONG.model_copy(update={"max_main_tokens": 5})
        wide = PARAMS.model_copy(update={"paths": 8})
        ended = []

        async def ends(name, generation):
            await read(generation)
            ended.append(name)

        many = [ends(f"many {i}", service.submit([Wanted(requests(lm, 1)[0], wide)], "many")) for i in range(6)]
        one = ends("one", service.submit([Wanted(requests(lm, 1)[0], short)], "one"))
        submitted.set()
        await asyncio.gather(*many, one)
        assert ended.index("one") <= 2
        assert [name for name in ended if name != "one"] == [f"many {i}" for i in range(6)]

    engine, submitted = engine_of(lm, 1), threading.Event()
    step = engine.step
    engine.step = lambda: step() if submitted.wait(60) else None  # a slow machine submits the last one late
    serving(test, engine=engine)


def test_a_slow_reader_keeps_nobody_back_and_what_waits_for_it_is_bounded():
    lm = endless()

    async def test(service):
        request, (quick, slow) = requests(lm, 1)[0], (LONG.model_copy(update={"max_main_tokens": n}) for n in (40, 30))
        unread = service.submit([Wanted(request, slow)])
        await read(service.submit([Wanted(request, quick)]))
        while not unread.finished:
            await asyncio.sleep(0.001)
        assert len(unread._updates) == 32  # a token each, the cut, and the end
        assert len(await read(unread)) == 32

    serving(test, lm)


# --- the end


def is_free(lock) -> bool:
    """Can another thread have it? To be asked in one."""
    free = lock.acquire(timeout=30)
    if free:
        lock.release()
    return free


def test_stopping_lets_what_runs_finish_and_takes_nothing_new():
    lm = endless()

    async def test(service):
        one = Wanted(requests(lm, 1)[0], LONG)
        generation = service.submit([one, one, one])
        stopping = asyncio.create_task(service.stop(30.0))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="stopping") as found:
            service.submit([one])
        assert found.value.status == 503
        with pytest.raises(Busy):
            await service.score([3])
        updates = await read(generation)
        assert sum(u.event.kind == "done" for u in updates) == 3
        assert {r.finish_reason for r in generation.rollouts} == {"length"}
        await stopping
        assert service.state == "stopped"

    serving(test, engine=engine_of(lm, 2))


def test_stopping_ends_what_does_not_finish_in_time_with_a_clear_error():
    async def test(service):
        long = LONG.model_copy(update={"max_trace_tokens": 4000, "max_main_tokens": 4000})
        one = Wanted(requests(service.lm, 1)[0], long)
        generations = [service.submit([one]) for _ in range(3)]  # one of them has no row
        await anext(generations[0])
        changing = asyncio.create_task(service.change(lambda: None, "2"))
        await asyncio.sleep(0)
        await service.stop(0.0)
        with pytest.raises(Interrupted, match="shutting down"):
            await asyncio.wait_for(changing, 30)
        with pytest.raises(Busy, match="stopped") as late:
            await asyncio.wait_for(service.change(lambda: None, "2"), 30)
        assert late.value.status == 503
        for generation in generations:
            with pytest.raises(Interrupted, match="shutting down") as found:
                await read(generation)
            assert (found.value.status, found.value.code) == (503, "shutdown")
            assert len(generation.rollouts) == 1

    serving(test, engine=engine_of(endless(), 2))


def test_an_idle_service_takes_no_steps_and_holds_no_model():
    engine = engine_of(small())

    async def test(service):
        await read(service.submit([Wanted(requests(service.lm, 1)[0], PARAMS)]))
        steps = service.counters()["steps"]
        assert await asyncio.to_thread(is_free, engine.backend.lock), "the model is held while nothing runs"
        await asyncio.sleep(0.05)
        assert service.counters()["steps"] == steps
        assert threading.active_count() < 50

    serving(test, engine=engine)


def test_a_fault_in_the_thread_itself_is_told(monkeypatch):
    """It must not happen; if it does, nobody waits for ever."""

    async def test():
        service = Service(engine_of(small()), config(), "tiny")
        await service.start()

        begun, asked = threading.Event(), threading.Event()

        def broken(*_) -> None:
            begun.set()
            asked.wait(30)
            raise AssertionError("a fault of ours")

        monkeypatch.setattr(service._worker, "_turn", broken)
        monkeypatch.setattr(service._worker, "_fail", broken)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        one, none = Wanted(requests(small(), 1)[0], PARAMS), lambda: None
        generations = [service.submit([one])]
        await asyncio.to_thread(begun.wait, 30)
        generations.append(service.submit([one]))
        changing = asyncio.create_task(service.change(none, "2"))
        await asyncio.sleep(0)
        asked.set()
        for told in (*map(read, generations), changing):
            with pytest.raises(Interrupted, match="AssertionError"):
                await asyncio.wait_for(told, 30)
        await asyncio.to_thread(service._worker.thread.join)
        assert service.state == "failed"
        with pytest.raises(Busy, match="failed"):
            service.submit([one])
        with pytest.raises(Busy, match="failed"):
            await asyncio.wait_for(service.change(none, "2"), 30)
        await service.stop(1.0)

    asyncio.run(test())
