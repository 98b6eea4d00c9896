"""A real HTTP endpoint on loopback that answers, fails, stalls and talks nonsense on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


class ChatServer(ThreadingHTTPServer):
    """Answers a question with its recorded response, after the failures that are planned for it, one a request."""

    daemon_threads = True
    request_queue_size = 128  # connections that a client opens at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.recorded: dict[str, str] = {}  # question -> response
        self.otherwise: Callable[[str], str] = lambda question: ""  # the response to any other
        self.plan: dict[str, list[str]] = defaultdict(list)  # question -> what happens first
        self.asked: Counter[str] = Counter()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []  # of each request, names in lower case
        self.acts: Callable[[int, dict], str | None] = lambda number, request: None  # by the request's number, from 1
        self.answers_before_hold = 1_000_000  # further requests wait until the server closes
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_act(self, question: str, request: dict) -> str:
        with self.lock:
            self.asked[question] += 1
            self.times[question].append(time.monotonic())
            self.requests.append(request)
            if len(self.requests) > self.answers_before_hold:
                return "stall"
            if act := self.acts(len(self.requests), request):
                return act
            return self.plan[question].pop(0) if self.plan[question] else "answer"

    def handle_error(self, *_: object) -> None:
        """A client that hung up is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        act = self.server.next_act(question, {"path": self.path, "key": self.headers["Authorization"], **body})
        name, _, value = act.partition(":")
        text = self.server.recorded.get(question) or self.server.otherwise(question)
        if name == "answer":
            self._send(200, chat(text))
        elif name == "status":
            self._send(int(value), {"error": {"message": f"status {value} for Bearer {self.headers['Authorization']}"}})
        elif name == "error":  # error:STATUS:BODY
            status, _, content = value.partition(":")
            self._send(int(status), content.encode())
        elif name == "wait":
            self._send(429, {"error": "slow down"}, {"Retry-After": value})
        elif name == "stall":
            self.server.closing.wait()
            self.close_connection = True
        elif name == "drop":
            self.close_connection = True
        elif name == "half":
            self._send(200, chat(text), {"Content-Length": "100000"})
            self.close_connection = True
        elif name == "text":
            self._send(200, value.encode(errors="surrogateescape"))
        elif name == "cut":
            self._send(200, chat(text[: len(text) // 2], finish="length"))
        elif name == "empty":
            self._send(200, chat(""))
        elif name == "redirect":
            self._send(307, {}, {"Location": value})

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


def chat(text: str | None, finish: str = "stop") -> dict:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


@contextmanager
def serving() -> Iterator[ChatServer]:
    """A server at work in a thread, until the context closes."""
    with ChatServer() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running
