"""Given tokens scored: one causal forward, in chunks, between the steps of what else runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.recurrent import hybrid
from helpers.tiny import drawn, requests, tiny
from polythink.engine import scoring as module
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError

BUDGETS = {"max_main_tokens": 8, "max_path_tokens": 6, "max_summary_tokens": 4, "max_trace_tokens": 70}
PARAMS = SamplingParams(mode="reread", paths=3, fork_at=1, **BUDGETS)


def engine_of(kind: str, **options) -> Engine:
    if kind == "recurrent":
        return Engine(hybrid("qwen3_5_text"), **options)
    lm = tiny(seed=2)
    ahead = kind == "ahead"
    return Engine(lm, backend=GraphedBackend(lm, look_ahead=True) if ahead else kind, **options)


def exact(lm, ids) -> np.ndarray:
    """(n, V) float64: the log-probabilities at each token but the first, from one plain forward."""
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids], device=lm.device), use_cache=False).logits[0, :-1].double()
    return logits.log_softmax(-1).cpu().numpy()


@pytest.mark.parametrize(
    "kind", ["lean", "recurrent", "ahead", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("flat", "padded"))]
)
def test_scores_are_those_of_one_forward_whatever_else_runs(kind, monkeypatch):
    engine = engine_of(kind, max_num_seqs=2)
    lm, (a, b) = engine.lm, requests(engine.lm, 2)
    ids = lm.encode("a b c c a b b a c b a c b b a")
    monkeypatch.setattr(module, "ELEMENTS", 4 * lm.model.config.vocab_size)
    alone = [drawn(r) for r in engine.generate([a, b], PARAMS, seed=3)]
    first, second = engine.scoring(ids, 3), engine.scoring(ids[:6])
    waiting, rollouts, reads = [first, second], {}, 0
    numbers = [engine.add(request, PARAMS, seed=3) for request in (a, b)]
    with engine.hold():
        while engine.unfinished or waiting:
            rollouts |= {event.request: event.rollout for event in engine.step()}
            if waiting and engine.score(waiting[0]):
                waiting.pop(0)
            reads += 1
    assert reads >= 6  # four tokens at a time
    assert [drawn(rollouts[n]) for n in numbers] == alone
    for scoring in (first, second):
        scores, twin = scoring.scores, exact(lm, scoring.ids)
        assert scores.logprobs[0] == 0.0
        assert scores.logprobs[1:] == pytest.approx(twin[np.arange(len(twin)), scores.ids[1:]], abs=1e-4)
        assert len(scores.top) == len(scores.ids)
    assert first.scores.top[0] == ()
    assert set(second.scores.top) == {()}
    for top, row in zip(first.scores.top[1:], exact(lm, ids), strict=True):
        assert [x for _, x in top] == pytest.approx(np.sort(row)[::-1][:3], abs=1e-4)
        assert [x for _, x in top] == pytest.approx([row[t] for t, _ in top], abs=1e-4)
    assert engine.scheduler.claimed == 0
    assert not engine.scheduler.scored


def test_a_trace_that_needs_the_memory_takes_it(monkeypatch):
    """Then the prompt is read again from its beginning."""
    lm = tiny(seed=2)
    backend = GraphedBackend(lm)
    engine = Engine(lm, 4, backend=backend, kv_cache_memory_bytes=30 * backend.cache.bytes_for(1))
    monkeypatch.setattr(module, "ELEMENTS", 2 * lm.model.config.vocab_size)
    scoring, lost, before = engine.scoring(lm.encode("a b c " * 30)), 0, 0
    for i, request in enumerate(requests(lm, 4)):
        engine.add(request, PARAMS, seed=i)
    with engine.hold():
        while engine.unfinished or not scoring.done:
            engine.step()
            engine.score(scoring)
            lost, before = lost + (scoring.read < before), scoring.read
    assert lost
    assert scoring.scores.logprobs[1:] == pytest.approx(
        exact(lm, scoring.ids)[np.arange(89), scoring.ids[1:]].tolist(), abs=1e-4
    )
    assert engine.scheduler.claimed == 0


def test_what_cannot_be_scored_is_refused():
    lm = tiny()
    engine = Engine(lm, kv_cache_memory_bytes=1 << 14)
    for ids, top, words in (
        ([], 0, "0 tokens to score"),
        ([3] * (lm.context + 1), 0, "context holds"),
        ([3], 21, "21"),
    ):
        with pytest.raises(UserError, match=words):
            engine.scoring(ids, top)
    for wrong in (-1, lm.model.config.vocab_size):
        with pytest.raises(UserError, match=f"token id {wrong} is not in the model's vocabulary"):
            engine.scoring([3, wrong])
    with pytest.raises(UserError, match="kv_cache_memory_bytes"):
        engine.scoring([3] * 1000)
    one = engine.scoring([3], 2)
    assert engine.score(one)
    assert (one.scores.logprobs, one.scores.top) == ((0.0,), ((),))
