"""Every dialect in every exact mode: the slow twin, paths alone after their prefix, batch mates, tokens run."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest

from helpers.device import tensor
from helpers.scribe import scribe
from helpers.sweep import sweep
from helpers.tiny import drawn, gaps
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.trace.dialect import DIALECTS
from polythink.trace.modes import MODES

EXACT = [name for name, mode in MODES.items() if mode.exact]
TOLERANCE = 1e-4  # float32; 1e-5 in practice
SAMPLED = pytest.mark.long  # the random traces take a sample of these
BUDGETS = {"max_main_tokens": 20, "max_path_tokens": 9, "max_summary_tokens": 6, "max_blocks": 2}


@lru_cache
def engine_of(dialect: str, rows: int = 4) -> Engine:
    return Engine(scribe(dialect, opens=1.5), max_num_seqs=rows, prefill_chunk=3)


def requests(engine: Engine, n: int) -> list[Request]:
    return [Request(tuple(engine.lm.encode("a b c a b"[: 1 + 2 * (i % 4)])), f"p{i}") for i in range(n)]


def params_of(dialect: str, mode: str, paths: int, **changes) -> SamplingParams:
    depth = 2 if DIALECTS[dialect].nests else 1
    facts = {"paths": paths, "max_paths": paths, "max_depth": depth, "max_trace_tokens": 90 + 30 * paths}
    return SamplingParams(mode=mode, **{**BUDGETS, **facts, **changes})


@SAMPLED
@pytest.mark.parametrize("paths", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", EXACT)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_engine_its_twin_and_one_masked_forward_agree(dialect, mode, paths):
    engine, params = engine_of(dialect), params_of(dialect, mode, paths)
    wanted = requests(engine, 5 if paths < 8 else 3)
    fast = engine.generate(wanted, params, seed=paths)
    slow = reference_generate(engine.lm, wanted, params, seed=paths)
    assert [drawn(r) for r in fast] == [drawn(r) for r in slow]
    assert [[s.text for s in r.segments] for r in fast] == [[s.text for s in r.segments] for r in slow]
    for a, b in zip(fast, slow, strict=True):
        assert [(s.label, s.bounded, s.empty_plans, s.misplaced_tags) for s in a.segments] == [
            (s.label, s.bounded, s.empty_plans, s.misplaced_tags) for s in b.segments
        ]
    assert max(gaps(engine.lm, fast)) < TOLERANCE
    kinds = Counter(s.kind for r in fast for s in r.segments)
    assert kinds["path"] >= 1, kinds
    assert bool(kinds["copy"]) == MODES[mode].rereads


@pytest.mark.parametrize(
    ("dialect", "mode"),
    sweep(
        [(dialect, mode) for dialect in DIALECTS for mode in ("structured", "reread")],
        [*((dialect, "reread") for dialect in DIALECTS), ("parallel_r1", "structured"), ("multiverse", "structured")],
    ),
)
def test_a_path_is_what_it_would_be_alone_after_its_prefix(dialect, mode):
    """Plain causal calls on the tokens before it and its own, which know nothing of layouts; a reread summary too."""
    engine, checked = engine_of(dialect), Counter()
    params = params_of(dialect, mode, 3, max_depth=1, max_trace_tokens=260)
    for rollout in engine.generate(requests(engine, 5), params, seed=4):
        before, flat = list(rollout.prompt), []
        join = next((i for i, s in enumerate(rollout.segments) if s.kind == "summary"), 0)
        for segment in rollout.segments[: join + 1]:
            if segment.kind == "main":
                before += segment.tokens
                continue
            if segment.kind == "path":
                flat += segment.tokens
            elif segment.kind == "copy":
                assert segment.tokens == flat
                continue
            elif mode == "structured":
                continue
            prefix = before + flat * (segment.kind == "summary")
            logits = engine.lm.model(input_ids=tensor([prefix + segment.tokens])).logits[0, len(prefix) - 1 : -1]
            scaled = logits.float() / segment.temperature
            alone = scaled.log_softmax(-1).gather(1, tensor(segment.tokens)[:, None])[:, 0].tolist()
            found = [(x, y) for x, y, s in zip(alone, segment.logprobs, segment.sampled, strict=True) if s]
            assert [x for x, _ in found] == pytest.approx([y for _, y in found], abs=TOLERANCE)
            checked[segment.kind] += len(found)
    assert checked["path"] >= 10
    assert checked["summary"] >= 3 or mode == "structured" or DIALECTS[dialect].summary is None


@pytest.mark.parametrize("dialect", [d if d == "parallel_r1" else pytest.param(d, marks=SAMPLED) for d in DIALECTS])
def test_the_published_modes_draw_as_reread_does(dialect):
    engine = engine_of(dialect)
    wanted = requests(engine, 3)
    reread, *published = (
        engine.generate(wanted, params_of(dialect, mode, 2), seed=2)
        for mode in ("reread", "seen_published", "unseen_published")
    )
    assert any(s.kind == "copy" for r in reread for s in r.segments)
    for rollouts in published:
        assert [drawn(r) for r in rollouts] == [drawn(r) for r in reread]
        assert [s.logprobs for r in rollouts for s in r.segments] == [s.logprobs for r in reread for s in r.segments]
        assert max(gaps(engine.lm, rollouts)) < TOLERANCE  # in the layout of drawing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "dialect"),
    [
        ("structured", "multiverse"),
        ("reread", "parallel_r1"),
        pytest.param("structured", "parallel_r1", marks=SAMPLED),
        pytest.param("reread", "multiverse", marks=SAMPLED),
    ],
)
def test_nested_traces_do_not_depend_on_their_batch_mates(dialect, mode):
    engine, params = engine_of(dialect), params_of(dialect, mode, 2, max_trace_tokens=200)
    wanted = requests(engine, 3)
    drawings = ((seed, engine.generate(wanted, params, seed=seed)) for seed in range(1, 13))
    seed, together = next((seed, rollouts) for seed, rollouts in drawings if any(  # one with a block in a path
        s.finish_reason == "fork" and s.kind == "path" for r in rollouts for s in r.segments
    ))  # fmt: skip
    for rows, backend in ((1, "lean"), (2, "flat"), (2, "padded")):
        other = Engine(engine.lm, max_num_seqs=rows, backend=backend).generate(wanted[::-1], params, seed=seed)
        assert [drawn(r) for r in other[::-1]] == [drawn(r) for r in together]


def test_every_token_is_forwarded_once_and_those_of_copies_once_more():
    engine, params = engine_of("multiverse"), params_of("multiverse", "reread", 2, max_trace_tokens=300)
    before = engine.forwarded
    rollouts = engine.generate(requests(engine, 6), params, seed=1)
    assert engine.forwarded - before <= sum(len(r.prompt) + r.tokens for r in rollouts)
    assert engine.forwarded - before >= sum(len(r.prompt) + r.tokens - 1 for r in rollouts)
