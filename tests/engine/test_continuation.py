"""Plain continuations: what a loop over whole forwards draws, beside traces with blocks and whatever the memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.device import DEVICE
from helpers.tiny import requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Continuation, Request, SamplingParams
from polythink.engine.sampling import draw, stream_key, uniforms
from polythink.errors import UserError

LENGTH = 16
PARAMS = SamplingParams(mode="sequential", max_main_tokens=LENGTH, max_trace_tokens=LENGTH)
BLOCKS = SamplingParams(
    paths=2, fork_at=1, max_main_tokens=9, max_path_tokens=5, max_summary_tokens=4, max_trace_tokens=60
)


def by_hand(lm, request: Request, seed: int) -> tuple[list[int], list[float]]:
    """One forward of the whole text for each token; knows no tags."""
    ids, logprobs, number = list(request.prompt), [], request.plain.drawn
    key = stream_key(seed, request.problem, request.sample, request.plain.segment)
    while len(logprobs) < LENGTH and (not logprobs or ids[-1] not in lm.ends):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids], device=DEVICE)).logits[0, -1:].cpu()
        uniform = torch.from_numpy(uniforms(np.array([key], np.uint64), np.array([number])))
        token, logprob, _ = draw(logits, torch.ones(1), uniform)
        ids.append(int(token))
        logprobs.append(float(logprob))
        number += 1
    return ids[len(request.prompt) :], logprobs


@pytest.fixture(scope="module")
def expected():
    """The model, some requests, and what they give."""
    lm = tiny()
    plain = [
        Request(r.prompt, r.problem, r.sample, plain=Continuation(segment=1 + i % 3, drawn=i % 2))
        for i, r in enumerate(requests(lm, 6))
    ]
    return lm, [(request, *by_hand(lm, request, seed=3)) for request in plain]


@pytest.mark.parametrize("limits", [{}, {"backend": "flat"}, {"kv_cache_memory_bytes": 50_000}], ids=str)
def test_a_plain_continuation_is_a_loop_over_forwards(expected, limits):
    lm, plain = expected
    engine = Engine(lm, max_num_seqs=6, **limits)
    asked = [*(request for request, _, _ in plain), *requests(lm, 4)]
    found = engine.generate(asked, [PARAMS] * len(plain) + [BLOCKS] * 4, seed=3)
    tags = 0
    for (_, tokens, logprobs), rollout in zip(plain, found, strict=False):
        (segment,) = rollout.segments
        assert segment.tokens == tokens
        assert segment.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert all(segment.sampled)
        assert rollout.finish_reason == ("eos" if tokens[-1] in lm.ends else "length")
        tags += len(set(tokens) & set(lm.tag_ids.values()))
    assert tags > 5
    assert engine.preempted > 0 or "kv_cache_memory_bytes" not in limits


def test_forced_beginnings_of_paths_are_refused():
    lm = tiny()
    request = Request((3,), path_prefixes=((3,),), plain=Continuation())
    with pytest.raises(UserError, match="a plain continuation has none"):
        Engine(lm).add(request, PARAMS)
