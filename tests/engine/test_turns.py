"""Bounded steps: the paths of wide traces take turns, and nothing that is drawn depends on it."""

from __future__ import annotations

import pytest

from helpers.recurrent import hybrid
from helpers.sweep import sweep
from helpers.tiny import drawn, lean_towards, requests, tiny
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError

BUDGETS = {"max_main_tokens": 9, "max_path_tokens": 7, "max_summary_tokens": 5, "max_trace_tokens": 110}
CHANGES = [
    {"fork_at": 1},
    {"mode": "reread", "join_when": "half", "fork_at": 0},
    {"join_when": "first", "fork_at": 2, "paths": 6},
    {"controller": "majority", "probe_every": 3, "fork_at": 1},
    {"mode": "reread", "controller": "prune", "probe_every": 2, "fork_at": 0, "paths": 4},
    {"max_depth": 2, "paths": 3, "fork_at": 0},
    {"mode": "sequential", "max_trace_tokens": 20},
]
MODELS = {"lean": "lean", "graphed": False, "ahead": True}


def told(rollouts) -> list:
    return [drawn(r) for r in rollouts]


def mixed(lm, n: int) -> tuple[list[Request], list[SamplingParams]]:
    """Every second prompt is one that others have too."""
    prompt = tuple(lm.encode("a b c c a b b a c b a c b b a b c a a b"))
    params = [SamplingParams(**{"paths": 5, "max_blocks": 2, **BUDGETS, **CHANGES[i % len(CHANGES)]}) for i in range(n)]
    return [Request(prompt[: (20, 5 + i % 7)[i % 2]], "p", i) for i in range(n)], params


@pytest.fixture(scope="module")
def unbounded():
    lm = tiny(seed=2)
    wanted, params = mixed(lm, 14)
    engine = Engine(lm, max_num_seqs=3)
    seen = watched(engine)
    expected = told(engine.generate(wanted, params, seed=3))
    assert max(seen) > 8, "no step is wider than a bound"
    return lm, wanted, params, expected


def watched(engine: Engine) -> list[int]:
    """How many branches each step samples."""
    seen, ahead = [], engine.backend.looks_ahead
    step = engine.backend.launch if ahead else engine.backend.step

    def run(batch, *more):
        seen.append(len(batch.wanted))
        return step(batch, *more)

    setattr(engine.backend, "launch" if ahead else "step", run)
    return seen


def bounded_equals_unbounded(unbounded, n: int, kind: str, bound: int | None, tight: bool) -> None:
    lm, wanted, params, expected = unbounded
    backend = MODELS[kind] if kind == "lean" else GraphedBackend(lm, look_ahead=MODELS[kind])
    memory = 40 * backend.cache.bytes_for(1) if tight else None
    engine = Engine(lm, 4, 7, backend, memory, max_step_branches=bound)
    seen = watched(engine)
    which = [i for i in range(n) if not (tight and params[i].max_depth > 1)]  # those could be too large for it
    found = engine.generate([wanted[i] for i in which], [params[i] for i in which], seed=3)
    assert told(found) == [expected[i] for i in which]
    assert max(seen) <= max(bound or 99, 4)
    assert (engine.preempted > 0) == tight


@pytest.mark.parametrize(
    ("kind", "bound", "tight"), sweep([("lean", 1, False), ("ahead", 5, True)], [("ahead", 5, True)])
)
def test_what_is_drawn_does_not_depend_on_the_bound(unbounded, kind, bound, tight):
    """Nor with preemption, nor looking ahead. Prompts, and what joins read again, come in chunks of 7."""
    bounded_equals_unbounded(unbounded, 7, kind, bound, tight)


@pytest.mark.long
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bound", [None, 1, 2, 3, 6, 9])
@pytest.mark.parametrize("tight", [False, True])
def test_with_any_bound_and_any_memory(unbounded, kind, bound, tight):
    if not (tight and kind == "lean"):
        bounded_equals_unbounded(unbounded, 14, kind, bound, tight)


def test_nor_with_a_cache_for_each_branch():
    lm = hybrid("qwen3_5_text")
    wanted, params = requests(lm, 2), SamplingParams(mode="reread", fork_at=1, paths=4, **BUDGETS)
    expected = told(Engine(lm).generate(wanted, params, seed=3))
    assert told(Engine(lm, max_step_branches=2).generate(wanted, params, seed=3)) == expected


def test_a_bound_below_one_is_refused():
    with pytest.raises(UserError, match="max_step_branches=0"):
        Engine(tiny(), max_step_branches=0)


# --- pace

FIXED = 32  # tokens: what a step costs besides its tokens, as where reading the weights takes most of its time


def pace(lm, wide: int, bound: int | None) -> tuple[int, float, int]:
    """Of a serial trace of 60 tokens beside `wide` ones of 8 paths: the steps it took, what they cost, its tokens."""
    engine = Engine(lm, max_num_seqs=8, max_step_branches=bound)
    prompt = tuple(lm.encode("a b c"))
    long = {"max_path_tokens": 80, "max_main_tokens": 60, "max_trace_tokens": 800, "max_summary_tokens": 60}
    params = SamplingParams(paths=8, fork_at=0, max_blocks=1, **long)
    serial = SamplingParams(mode="sequential", **long)
    cost, steps, step = 0.0, 0, engine.backend.step

    def counted(batch):
        nonlocal cost, steps
        cost, steps = cost + FIXED + len(batch.token), steps + 1
        return step(batch)

    for i in range(wide):
        engine.add(Request(prompt, "wide", i), params, seed=1)
    with engine.hold():
        for _ in range(5):
            engine.step()
        id, done = engine.add(Request(prompt, "serial"), serial, seed=1), None
        engine.backend.step = counted
        while done is None:
            done = next((e.rollout for e in engine.step() if e.request == id), None)
    return steps, cost, done.tokens


def test_a_serial_request_keeps_its_pace_beside_wide_ones():
    """Counted in steps, and in what a step costs: without the bound it has all its steps, and each is half as fast."""
    lm = tiny(seed=2)
    lm.tag_ids["the end"] = lm.eos
    lean_towards(lm, dict.fromkeys(lm.tag_ids, -50.0))
    alone, bounded, free = pace(lm, 0, 8), pace(lm, 4, 8), pace(lm, 4, None)
    assert alone[0] == bounded[0] == free[0] == alone[2] == 60  # it never misses a step
    assert alone[1] / bounded[1] >= 0.8
    assert alone[1] / free[1] < 0.6
