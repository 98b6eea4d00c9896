"""Look-ahead over a real engine: budgets, preemption, shared prompts, aborts, holds. Draws are those without it.

With traces in lock step (`worth` 1: as soon as one step of a trace is plain) and by the rules of each (NEVER).
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.sweep import sweep
from helpers.tiny import drawn, gaps, lean_towards, requests, tiny
from polythink.engine import lockstep, lookahead
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.lockstep import Lockstep
from polythink.engine.lookahead import LookAhead
from polythink.engine.params import Request, SamplingParams

PARAMS = SamplingParams(
    paths=3, max_blocks=2, max_main_tokens=12, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=90
)
TOLERANCE = 1e-4
NEVER = 1 << 30


@pytest.fixture(params=[1, NEVER])
def worth(request, monkeypatch) -> int:
    monkeypatch.setattr(lockstep, "WORTH", request.param)
    return request.param


@pytest.fixture
def lanes(monkeypatch) -> list[int]:
    """How many lanes each step was guessed for."""
    found: list[int] = []
    follow = Lockstep.follow

    def noted(self, batch, source):
        merged = follow(self, batch, source)
        found.append(len(merged[0].wanted) - len(batch.wanted))
        return merged

    monkeypatch.setattr(Lockstep, "follow", noted)
    return found


@pytest.fixture
def guesses(monkeypatch) -> list[bool]:
    """Which guesses were right."""
    found: list[bool] = []
    right = lookahead._as_guessed

    def noted(*args) -> bool:
        found.append(right(*args))
        return found[-1]

    monkeypatch.setattr(lookahead, "_as_guessed", noted)
    return found


def mixed(lm, n: int) -> tuple[list[Request], list[SamplingParams]]:
    """Prompts of random lengths, some shared by several requests, in all modes and with all ends."""
    rng, words, wanted, params = random.Random(0), lm.encode("a b c"), [], []
    while len(wanted) < n:
        prompt = tuple(rng.choices(words, k=rng.choice((1, 3, 20, 40))))
        mode = rng.choice(("structured", "structured", "reread", "sequential"))
        own = {"mode": mode, "paths": rng.randint(1, 6), "max_trace_tokens": rng.choice((30, 110, 150))}
        own |= {"join_when": rng.choice(("all", "first", "half")) if mode == "structured" else "all"}
        own |= {"temperature": rng.choice((0.0, 1.0)), "top_k": rng.choice((0, 0, 3))}
        for sample in range(rng.choice((1, 1, 4))):
            wanted.append(Request(prompt, f"p{len(wanted)}", sample))
            params.append(PARAMS.model_copy(update=own))
    return wanted[:n], params[:n]


def engine_of(lm, **options) -> Engine:
    engine = Engine(lm, backend=GraphedBackend(lm, look_ahead=True), **options)
    assert isinstance(engine._steps, LookAhead)
    return engine


@pytest.mark.parametrize(
    ("worth", "tight"),
    sweep([(worth, tight) for worth in (1, NEVER) for tight in (False, True)], [(1, True), (NEVER, False)]),
    indirect=["worth"],
)
def test_mixed_requests_draw_what_they_draw_without(guesses, lanes, worth, tight):
    """Prompts in chunks of 16. `tight`: in so little memory that traces are preempted in the middle of a guess."""
    lm = lean_towards(tiny(seed=2), {"<Parallel>": 1.0, "</Path>": 1.0, "</Summary>": 1.0})
    wanted, params = mixed(lm, 24)
    if tight:  # a bound on the segments of flat text is a bad one, and the request would be refused
        params = [p.model_copy(update={"mode": "structured"}) if p.mode == "sequential" else p for p in params]
    plain = Engine(lm, max_num_seqs=8, backend="flat").generate(wanted, params, seed=3)
    pages = 32 * GraphedBackend(lm).cache.bytes_for(1)
    engine = engine_of(lm, max_num_seqs=8, prefill_chunk=16, kv_cache_memory_bytes=pages if tight else None)
    found = engine.generate(wanted, params, seed=3)
    assert [drawn(r) for r in found] == [drawn(r) for r in plain]
    assert max(gaps(lm, found)) < TOLERANCE
    assert (engine.preempted > 2) == tight
    assert guesses.count(True) > (200 if worth == NEVER else 50)
    assert guesses.count(False) > 10
    assert (sum(lanes) > 100) == (worth == 1)
    assert not engine._steps._taken
    assert engine._steps._ahead is None
    assert engine.backend.cache.used_bytes == 0


def test_a_limit_that_is_reached_next_is_not_guessed_past(guesses, lanes, worth):
    """Greedy text without tags up to its budget: every guess is right, and none is made past the end."""
    lm = tiny(seed=2)
    never = torch.zeros(lm.model.config.vocab_size, device=lm.device)
    never[[lm.pad, *lm.ends, *lm.tag_ids.values()]] = -1e4
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + never)
    engine = engine_of(lm)
    params = PARAMS.model_copy(update={"mode": "sequential", "max_main_tokens": 11})
    (rollout,) = engine.generate(requests(lm, 1), params)
    assert len(rollout.segments[0].tokens) == 11
    assert guesses == [True] * (10 if worth == NEVER else 1)
    assert sum(lanes) == (0 if worth == NEVER else 9)
    assert engine.forwarded == len(requests(lm, 1)[0].prompt) + 10


def test_aborts_in_the_middle_of_a_guess_leave_the_others_alone(worth):
    lm = tiny(seed=2)
    wanted, params = mixed(lm, 12)
    plain = Engine(lm, backend="flat").generate(wanted, params, seed=3)
    engine = engine_of(lm, max_num_seqs=4)
    ids = [engine.add(r, p, seed=3) for r, p in zip(wanted, params, strict=True)]
    rng, done = random.Random(0), {}
    gone = set()
    with engine.hold():
        while engine.unfinished:
            done |= {event.request: event.rollout for event in engine.step() if event.kind == "done"}
            if rng.random() < 0.1:
                gone.add(rng.choice(ids))
                engine.abort(max(gone))
                gone = {max(gone)} | (gone - {max(gone)})
    finished = set(done)
    assert 0 < len(finished) < len(ids)
    assert all(drawn(done[id]) == drawn(plain[ids.index(id)]) for id in finished)
    assert engine.backend.cache.used_bytes == 0


@pytest.mark.parametrize(
    ("worth", "rows"),
    sweep([(w, rows) for w in (1, NEVER) for rows in (2, 4)], [(1, 4), (NEVER, 2)]),
    indirect=["worth"],
)
def test_nothing_is_launched_ahead_outside_a_hold_and_no_guess_outlives_one(guesses, lanes, worth, rows):
    """Weights that change between holds change the next token, as they do without look-ahead.

    With two rows, prompts are read in chunks of 2 tokens while others are guessed; these are read a step earlier or
    later than without, so that weights stay.
    """
    lm = tiny(seed=2)
    found = {}
    for ahead in (False, True):
        torch.manual_seed(0)
        lanes.clear()
        engine = Engine(lm, rows, 512 if rows == 4 else 2, backend=GraphedBackend(lm, look_ahead=ahead))
        ids = [engine.add(request, PARAMS, seed=4) for request in requests(lm, 4)]
        done, steps = {}, 0
        saved = {name: value.clone() for name, value in lm.model.state_dict().items()}
        while engine.unfinished:
            before = len(guesses)
            if steps % 5 == 4:
                done |= {e.request: e.rollout for e in engine.step() if e.kind == "done"}
                steps += 1
                assert len(guesses) - before <= 4  # those of the last hold, all in vain
                continue
            with engine.hold():
                done |= {e.request: e.rollout for e in engine.step() if e.kind == "done"}
                steps += 1
            if rows == 4:
                with torch.no_grad():
                    for name, parameter in lm.model.named_parameters():
                        parameter.copy_(saved[name] * (1 + torch.rand_like(parameter)))
        lm.model.load_state_dict(saved)
        found[ahead] = [drawn(done[id]) for id in ids]
    assert found[True] == found[False]
    assert bool(sum(lanes)) == (worth == 1)


def test_lanes_are_released_when_a_hold_ends_while_a_prompt_is_read(monkeypatch):
    """The step under way then holds a chunk of that prompt and guesses for the lanes: the chunk counts, they do not."""
    monkeypatch.setattr(lockstep, "WORTH", 1)
    lm, released, rewound = tiny(seed=2), [], []
    never = torch.zeros(lm.model.config.vocab_size, device=lm.device)
    never[[lm.pad, *lm.ends, *lm.tag_ids.values()]] = -1e4
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + never)
    long = tuple(random.Random(0).choices(lm.encode("a b c"), k=30))
    wanted = [Request(tuple(lm.encode("a")), "short"), Request(long, "long")]
    params = PARAMS.model_copy(update={"max_main_tokens": 40})
    plain = Engine(lm, backend="flat").generate(wanted, params, seed=3)
    engine = engine_of(lm, max_num_seqs=2, prefill_chunk=3)
    steps, lanes = engine._steps, engine.scheduler.lockstep
    release_all, rewind = Lockstep.release_all, engine.backend.rewind
    monkeypatch.setattr(Lockstep, "release_all", lambda self: released.append(len(self.entries)) or release_all(self))
    monkeypatch.setattr(engine.backend, "rewind", lambda row, slot: rewound.append(row) or rewind(row, slot))
    ids = [engine.add(wanted[0], params, seed=3)]
    done = {}
    with engine.hold():
        while not lanes.entries:
            engine.step()
        ids.append(engine.add(wanted[1], params, seed=3))
        while not (lanes.under_way and any(not given.inputs.wanted for given in steps._ahead.given.values())):
            engine.step()
    assert (released.count(1), rewound) == (0, [])
    (chunk,) = steps._ahead.given.values()
    before, row = engine.forwarded, 1 - chunk.row
    with engine.hold():
        done |= {e.request: e.rollout for e in engine.step() if e.kind == "done"}
        assert (released[-1], rewound) == (1, [row])  # the guess is taken back, and the chunk is not run again
        assert engine.forwarded - before <= 1 + 2 * len(chunk.inputs.tokens)
        while engine.unfinished:
            done |= {e.request: e.rollout for e in engine.step() if e.kind == "done"}
    assert [drawn(done[id]) for id in ids] == [drawn(r) for r in plain]
    assert max(gaps(lm, [done[id] for id in ids])) < TOLERANCE
    assert engine.backend.cache.used_bytes == 0


def test_an_error_in_a_step_leaves_nothing_behind(worth):
    lm = tiny(seed=2)
    engine = engine_of(lm)
    plain = engine.generate(requests(lm, 3), PARAMS, seed=5)
    launch, calls = engine.backend.launch, []

    def broken(batch, source=None):
        calls.append(1)
        if len(calls) == 9:
            raise RuntimeError("out of order")
        return launch(batch, source)

    engine.backend.launch = broken
    with pytest.raises(RuntimeError, match="out of order"):
        engine.generate(requests(lm, 3), PARAMS, seed=5)
    assert engine.backend.cache.used_bytes == 0
    assert [drawn(r) for r in engine.generate(requests(lm, 3), PARAMS, seed=5)] == [drawn(r) for r in plain]


def test_lanes_are_launched_as_the_traces_would_be(monkeypatch):
    """For each draw the same columns as by the rules of each trace; a guessed token is the branch's draw before it."""
    lm = lean_towards(tiny(seed=2), {"<Parallel>": 1.0})
    seen, guessed = [], []

    def told(batch, source, before) -> dict:
        """By stream and number of it."""
        assert (np.diff(batch.row) >= 0).all()
        names = ("segment", "position", "slot", "label", "scale")
        columns = [getattr(batch, name)[batch.wanted].tolist() for name in names]
        columns += [getattr(batch, name).tolist() for name in ("temperature", "top_p", "top_k")]
        streams = list(zip(batch.key.tolist(), batch.count.tolist(), strict=True))
        for (key, count), i in zip(streams, batch.wanted if source is not None else (), strict=source is not None):
            if source[i] >= 0:
                guessed[-1] += 1
                assert (before.key[source[i]], before.count[source[i]]) == (key, count - 1)
        return dict(zip(streams, zip(*columns, strict=True), strict=True))

    for own in (NEVER, 4, 1):
        monkeypatch.setattr(lockstep, "WORTH", own)
        engine, last = engine_of(lm, max_num_seqs=4), [None]
        launch = engine.backend.launch
        seen.append({})
        guessed.append(0)

        def noted(batch, source=None, launch=launch, last=last):
            seen[-1].update(told(batch, source, last[0]))
            last[0] = batch
            return launch(batch, source)

        engine.backend.launch = noted
        rollouts = engine.generate(requests(lm, 4), PARAMS, seed=5)
    assert min(guessed) > 20
    drawn_at = seen[0].keys() & seen[1].keys() & seen[2].keys()  # beside these are guesses past an end
    assert len(drawn_at) >= sum(sum(s.sampled) for rollout in rollouts for s in rollout.segments)
    for at in drawn_at:
        assert seen[0][at] == seen[1][at] == seen[2][at]


