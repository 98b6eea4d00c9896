"""Look-ahead over a real engine: budgets, preemption, shared prompts, aborts, holds. Draws are those without it."""

from __future__ import annotations

import random

import pytest
import torch

from helpers.tiny import drawn, gaps, lean_towards, requests, tiny
from polythink.engine import lookahead
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.lookahead import LookAhead
from polythink.engine.params import Request, SamplingParams

PARAMS = SamplingParams(
    paths=3, max_blocks=2, max_main_tokens=12, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=90
)
TOLERANCE = 1e-4


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


@pytest.mark.parametrize("tight", [False, True])
def test_mixed_requests_draw_what_they_draw_without(guesses, tight):
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
    assert guesses.count(True) > 200
    assert guesses.count(False) > 10
    assert not engine._steps._taken
    assert engine._steps._ahead is None
    assert engine.backend.cache.used_bytes == 0


def test_a_limit_that_is_reached_next_is_not_guessed_past(guesses):
    """Greedy text without tags up to its budget: every guess is right, and none is made past the end."""
    lm = tiny(seed=2)
    never = torch.zeros(lm.model.config.vocab_size, device=lm.device)
    never[[lm.pad, *lm.ends, *lm.tag_ids.values()]] = -1e4
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + never)
    engine = engine_of(lm)
    params = PARAMS.model_copy(update={"mode": "sequential", "max_main_tokens": 11})
    (rollout,) = engine.generate(requests(lm, 1), params)
    assert len(rollout.segments[0].tokens) == 11
    assert guesses == [True] * 10
    assert engine.forwarded == len(requests(lm, 1)[0].prompt) + 10


def test_aborts_in_the_middle_of_a_guess_leave_the_others_alone():
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


def test_nothing_is_launched_ahead_outside_a_hold_and_no_guess_outlives_one(guesses):
    """Weights that change between holds change the next token, as they do without look-ahead."""
    lm = tiny(seed=2)
    found = {}
    for ahead in (False, True):
        torch.manual_seed(0)
        engine = Engine(lm, backend=GraphedBackend(lm, look_ahead=ahead))
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
            if steps == 6 or steps == 8:
                with torch.no_grad():
                    for parameter in lm.model.parameters():
                        parameter.mul_(1.2)
        lm.model.load_state_dict(saved)
        found[ahead] = [drawn(done[id]) for id in ids]
    assert found[True] == found[False]


def test_an_error_in_a_step_leaves_nothing_behind():
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
