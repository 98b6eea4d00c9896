"""Calls of a server: a total time limit ends one that drips, for every client of it."""

from __future__ import annotations

import threading
import time

import pytest

from helpers.completions_server import completions_server
from polythink.problems.problem import Problem
from polythink.run.http import Connection
from polythink.run.retry import CallError, RetryPolicy, repeated
from polythink.teachers.endpoint import Endpoint, EndpointConfig


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with completions_server(4, [0]) as running:
        yield running


@pytest.mark.parametrize("act", ["drip", "drip-head", "stall"])
def test_a_call_ends_at_its_time_limit_wherever_it_hangs(server, act):
    server.acts = lambda number, body: act
    with Connection(server.base, "/completions", "endpoint", time_limit=0.2) as connection:
        begun = time.monotonic()
        with pytest.raises(CallError, match=r"timeout: not whole after 0.2 seconds"):
            connection.post({"prompt": [1]})
        assert time.monotonic() - begun >= 0.2


def test_a_teacher_that_drips_does_not_hang_a_cold_start(server):
    server.acts = lambda number, body: "drip"
    with (
        Endpoint(EndpointConfig(url=server.base, model="m", timeout=30, time_limit=0.2)) as teacher,
        pytest.raises(CallError, match=r"timeout: not whole after 0.2 seconds"),
    ):
        teacher(Problem("k", "q", "a"), "q", 0)


def test_addresses_beside_an_endpoint():
    with Connection("http://h:1/v1?key=a", "/completions", "endpoint") as connection:
        assert connection.address.url == "http://h:1/v1/completions?key=a"
        assert connection.at("/models") == "http://h:1/v1/models?key=a"
        assert connection.at("/pause?mode=wait", root=True) == "http://h:1/pause?mode=wait&key=a"
    with Connection("http://h:1/prefix", "/completions", "endpoint") as connection:
        assert connection.at("/pause", root=True) == "http://h:1/prefix/pause"


def test_a_call_is_repeated_as_often_as_the_policy_says():
    policy, reached, stopped = RetryPolicy(retries=2, wait=0.0), threading.Event(), threading.Event()
    failures = [CallError("http_503"), CallError("http_429", retry_after=0.0)]

    def call() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    tried = repeated(call, policy, stopped, reached)
    assert (tried.result, tried.error, tried.retried) == ("answer", None, ("http_503", "http_429"))
    failures += [CallError("http_400", permanent=True)]
    tried = repeated(call, policy, stopped, reached)
    assert (tried.result, tried.error.reason, tried.retried) == (None, "http_400", ())
    failures += [CallError("http_429", retry_after=1e6)]
    assert repeated(call, policy, stopped, reached).error.reason == "http_429"  # it is not waited for that long


def test_a_pause_has_its_bound_after_any_number_of_failures():
    policy = RetryPolicy(retries=10_000, wait=0.5, longest_wait=4.0)
    for failures in (1, 2, 1025, 10_000):
        least = min(0.5 * 2 ** min(failures - 1, 3), 4.0)
        assert 0.5 * least <= policy.pause(failures, None) <= 1.5 * least