@pytest.mark.parametrize(
    ("number", "bounds"),
    sweep(
        [(number, bounds) for number in (0, 3) for bounds in (((1, 3),), ((NEVER, 64), (1, 3), (2, 64)))],
        [(0, ((1, 3),))],
    ),
)
def test_steering_preemption_and_aborts_at_random(number, bounds, lanes, monkeypatch):
    """With several bounds on what is kept; those that finish draw what they draw alone."""
    rng = random.Random(number)
    lm = lean_towards(tiny(seed=number), {"<Parallel>": rng.uniform(0, 2), "</Path>": rng.uniform(-2, 1)})
    wanted, params = mixed(lm, 12)
    params = [p.model_copy(update={"mode": "structured"}) if p.mode == "sequential" else p for p in params]
    plain = Engine(lm, max_num_seqs=8, backend="flat").generate(wanted, params, seed=number)
    pages = 30 * GraphedBackend(lm).cache.bytes_for(1)
    preempted = 0
    for own, steps in bounds:
        monkeypatch.setattr(lockstep, "WORTH", own)
        monkeypatch.setattr(lockstep, "STEPS", steps)
        engine = engine_of(lm, max_num_seqs=6, prefill_chunk=rng.choice((3, 16)), kv_cache_memory_bytes=pages)
        ids = [engine.add(r, p, seed=number) for r, p in zip(wanted, params, strict=True)]
        done = {}
        with engine.hold():
            while engine.unfinished:
                done |= {event.request: event.rollout for event in engine.step() if event.kind == "done"}
                if rng.random() < 0.02 and engine.scheduler.live:
                    engine.abort(rng.choice([state.id for state in engine.scheduler.live.values()]))
        assert len(done) > 6
        assert all(drawn(rollout) == drawn(plain[ids.index(id)]) for id, rollout in done.items())
        preempted += engine.preempted
        assert engine.backend.cache.used_bytes == 0
    assert max(gaps(lm, list(done.values()))) < TOLERANCE
    assert preempted
    assert sum(lanes) > 40 * len(bounds)


