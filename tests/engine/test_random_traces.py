"""Random traces agree with the slow twin and one masked forward, in every backend: 100 always, 2,000 in long tests.

A backend takes part by its name in `BACKENDS`.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.llama_memory import StandIn
from helpers.random_cases import MODELS, model_of, random_requests
from helpers.tiny import drawn, gaps
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.backends.llama_cpp import LlamaCppBackend
from polythink.engine.backends.paged import Flight
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.reference import reference_generate
from polythink.engine.reference_page import Page
from polythink.errors import UserError
from polythink.models.to_gguf import write_gguf
from polythink.trace.modes import MODES

TOLERANCE = 1e-4  # of log-probabilities, float32; 1e-5 in practice
ROUNDING = 1e-4  # a draw that is nearer than this to another token's (`exact_draw`) may come out as that one
# which requests each backend can run, on a model of `MODELS`
BACKENDS: dict[str, Callable[[SamplingParams, str], bool]] = {
    "lean": lambda params, model: True,
    "flat": lambda params, model: True,
    "padded": lambda params, model: True,
    "recurrent": lambda params, model: not params.rules.joins_caches,
    "ahead": lambda params, model: True,  # graphed, with look-ahead
    "captured": lambda params, model: model != "thoughts",
}


def in_sequences(params: SamplingParams, model: str) -> bool:
    """No gaps between positions, no scaling: see `check_params` and `check_scaling` of the backend."""
    joined, most = params.rules.isolated and not params.rules.rereads, params.most_paths(model_of(model).dialect)
    return not params.stride and not (joined and params.length_scaling_above == 1 and most > 1)


LLAMA = {"llama_cpp": in_sequences}  # llama.cpp itself
STAND_IN = {"stand-in": in_sequences}  # its backend, over the rules of its memory
OF_LLAMA = [name for name in MODELS if name != "thoughts"]
Draws = dict[tuple[int, int], int]  # by stream and number


@lru_cache
def engine_of(model: str, backend: str) -> tuple[Engine, Draws]:
    """An engine, and what it draws."""
    lm, draws = model_of(model), {}
    own = {"ahead": ahead, "llama_cpp": llama, "stand-in": lambda lm: LlamaCppBackend(lm, StandIn(lm))}
    engine = Engine(lm, backend=own[backend](lm) if backend in own else backend)

    def noted(batch, tokens, logprobs):
        draws.update(zip(zip(batch.key.tolist(), batch.count.tolist(), strict=True), tokens.tolist(), strict=True))
        return tokens, logprobs

    if backend == "ahead":
        launch = engine.backend.launch
        engine.backend.launch = lambda batch, source=None: Noted(launch(batch, source), partial(noted, batch))
    else:
        step = engine.backend.step
        engine.backend.step = lambda batch: noted(batch, *step(batch))
    return engine, draws


def ahead(lm) -> GraphedBackend:
    return GraphedBackend(lm, look_ahead=True)


def llama(lm) -> LlamaCppBackend:
    from polythink.engine.llama.native import Weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(lm.model, file)
        return LlamaCppBackend(lm, Weights(file))


class Noted(NamedTuple):
    """A step under way whose draws are noted when they are read."""

    flight: Flight
    note: Callable

    def result(self):
        return self.note(*self.flight.result())


def seen(rollout) -> list[tuple]:
    """All that a trace must share with the slow twin's, beside its log-probabilities."""
    more = [(s.label, s.bounded, s.misplaced_tags, s.temperature, s.text) for s in rollout.segments]
    return [*drawn(rollout), *more, tuple(rollout.layout().position.tolist()), rollout.finish_reason]


class Twin:
    """The slow twin's traces, and its draws in text order with their margins."""

    def __init__(self, monkeypatch) -> None:
        self.draws: list[tuple[tuple[int, int], int, float]] = []
        drawn = Page.drawn

        def recorded(page, key: int, count: int):
            token, logprob, margin = drawn(page, key, count)
            self.draws.append(((key, count), token, margin))
            return token, logprob, margin

        monkeypatch.setattr(Page, "drawn", recorded)

    def trace(self, model: str, request, params, seed: int):
        """None where the request is refused."""
        self.draws.clear()
        try:
            (rollout,) = reference_generate(model_of(model), [request], params, seed)
        except UserError:
            return None
        return rollout

    def rounding(self, draws: Draws) -> bool:
        """Is the first draw that another computation took another token in one that rounding decides?

        Before it in the text all is equal, so nothing else can have led to it.
        """
        parted = (margin for at, token, margin in self.draws if draws.get(at, token) != token)
        return next(parted, 1.0) < ROUNDING


