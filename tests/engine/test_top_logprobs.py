"""The alternatives to a sampled token: those of a float64 softmax of one masked forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.device import collate
from helpers.recurrent import hybrid
from helpers.tiny import drawn, requests, tiny
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.logprobs import logits_after

BUDGETS = {"max_main_tokens": 8, "max_path_tokens": 6, "max_summary_tokens": 4, "max_trace_tokens": 70}
KINDS = (
    "lean",
    "recurrent",
    "ahead",
    *(pytest.param(kind, marks=pytest.mark.long) for kind in ("flat", "padded", "graphed")),
)


def engine_of(kind: str) -> Engine:
    if kind == "recurrent":
        return Engine(hybrid("qwen3_5_text"))
    lm = tiny(seed=2)
    backend = GraphedBackend(lm, look_ahead=kind == "ahead") if kind in ("graphed", "ahead") else kind
    return Engine(lm, backend=backend, max_step_branches=2 if kind == "ahead" else None)


def exact(lm, rollout) -> list[np.ndarray]:
    """(V,) float64 log-probabilities at each token of the response, at the temperature of its segment."""
    layout = rollout.layout()
    batch = collate([layout])
    rows, tokens = (batch.real & (batch.previous >= 0)).nonzero(as_tuple=True)
    with torch.no_grad():
        logits, at, columns = logits_after(lm.model, batch, rows, batch.previous[rows, tokens])
    heats = [1.0] * len(rollout.prompt) + [s.temperature for s in rollout.segments for _ in s.tokens]
    found = {}
    for token, row, column in zip(tokens.tolist(), at.tolist(), columns.tolist(), strict=True):
        x = logits[row, column].double().cpu().numpy() / heats[token]
        found[token] = x - x.max() - np.log(np.exp(x - x.max()).sum())
    return [found[i] for i in range(len(rollout.prompt), len(layout))]


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_likeliest_of_an_exact_softmax(kind):
    """Before top-p and top-k, at the branch's temperature, and at 1 under greedy decoding."""
    engine = engine_of(kind)
    params = [
        SamplingParams(mode="reread", paths=3, fork_at=1, temperature=0.7, top_p=0.5, **BUDGETS),
        SamplingParams(mode="reread", paths=2, fork_at=2, temperature=0.0, path_temperature=1.3, **BUDGETS),
    ]
    quiet = [drawn(r) for r in engine.generate(requests(engine.lm, 2), params, seed=3)]
    tops, events, rollouts = (5, 20), {}, {}
    ids = [
        engine.add(request, own, 3, stream=True, top_logprobs=top)
        for request, own, top in zip(requests(engine.lm, 2), params, tops, strict=True)
    ]
    other = engine.add(requests(engine.lm, 3)[2], params[0], 3, stream=True)
    with engine.hold():
        while engine.unfinished:
            for event in engine.step():
                if event.rollout is not None:
                    rollouts[event.request] = event.rollout
                elif event.kind == "token":
                    events.setdefault((event.request, event.segment), []).append(event)
    assert [drawn(rollouts[id]) for id in ids] == quiet
    assert all(event.top == () for (id, _), own in events.items() if id == other for event in own)
    seen = 0
    for id, top in zip(ids, tops, strict=True):
        rollout = rollouts[id]
        likely = iter(exact(engine.lm, rollout))
        told = [own for (request, _), own in sorted(events.items(), key=lambda x: x[0]) if request == id]
        for segment in rollout.segments:
            mine = [next(likely) for _ in segment.tokens]
            if segment.kind == "copy" or not segment.tokens:
                continue
            own = next(t for t in told if [e.token for e in t] == segment.tokens and t[0].block == segment.block)
            told.remove(own)
            for event, logprob, twin in zip(own, segment.logprobs, mine, strict=True):
                assert event.logprob == logprob
                if event.forced:
                    assert (event.logprob, event.top) == (0.0, ())
                    continue
                assert len(event.top) == min(top, len(twin))
                assert [value for _, value in event.top] == pytest.approx(
                    np.sort(twin)[::-1][: len(event.top)], abs=1e-4
                )
                assert [value for _, value in event.top] == pytest.approx([twin[t] for t, _ in event.top], abs=1e-4)
                assert len({t for t, _ in event.top}) == len(event.top)
                assert logprob == pytest.approx(twin[event.token], abs=1e-4)
                seen += 1
        assert not told
    assert seen > 6


def test_what_cannot_be_told_is_refused():
    engine = Engine(tiny())
    for top, stream in ((21, True), (-1, True), (1, False)):
        with pytest.raises(UserError, match=f"top_logprobs={top}"):
            engine.add(requests(engine.lm, 1)[0], SamplingParams(**BUDGETS), stream=stream, top_logprobs=top)
