"""Faults of ours, and who is let in: the application without a socket, over a service that is not there."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest

from helpers.tiny import tiny
from polythink.serve.app import build_app
from polythink.serve.config import ServeConfig


@pytest.fixture(scope="module")
def lm():
    return tiny()


def asked(service, path="/health", config=None, **headers: str) -> httpx.Response:
    app = build_app(service, config or ServeConfig())

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def service(lm, **changes):
    facts = {"lm": lm, "name": "tiny", "config": ServeConfig(), "state": "serving", "alive": True, "counters": dict}
    return SimpleNamespace(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [({}, 200, "serving"), ({"alive": False}, 503, "dead"), ({"state": "stopping"}, 503, "stopping")],
)
def test_health_says_whether_requests_are_answered(lm, changes, status, told):
    answer = asked(service(lm, **changes))
    assert (answer.status_code, answer.json()) == (status, {"status": told})


def test_a_fault_is_told_by_its_number_alone_and_logged_whole(lm, caplog):
    def counters():
        raise ValueError("a secret of the server")

    answer = asked(service(lm, counters=counters), "/metrics")
    error = answer.json()["error"]
    assert answer.status_code == 500
    assert error["type"] == "server_error"
    assert error["code"] in error["message"]
    assert "secret" not in answer.text
    assert error["code"] in caplog.text
    assert "a secret of the server" in caplog.text


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:8000", "[::1]:8000", "127.0.0.9"])
def test_this_machine_is_answered(lm, host):
    assert asked(service(lm), host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[2001:db8::1]:80", "10.0.0.1"]
)
def test_a_name_of_another_site_that_means_this_machine_is_not_answered(lm, host):
    """DNS rebinding: a page of another site reaches a server on loopback that asks for no key."""
    answer = asked(service(lm), host=host)
    assert answer.status_code == 403
    assert json.dumps(host)[1:4] in answer.text
    assert asked(service(lm), config=ServeConfig(api_keys=("x",)), host=host).status_code == 200