def check(twin: Twin, number: int, many: int, found: Counter, backends=BACKENDS, models=MODELS) -> None:
    """One batch of random requests in every backend, with random rows and chunks, against each trace alone."""
    rng = random.Random(number)
    model, rows, chunk = models[number % len(models)], rng.randint(1, many), rng.choice((1, 3, 512))
    wanted, each = random_requests(rng, model, many)
    backends = {name: runs for name, runs in backends.items() if any(runs(params, model) for params in each)}
    traces = {}  # by backend and request
    for backend, runs in backends.items():
        engine, draws = engine_of(model, backend)
        engine.max_num_seqs, engine.prefill_chunk = rows, chunk
        draws.clear()
        own = [i for i in range(many) if runs(each[i], model) and accepted(engine, wanted[i], each[i], number)]
        rollouts = engine.generate([wanted[i] for i in own], [each[i] for i in own], seed=number)
        traces |= {(backend, i): (rollout, dict(draws)) for i, rollout in zip(own, rollouts, strict=True)}
    for i in range(many):
        slow = twin.trace(model, wanted[i], each[i], number)
        for backend, runs in backends.items():
            fast, draws = traces.get((backend, i), (None, {}))
            assert (fast is None) == (slow is None or not runs(each[i], model)), (number, i, backend, each[i])
            if fast is not None:
                found["compared"] += 1
                compare(twin, fast, slow, draws, found, (number, i, backend, each[i]))
        if slow is not None:
            assert max(gaps(model_of(model), [slow]), default=0) < TOLERANCE, (number, i, each[i])
            found.update(traces=1, draws=len(twin.draws))
            found.update({each[i].mode, slow.finish_reason, *(s.finish_reason for s in slow.segments)})
            found.update(s.kind for s in slow.segments)
            found.update(bounded=any(s.bounded for s in slow.segments), nested=nested(slow))


def nested(rollout) -> bool:
    """Is there a block in a path or summary?"""
    return any(s.finish_reason == "fork" and s.kind != "main" for s in rollout.segments)


def accepted(engine: Engine, request, params, seed: int) -> bool:
    try:
        engine.abort(engine.add(request, params, seed))
    except UserError:
        return False
    return True


def compare(twin: Twin, fast, slow, draws: Draws, found: Counter, what) -> None:
    if seen(fast) != seen(slow):
        assert twin.rounding(draws), (what, seen(fast), seen(slow))
        found["parted by rounding"] += 1
        return
    for a, b in zip(fast.segments, slow.segments, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=TOLERANCE), what


@pytest.mark.parametrize("part", range(2))
def test_random_traces_agree_with_the_slow_twin(part, monkeypatch):
    twin, found = Twin(monkeypatch), Counter()
    for number in range(7 * part, 7 * part + 7):  # every model once
        check(twin, number, 8, found)
    assert found["traces"] >= 50, found
    modes, kinds = ("structured", "reread", "sequential"), ("main", "path", "copy", "summary")
    assert {*modes, *kinds, "context", "bounded", "nested"} <= set(+found), found
    assert found["parted by rounding"] <= 1, found


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
def test_two_thousand_random_traces_agree_with_the_slow_twin(part, monkeypatch):
    twin, found = Twin(monkeypatch), Counter()
    for number in range(1000 + 35 * part, 1000 + 35 * part + 35):
        check(twin, number, 8, found)
    assert found["traces"] >= 250, found
    assert found["parted by rounding"] <= 5, found
    kinds = {"main", "path", "copy", "summary", "fork", "joined", "tag", "eos", "length", "trace_length", "max_blocks"}
    kinds |= {"context", "bounded", "nested"}
    assert {*MODES, *kinds} <= set(+found), found


def test_random_traces_agree_in_the_memory_of_sequences(monkeypatch):
    twin, found = Twin(monkeypatch), Counter()
    for number in range(len(OF_LLAMA)):
        check(twin, number, 3, found, STAND_IN, OF_LLAMA)
    assert found["compared"] >= 8, found


@pytest.mark.skipif(not find_spec("llama_cpp"), reason="llama-cpp-python is not installed: pip install it and gguf")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2, 3))])
def test_random_traces_agree_in_llama_cpp(part, monkeypatch):
    twin, found = Twin(monkeypatch), Counter()
    for number in range(1000, 1007) if not part else range(1900 + 100 * part, 2000 + 100 * part):
        check(twin, number, 8, found, LLAMA, OF_LLAMA)
    assert found["compared"] >= (40 if not part else 600), found
    assert found["parted by rounding"] <= (5 if part else 1), found


def test_a_wrong_token_is_told_apart_from_rounding(monkeypatch):
    """A draw far from any other token's is no rounding, whatever comes after it."""
    twin = Twin(monkeypatch)
    twin.draws = [((1, 0), 5, 0.2), ((1, 1), 6, 1e-6), ((2, 0), 7, 0.3)]
    assert not twin.rounding({(1, 0): 5, (1, 1): 6, (2, 0): 8})
    assert not twin.rounding({(1, 0): 4, (1, 1): 9, (2, 0): 7})
    assert twin.rounding({(1, 0): 5, (1, 1): 9, (2, 0): 8})
    assert not twin.rounding({(1, 0): 5, (1, 1): 6})  # the same tokens: the traces differ by something else
