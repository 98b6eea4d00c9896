"""Traces whose tokens come as completions are those of the engine: any dialect, budgets, widths, nesting, controllers.

No HTTP here: the completions are plain continuations in this process, each with the random numbers it has in the whole.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from helpers.random_cases import MODELS, model_of, random_requests
from helpers.tiny import drawn, gaps
from polythink.engine.engine import Engine
from polythink.engine.params import Continuation, Request, SamplingParams
from polythink.engine.remote.trace import Ask, Drawn, RemoteTrace
from polythink.errors import UserError
from polythink.trace.rollout import Rollout

TOLERANCE = 1e-4  # of log-probabilities, float32
SMALL = dict(mode="reread", max_main_tokens=6, max_path_tokens=7, max_summary_tokens=5, max_blocks=1, fork_at=1)
ROOMS = [name for name in MODELS if name != "thoughts"]  # no server adds thought embeddings


def drawable(params: SamplingParams) -> bool:
    return (params.rules.rereads or not params.rules.isolated) and not params.stride


class Completer:
    """A server of plain text in this process. `short`: it answers with fewer tokens than asked for now and then."""

    def __init__(self, engine: Engine, short: random.Random | None = None) -> None:
        self.engine, self.short, self.asked = engine, short, Counter()

    def complete(self, asks: list[Ask]) -> list[Drawn]:
        """All at once: what a branch draws does not depend on what else is in the batch."""
        number = {self._add(ask): i for i, ask in enumerate(asks)}
        rollouts = {}
        while len(rollouts) < len(asks):
            rollouts |= {number[event.request]: event.rollout for event in self.engine.step()}
        drawn = []
        for i, ask in enumerate(asks):
            tokens, logprobs = rollouts[i].segments[0].tokens, rollouts[i].segments[0].logprobs
            end = next((n + 1 for n, token in enumerate(tokens) if token in ask.stops), len(tokens))
            self.asked.update(asks=1, tokens=end)
            drawn.append(Drawn(tokens[:end], logprobs[:end]))
        return drawn

    def _add(self, ask: Ask) -> int:
        params, request = ask.trace.state.params, ask.trace.state.request
        most = ask.max_tokens if self.short is None else self.short.randint(1, ask.max_tokens)
        plain = SamplingParams(
            mode="sequential", temperature=ask.temperature, top_p=params.top_p, top_k=params.top_k,
            max_main_tokens=most, max_trace_tokens=most,
        )  # fmt: skip
        wanted = Request(
            tuple(ask.prompt),
            request.problem,
            request.sample,
            request.dialect,
            plain=Continuation(ask.stream, ask.drawn),
        )
        return self.engine.add(wanted, plain, ask.trace.state.seed)

    def trace(self, request: Request, params: SamplingParams, seed: int, stops: bool = True, emit=None) -> RemoteTrace:
        state = self.engine.states.of(request, params, self.engine.context, seed, emit=emit)
        return RemoteTrace(0, state, chunk=5, stops=stops)

    def finish(self, traces: list[RemoteTrace]) -> list[Rollout]:
        asks = [ask for trace in traces for ask in trace.advance()]
        while asks:
            for ask, answer in reversed(list(zip(asks, self.complete(asks), strict=True))):  # they come in any order
                ask.trace.accept(ask, answer)
            asks = [ask for trace in traces for ask in trace.advance()]
        assert all(trace.state.done for trace in traces)
        return [trace.state.rollout() for trace in traces]


def seen(rollout) -> list[tuple]:
    more = [(s.label, s.bounded, s.misplaced_tags, s.temperature, s.text) for s in rollout.segments]
    return [*drawn(rollout), *more, rollout.finish_reason]


def check(number: int, many: int, found: Counter) -> None:
    rng = random.Random(number)
    model = ROOMS[number % len(ROOMS)]
    engine = Engine(model_of(model), backend="lean")
    completer = Completer(engine, rng if rng.random() < 0.5 else None)
    asked, traces = [], []
    for request, params in zip(*random_requests(rng, model, many), strict=True):
        if not drawable(params):
            continue
        try:
            engine.abort(engine.add(request, params, number))
        except UserError as error:
            with pytest.raises(UserError, match=re.escape(str(error))):
                completer.trace(request, params, number)
        else:
            traces.append(completer.trace(request, params, number, rng.random() < 0.7))
            asked.append((request, params))
    expected = engine.generate(*map(list, zip(*asked, strict=True)), seed=number) if asked else []
    for (_, params), rollout, known in zip(asked, completer.finish(traces), expected, strict=True):
        assert seen(rollout) == seen(known), (number, params)
        for a, b in zip(rollout.segments, known.segments, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=TOLERANCE)
        if params.rules.exact:
            assert max(gaps(engine.lm, [rollout]), default=0) < TOLERANCE
        found.update(s.kind for s in rollout.segments)
        found.update(s.finish_reason for s in rollout.segments)
        found.update(
            {params.mode}, traces=1, nested=any(s.finish_reason == "fork" and s.path for s in rollout.segments)
        )
        found.update(replaced=rollout.misplaced_tags)


def test_random_traces_are_those_of_the_engine():
    found = Counter()
    for number in range(4):
        check(number, 9, found)
    assert found["traces"] > 10
    assert {"reread", "sequential", "copy", "length", "trace_length", "tag"} <= set(found)


@pytest.mark.long
def test_many_random_traces_are_those_of_the_engine():
    found = Counter()
    for number in range(10, 200):
        check(number, 12, found)
    assert found["traces"] > 1000
    assert found["nested"] > 20
    assert found["replaced"] > 20


@pytest.mark.parametrize("controller", ["prune", "deepen"])
def test_controllers_see_the_same(controller):
    same_as_engine(SamplingParams(**SMALL, paths=3, controller=controller, probe_every=3), 2)


def test_paths_that_others_end_are_cut_at_the_same_place():
    params = SamplingParams(**SMALL | {"max_path_tokens": 12}, paths=4, join_when="first")
    rollouts = same_as_engine(params, 5)
    assert any(s.finish_reason == "joined" for rollout in rollouts for s in rollout.segments)


def same_as_engine(params: SamplingParams, samples: int) -> list[Rollout]:
    engine = Engine(model_of("parallel_r1"), backend="lean")
    completer = Completer(engine)
    wanted = [Request(tuple(engine.lm.encode("a b c")), "p", sample) for sample in range(samples)]
    rollouts = completer.finish([completer.trace(request, params, 1) for request in wanted])
    assert list(map(seen, rollouts)) == list(map(seen, engine.generate(wanted, params, 1)))
    return rollouts


def test_events_are_those_of_the_engine():
    engine = Engine(model_of("parallel_r1"), backend="lean")
    params = SamplingParams(**SMALL, paths=3)
    request, expected, events = Request(tuple(engine.lm.encode("a b c"))), [], []
    engine.generate([request], params, 1, on_event=expected.append)
    completer = Completer(engine)
    completer.finish([completer.trace(request, params, 1, emit=events.append)])
    assert [replace(e, logprob=0.0) for e in events] == [replace(e, logprob=0.0) for e in expected[:-1]]  # but "done"


def test_nothing_is_asked_for_twice():
    """A completion for each stretch of text, and one more for each tag drawn in its middle, which stops it."""
    engine = Engine(model_of("parallel_r1"), backend="lean")
    completer = Completer(engine)
    params = SamplingParams(**SMALL, paths=3)
    request = Request(tuple(engine.lm.encode("a b c")), "p", 2)
    (rollout,) = completer.finish([completer.trace(request, params, 4)])
    texts = [s for s in rollout.segments if s.kind != "copy" and any(s.sampled)]
    tags = engine.states.tags("", "").steering
    inside = sum(t in tags for s in texts for t, drawn in zip(s.tokens[:-1], s.sampled[:-1], strict=True) if drawn)
    assert completer.asked["asks"] <= len(texts) + inside
    assert completer.asked["tokens"] == sum(map(sum, (s.sampled for s in texts))) + rollout.misplaced_tags
