"""Memory of the engine: a budget that is kept, traces that are preempted and go on, prompts that are read once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from helpers.sweep import sweep
from helpers.tiny import drawn, gaps, requests, tiny
from polythink.engine import kv_cache
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError

PARAMS = SamplingParams(
    paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=110
)
KINDS = ("flat", "padded")


@pytest.fixture(params=["reserved", "blocks"])
def memory(request, monkeypatch):
    """Rows at fixed places in reserved memory, and rows that move when they grow, as elsewhere than on a CPU."""
    if request.param == "blocks":
        monkeypatch.setattr(kv_cache, "can_reserve", lambda device: False)
    return request.param


PLACES = pytest.mark.parametrize(
    ("memory", "backend"),
    sweep(
        [(memory, backend) for memory in ("reserved", "blocks") for backend in KINDS],
        [("reserved", "padded"), ("blocks", "flat")],
    ),
    indirect=["memory"],
)


def change(**changes) -> SamplingParams:
    return PARAMS.model_copy(update=changes)


def grouped(lm, prompts: int, samples: int, tokens: int = 40) -> list[Request]:
    """`samples` requests for each prompt of `tokens` tokens or a few more."""
    words, rng = lm.encode("a b c"), random.Random(0)
    texts = [tuple(rng.choices(words, k=tokens + i)) for i in range(prompts)]
    return [Request(text, f"p{i}", sample) for i, text in enumerate(texts) for sample in range(samples)]


def mixed(lm, n: int, seed: int = 0) -> tuple[list[Request], list[SamplingParams]]:
    """Prompts of random lengths, some of them in groups, and 1 to 8 paths."""
    rng, words, wanted, params = random.Random(seed), lm.encode("a b c"), [], []
    while len(wanted) < n:
        prompt = tuple(rng.choices(words, k=rng.choice((1, 3, 20, 40, 90))))
        own = change(
            paths=rng.randint(1, 8), join_when=rng.choice(("all", "first", "half")), mode=rng.choice(
                ("structured", "structured", "reread", "sequential")), max_trace_tokens=rng.choice((30, 110, 200)),
        )  # fmt: skip
        own = own if own.mode != "reread" else own.model_copy(update={"join_when": "all"})
        for sample in range(rng.choice((1, 1, 4))):
            wanted.append(Request(prompt, f"p{len(wanted)}", sample))
            params.append(own)
    return wanted[:n], params[:n]


class Watched(Engine):
    """Checks the budget while every step is run, and the order of those that wait."""

    peak, most_live = 0, 0

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        run = self.backend.step

        def step(batch):
            found = run(batch)
            held, budget = self.backend.cache.held_bytes, self.scheduler.memory
            assert budget is None or held <= budget
            self.peak, self.most_live = max(self.peak, held), max(self.most_live, len(self.scheduler.live))
            return found

        self.backend.step = step

    def _advance(self) -> None:
        super()._advance()
        live, queued = ([s.id for s in states] for states in (self.scheduler.live.values(), self.scheduler.queued))
        assert queued == sorted(queued)
        assert not live or not queued or max(live) < min(queued)  # whoever came first is served first


@PLACES
def test_a_budget_is_kept_and_preempted_traces_go_on_as_they_were(memory, backend):
    lm = tiny()
    wanted, params = mixed(lm, 20)
    free = Watched(lm, max_num_seqs=12, backend=backend)
    plain = free.generate(wanted, params, seed=3)
    need = max(free.backend.bytes_for(len(r.prompt) + p.max_trace_tokens) for r, p in zip(wanted, params, strict=True))
    budget = int(1.3 * need) if memory == "reserved" else 2 * need
    tight = Watched(lm, max_num_seqs=12, backend=backend, kv_cache_memory_bytes=budget, prefill_chunk=16)
    events = []
    again = tight.generate(wanted, params, seed=3, on_event=events.append)
    assert [drawn(r) for r in again] == [drawn(r) for r in plain]
    for a, b in zip(again, plain, strict=True):
        for s, t in zip(a.segments, b.segments, strict=True):
            assert s.logprobs == pytest.approx(t.logprobs, abs=1e-5)
    assert tight.preempted
    assert free.peak > budget >= tight.peak > budget / 2
    assert tight.most_live > 1
    for i, rollout in enumerate(again):  # nothing is told twice
        assert sum(e.kind == "token" for e in events if e.request == i) == sum(
            len(s.tokens) for s in rollout.segments if s.kind != "copy"
        )
    assert (tight.backend.cache.rows, tight.backend.cache.held_bytes) == (0, 0)


def test_a_preempted_trace_is_run_again_in_chunks():
    """Its log-probabilities are still those of one masked forward: what is run again is what was there."""
    lm = tiny(seed=2)
    wanted = grouped(lm, 6, 1, 20)
    engine = Engine(lm, max_num_seqs=6, prefill_chunk=7)
    plain = engine.generate(wanted, PARAMS, seed=1)
    for request in wanted:
        engine.add(request, PARAMS, seed=1)
    rng, found = random.Random(1), {}
    scheduler = engine.scheduler
    while engine.unfinished:
        found |= {e.request: e.rollout for e in engine.step() if e.rollout}
        if len(scheduler.live) > 1 and rng.random() < 0.2:
            scheduler.preempt()
    assert engine.preempted > 5
    ordered = [found[id] for id in sorted(found)]
    assert [drawn(r) for r in ordered] == [drawn(r) for r in plain]
    assert max(gaps(lm, ordered)) < 1e-4


@PLACES
def test_a_shared_prompt_is_read_once(memory, backend):
    lm = tiny()
    wanted = grouped(lm, 2, 3)
    single = Engine(lm, backend=backend)
    alone = [single.generate([request], PARAMS, seed=3)[0] for request in wanted]
    assert single.forwarded == sum(len(r.prompt) + r.tokens - 1 for r in alone)  # a prompt used once is read as before
    engine = Watched(lm, max_num_seqs=4, backend=backend, prefill_chunk=16)
    together = engine.generate(wanted, PARAMS, seed=3)
    assert [drawn(r) for r in together] == [drawn(r) for r in alone]
    assert max(gaps(lm, together)) < 1e-4
    once = sum(len(request.prompt) - 1 for request in wanted[::3])
    assert engine.forwarded == once + sum(1 + r.tokens - 1 for r in together)


def test_a_prompt_is_kept_for_those_that_wait_and_no_longer():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=2)
    wanted = grouped(lm, 1, 5)
    ids = [engine.add(request, PARAMS, seed=3) for request in wanted]
    engine.step()
    (prefix,) = engine.scheduler.prefixes.values()
    assert (prefix.users, prefix.size) == (2, len(wanted[0].prompt) - 1)
    engine.abort(ids[0])
    engine.abort(ids[1])
    assert engine.scheduler.prefixes
    for id in ids[2:]:
        engine.abort(id)
    assert not engine.scheduler.prefixes
    assert engine.backend.cache.held_bytes == 0
    assert engine.step() == []


def test_aborts_at_any_moment_free_everything(memory):
    lm = tiny()
    wanted, params = mixed(lm, 12, seed=1)
    plain = Engine(lm).generate(wanted, params, seed=3)
    budget = Engine(lm).backend.bytes_for(90 + 200) * 5 // 4
    for seed in range(2):
        rng, engine = random.Random(seed), Watched(lm, max_num_seqs=6, kv_cache_memory_bytes=budget, prefill_chunk=16)
        ids = [engine.add(r, p, seed=3) for r, p in zip(wanted, params, strict=True)]
        found, aborted = {}, set()
        while engine.unfinished:
            found |= {e.request: e.rollout for e in engine.step() if e.rollout}
            if rng.random() < 0.2:
                aborted.add(id := rng.choice(ids))
                engine.abort(id)
        assert set(ids) == aborted | set(found)
        assert all(drawn(rollout) == drawn(plain[id]) for id, rollout in found.items())
        assert (engine.backend.cache.held_bytes, engine.backend.cache.rows) == (0, 0)
        assert not engine.scheduler._waiting


def test_a_request_that_cannot_fit_is_refused_by_how_much():
    lm = tiny()
    engine = Engine(lm, kv_cache_memory_bytes=40_000)
    request = requests(lm, 3)[2]
    needed = engine.backend.bytes_for(len(request.prompt) + 110)
    with pytest.raises(UserError, match=f"takes {needed} bytes .* {needed - 40_000} more than .*=40000"):
        engine.add(request, PARAMS)
    assert (engine.unfinished, engine.step()) == (0, [])
    engine.add(request, change(max_trace_tokens=20))
    while engine.unfinished:
        engine.step()


def test_an_error_leaves_no_memory_and_no_poison_behind():
    """Keys that are not finite would reach later traces through masked slots."""
    import torch

    lm = tiny()
    wanted = grouped(lm, 2, 3)
    plain = [drawn(r) for r in Engine(lm).generate(wanted, PARAMS, seed=3)]
    engine = Engine(lm, max_num_seqs=2)
    for request in wanted:
        engine.add(request, PARAMS, seed=3)
    engine.step()
    weight = lm.model.model.layers[0].self_attn.k_proj.weight
    with torch.no_grad():
        kept = weight.clone()
        weight.fill_(float("nan"))
        with pytest.raises(UserError, match="not finite"):
            engine.step()
        weight.copy_(kept)
    assert engine.backend.cache.rows == 0
    found = {}
    while engine.unfinished:
        found |= {e.request: drawn(e.rollout) for e in engine.step() if e.rollout}
    assert found == {id: plain[id] for id in range(2, 6)}


def stream(n: int, budget: int, rows: int = 64, chunk: int = 64, **shape) -> tuple[Watched, list[int]]:
    """Run `n` requests at most `rows` at a time; the engine, and the resident bytes after each hundredth of them."""
    lm = tiny(**shape)
    wanted, params = mixed(lm, n, seed=5)
    engine = Watched(lm, max_num_seqs=rows, kv_cache_memory_bytes=budget, prefill_chunk=chunk)
    for request, own in zip(wanted, params, strict=True):
        engine.add(request, own, seed=3)
    done, held = [], []
    while engine.unfinished:
        done += [event.request for event in engine.step() if event.rollout]
        if 100 * len(done) >= n * (len(held) + 1):
            held.append(resident())
    assert sorted(done) == list(range(n))
    # none starves: when a request is done, all that are older are live, which are few
    assert all(request - i < rows for i, request in enumerate(done))
    assert engine.backend.cache.held_bytes == 0
    return engine, held


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if Path("/proc/self/statm").exists() else 0


def test_requests_stream_through_a_small_budget():
    engine, _ = stream(100, 1 << 20)
    assert engine.preempted > 5
    assert engine.peak > 1 << 19


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("budget", "rows", "chunk", "shape"),
    [
        (1 << 20, 64, 64, {}),
        (512 << 20, 2048, 2048, {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 256}),  # 16 KB a token
    ],
)
def test_ten_thousand_requests_stream_through_flat_memory(budget, rows, chunk, shape):
    """All end, none starves, and memory stays where it was after a tenth of them, with 64 MB for torch and Python."""
    engine, held = stream(10_000, budget, rows, chunk, **shape)
    assert engine.preempted > 10  # so little memory that traces are run again
    assert engine.forwarded * engine.backend.slot_bytes > 5 * budget
    assert budget / 2 < engine.peak <= budget
    assert max(held[10:]) - max(held[:10]) < 64 << 20
