"""A request that is ended from outside: what it has drawn is a rollout, and the others do not notice."""

from __future__ import annotations

import pytest

from helpers.sweep import sweep
from helpers.tiny import drawn, gaps, requests, tiny
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.trace.rollout import TRUNCATIONS

BUDGETS = {"max_main_tokens": 8, "max_path_tokens": 6, "max_summary_tokens": 4, "max_trace_tokens": 70}
CHANGES = [{"fork_at": 1}, {"mode": "reread", "fork_at": 0}, {"mode": "sequential"}, {"max_depth": 2, "fork_at": 0}]


def params_of(changes: dict) -> SamplingParams:
    return SamplingParams(**{"paths": 3, "max_blocks": 2, **BUDGETS, **changes})


@pytest.mark.parametrize(
    ("ahead", "bound"),
    sweep([(False, None), (True, 2), (True, None), (False, 2)], [(True, 2)]),
)
def test_what_was_drawn_stands_and_the_others_go_on(ahead, bound):
    lm = tiny(seed=2)
    backend = GraphedBackend(lm, look_ahead=True) if ahead else "lean"
    engine = Engine(lm, 3, backend=backend, max_step_branches=bound)
    wanted, params = requests(lm, 4), [params_of(changes) for changes in CHANGES]
    whole = engine.generate(wanted, params, seed=3)
    seen = set()
    for after in range(0, 24, 4):
        victim = after // 4 % 4
        rollouts = {}
        with engine.hold():
            ids = [engine.add(r, p, 3, stream=i % 2 == 0) for i, (r, p) in enumerate(zip(wanted, params, strict=True))]
            for _ in range(after):
                rollouts |= {e.request: e.rollout for e in engine.step() if e.rollout}
            events = engine.stop(ids[victim], "abort")
            assert engine.stop(ids[victim]) == []
            while engine.unfinished:
                rollouts |= {e.request: e.rollout for e in engine.step() if e.rollout}
        others = [i for i in range(4) if i != victim]
        assert [drawn(rollouts[ids[i]]) for i in others] == [drawn(whole[i]) for i in others]
        if ids[victim] in rollouts:  # it was done before
            assert events == []
            continue
        found = events[-1].rollout
        assert (events[-1].kind, found.finish_reason) == ("done", "abort")
        assert found.truncated == sum(s.finish_reason in TRUNCATIONS for s in found.segments)  # those before it
        assert found.text == "".join(lm.decode(s.tokens) for s in found.segments if s.kind != "copy")
        full = {(s.kind, s.block, s.path, s.label): [] for s in whole[victim].segments}
        for segment in whole[victim].segments:
            full[segment.kind, segment.block, segment.path, segment.label].append(segment.tokens)
        for segment in found.segments:
            same = full[segment.kind, segment.block, segment.path, segment.label]
            assert any(tokens[: len(segment.tokens)] == segment.tokens for tokens in same)
        assert found.tokens < whole[victim].tokens
        assert max(gaps(lm, [found]), default=0.0) < 1e-4
        seen |= {s.kind for s in found.segments if s.finish_reason == "abort"}
    assert seen >= {"main", "path"}
    assert engine.scheduler.claimed == 0
