"""Traces in lock step: the same rollouts as by the rules asked token by token, which is the slow twin."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.sweep import sweep
from helpers.tiny import drawn, requests, thinker, tiny
from polythink.engine import lockstep
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams

PARAMS = SamplingParams(
    paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=12, max_summary_tokens=9, max_trace_tokens=140
)
NEVER = 1 << 30


def told(rollouts) -> list:
    return [(drawn(r), [s.logprobs for s in r.segments]) for r in rollouts]


EARLY = {"fork_at": 5, "join_when": "first", "path_position_stride": 20}


EACH = ({}, {"mode": "sequential"}, {"mode": "reread"}, EARLY)


@pytest.mark.parametrize(
    ("model", "changes"),
    sweep(
        [(model, changes) for model in (tiny, thinker) for changes in EACH],
        [(tiny, {}), (tiny, {"mode": "sequential"}), (tiny, {"mode": "reread"}), (thinker, EARLY)],
    ),
)
def test_the_rollouts_are_those_of_the_rules_asked_token_by_token(model, changes, monkeypatch):
    lm = model(seed=3)
    engine, wanted = Engine(lm, max_num_seqs=3), requests(lm, 4)
    params = PARAMS.model_copy(update=changes)
    monkeypatch.setattr(lockstep, "WORTH", NEVER)
    slow = engine.generate(wanted, params, seed=5)
    for worth, steps in ((1, 3), (1, 64), (4, 64)):
        monkeypatch.setattr(lockstep, "WORTH", worth)
        monkeypatch.setattr(lockstep, "STEPS", steps)
        assert told(engine.generate(wanted, params, seed=5)) == told(slow)


def test_steps_are_the_same_columns(monkeypatch):
    """Token, slot, position, stream and so on, in the order of rows, whoever made them."""
    lm, seen = tiny(), []
    engine = Engine(lm, max_num_seqs=4)
    run, entered = engine.backend.step, []

    def step(batch):
        entered.append(len(engine.scheduler.lockstep.entries))
        order = np.argsort(batch.wanted, kind="stable")  # wanted tokens may come in any order
        each = {
            name: getattr(batch, name)[order] for name in ("key", "count", "temperature", "top_p", "top_k", "wanted")
        }
        seen[-1].append({**vars(batch), **each})
        return run(batch)

    engine.backend.step = step
    for worth in (NEVER, 2):
        monkeypatch.setattr(lockstep, "WORTH", worth)
        seen.append([])
        engine.generate(requests(lm, 6), PARAMS, seed=5)
    assert max(entered) > 2  # it was used
    assert len(seen[0]) == len(seen[1])
    for slow, fast in zip(*seen, strict=True):
        for name, column in slow.items():
            assert column.dtype == fast[name].dtype
            assert column.tolist() == fast[name].tolist(), name


def test_what_is_kept_is_bounded_and_lanes_are_used_again(monkeypatch):
    lm = tiny()
    engine = Engine(lm, max_num_seqs=2)
    engine.generate(requests(lm, 10), PARAMS, seed=5)
    held = engine.scheduler.lockstep
    assert held.tokens.shape == (lockstep.STEPS, 64)
    assert (len(held.entries), len(held._free)) == (0, 64)
