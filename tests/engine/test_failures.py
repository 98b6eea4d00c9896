"""Requests that fail: by their own policies, by tokens that the model lacks, and beside others that go on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tiny import drawn, requests, tiny
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError

PARAMS = SamplingParams(
    paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=110
)


def change(**changes) -> SamplingParams:
    return PARAMS.model_copy(update=changes)


def no_width(state) -> int:
    return 0


def answers_nothing(text: str) -> str:
    raise ZeroDivisionError("of a path's answer")


FAILS = SamplingParams(fork_at=1, width=no_width, max_trace_tokens=60)  # after its first token
FORKS = Request((3, 4))  # whose first token ends nothing


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (FAILS, UserError),
        (
            change(fork_at=0, controller="agreement", probe_every=1, path_answer=answers_nothing),
            ZeroDivisionError,
        ),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_a_policy_that_fails_drops_its_own_request_alone(ahead, bad, error):
    lm = tiny()
    wanted = requests(lm, 3)
    alone = [drawn(r) for r in Engine(lm).generate(wanted, PARAMS, seed=3)]
    engine = Engine(lm, backend=GraphedBackend(lm, look_ahead=True) if ahead else "lean", max_num_seqs=3)
    ids = [engine.add(request, PARAMS, seed=3) for request in wanted[:2]]
    lost = engine.add(FORKS, bad, stream=True)
    ids.append(engine.add(wanted[2], PARAMS, seed=3))
    events, errors = [], []
    with engine.hold():
        while engine.unfinished:
            try:
                events += engine.step()
            except (UserError, ZeroDivisionError) as found:
                errors.append(found)
                assert lost in engine.lost([*ids, lost])
    assert [type(found) for found in errors] == [error]
    assert {e.request: drawn(e.rollout) for e in events if e.kind == "done"} == dict(zip(ids, alone, strict=True))
    assert engine.scheduler.claimed == 0


def test_what_ends_in_the_step_in_which_a_policy_fails_is_still_reported():
    lm = tiny()
    engine = Engine(lm)
    id = engine.add(requests(lm, 1)[0], SamplingParams(mode="sequential", max_trace_tokens=1))
    engine.add(FORKS, FAILS)
    with pytest.raises(UserError, match="returned 0"):
        engine.step()
    assert engine.unfinished == 1
    assert [(event.request, event.kind) for event in engine.step()] == [(id, "done")]
    assert engine.unfinished == 0


def test_a_nested_generate_that_fails_does_not_take_the_outer_one_along():
    lm = tiny()
    engine, (first,) = Engine(lm), requests(lm, 1)
    alone, refused = [drawn(r) for r in engine.generate([first], PARAMS, seed=3)], []

    def nested(event) -> None:
        if not refused:
            with pytest.raises(UserError, match="returned 0") as found:
                engine.generate([FORKS], FAILS)
            refused.append(found)

    assert [drawn(r) for r in engine.generate([first], PARAMS, seed=3, on_event=nested)] == alone
    assert refused


@pytest.mark.parametrize("how", ["the model", "abort"])
def test_generate_raises_where_its_requests_are_dropped_meanwhile(how):
    lm = tiny()
    engine, (first, second) = Engine(lm, backend="lean"), requests(lm, 2)
    step, dropped = engine.backend.step, []

    def fails(batch):
        raise RuntimeError("out of order")

    def drops(event) -> None:
        if dropped:
            return
        dropped.append(event)
        if how == "abort":
            engine.abort(0)
            return
        engine.backend.step = fails
        with pytest.raises(RuntimeError, match="out of order"):
            engine.generate([second], PARAMS)
        engine.backend.step = step

    with pytest.raises(UserError, match="1 of the requests were dropped while others ran"):
        engine.generate([first], PARAMS, on_event=drops)
    assert (engine.unfinished, engine.step()) == (0, [])


def test_events_of_what_an_error_dropped_are_not_delivered():
    lm = tiny()
    engine = Engine(lm, backend="lean")
    engine.add(requests(lm, 1)[0], change(fork_at=0), stream=True)
    assert engine._events

    def fails(batch):
        raise RuntimeError("out of order")

    engine.backend.step = fails
    with pytest.raises(RuntimeError, match="out of order"):
        engine.step()
    assert (engine.unfinished, engine.step()) == (0, [])


def test_tokens_that_the_model_does_not_have_are_refused():
    lm = tiny()
    engine, size = Engine(lm), lm.model.config.vocab_size
    engine.add(requests(lm, 1)[0], PARAMS)
    for id in (-1, size):
        for bad in (Request((3, id)), Request((3,), path_prefixes=((), (3, id)))):
            with pytest.raises(UserError, match=f"token id {id} is not in the model's vocabulary of {size}"):
                engine.add(bad, PARAMS)
    assert engine.unfinished == 1


def test_token_ids_may_be_given_as_any_row_of_them():
    lm = tiny()
    engine, (wanted,) = Engine(lm), requests(lm, 1)
    ids = list(wanted.prompt)
    alone = drawn(engine.generate([wanted], PARAMS, seed=3)[0])
    for given in (ids, np.array(ids), torch.tensor(ids), tuple(torch.tensor(ids)), iter(ids)):
        request = Request(given, wanted.problem, wanted.sample, path_prefixes=[[]])
        assert (request.prompt, request.path_prefixes) == (wanted.prompt, ((),))
        assert [drawn(r) for r in engine.generate([request], PARAMS, seed=3)] == [alone]


@pytest.mark.parametrize("prompt", ["3 4", [[3, 4]], {"input_ids": [3]}, np.array([[3, 4]]), ("3",), (3, [4]), None])
def test_what_is_no_row_of_token_ids_is_refused(prompt):
    with pytest.raises(UserError, match=r"a request's prompt is \w+, which is no row of token ids; engine"):
        Request(prompt)
    with pytest.raises(UserError, match=r"a path's prefix is \w+, which is no row"):
        Request((3,), path_prefixes=(prompt,))


def test_what_is_no_request_is_refused_and_leaves_nothing_behind():
    lm = tiny()
    engine, (wanted,) = Engine(lm), requests(lm, 1)
    for given, said in (
        ("text", "str is no list"),
        (wanted, "Request is no list"),
        ([wanted, "text"], "str is no Request"),
    ):
        with pytest.raises(UserError, match=said):
            engine.generate(given, PARAMS)
    with pytest.raises(UserError, match="tuple is no Request; Request"):
        engine.add((3, 4), PARAMS)
    assert engine.unfinished == 0
    assert len(engine.generate([wanted], PARAMS)) == 1
