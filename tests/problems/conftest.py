"""The endpoint that cold starts are tested against."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import pytest
from chat_server import ChatServer


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()