@pytest.mark.parametrize(
    ("worth", "controller"),
    sweep(
        [(worth, name) for worth in (1, NEVER) for name in ("majority", "prune_and_deepen")],
        [(1, "majority"), (1, "prune_and_deepen")],
    ),
    indirect=["worth"],
)
def test_lanes_stop_for_a_probe(controller, lanes, worth):
    """Paths that a controller asks about every third token, in a block that is forced."""
    lm = lean_towards(tiny(seed=3, num_hidden_layers=1), {"</Path>": 0.5})
    own = {"controller": controller, "probe_every": 3, "probe_patience": 1, "path_answer": "last", "fork_at": 4}
    params = PARAMS.model_copy(update={**own, "max_blocks": 1, "max_path_tokens": 15})
    params = SamplingParams.model_validate(params.model_dump())
    plain = Engine(lm, max_num_seqs=4, backend="flat").generate(requests(lm, 4), params, seed=16)
    assert [drawn(r) for r in engine_of(lm, max_num_seqs=4).generate(requests(lm, 4), params, seed=16)] == [
        drawn(r) for r in plain
    ]
    reasons = {s.finish_reason for r in plain for s in r.segments if s.kind == "path"}
    assert reasons & {"agreed", "pruned"}
    assert bool(sum(lanes)) == (worth == 1)
