"""A completions server on loopback that is not ours: a table in place of a model, and failures on demand.

The logits after a text depend on its last two tokens alone, so a test can compute every log-probability itself; with
`logits` they are whatever a test wants. As "vllm" it answers as vLLM 0.32 was seen to: with the drawn token first
among `top_logprobs`, which are named by id or by text, -9999 for tokens that are cut off, completions that end at the
context, and the endpoints that take weights.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DROPPED = -1  # in place of a status: the connection ends without an answer


def logits_after(tokens: Sequence[int], vocabulary: int) -> list[float]:
    return _logits(tuple(tokens[-2:]), vocabulary)


@lru_cache
def _logits(last: tuple[int, ...], vocabulary: int) -> list[float]:
    rng = random.Random(f"{last}")
    return [rng.gauss(0, 1.5) for _ in range(vocabulary)]


def logprobs_of(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    scaled = [x / temperature for x in logits]
    top = max(scaled)
    total = top + math.log(sum(math.exp(x - top) for x in scaled))
    return [x - total for x in scaled]


class CompletionsServer(ThreadingHTTPServer):
    """`raw`: log-probabilities are at temperature 1; else at that of sampling, and cut by top-k where `cut`."""

    daemon_threads = True

    def __init__(self, vocabulary: int, ends: Sequence[int], owner: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.vocabulary, self.ends, self.owner, self.context = vocabulary, set(ends), owner, None
        self.raw, self.cut, self.stops, self.ids, self.logprobs, self.text_only = True, False, True, True, True, False
        self.version: str | None = None
        self.logits: Callable[[list[int]], list[float]] = lambda text: logits_after(text, vocabulary)
        self.names: Callable[[int], str] = lambda token: f"t{token}"  # their text, which several may share
        self.takes: Callable[[str], None] = lambda folder: None  # what it does with the weights of a folder
        self.weight_version: str | None = "default"  # None: a vLLM that is too old to say it
        self.models, self.models_status = ["m"], 200
        self.acts: Callable[[int, dict], str | None] = lambda number, body: None  # by the request's number, from 1
        self.requests: list[dict] = []
        self.posted: list[tuple[str, dict]] = []  # to other addresses
        self.refuse: dict[str, int] = {}  # path -> status, or `DROPPED`
        self.times: dict[str, list[float]] = defaultdict(list)
        self.closing, self.lock = threading.Event(), threading.Lock()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def complete(self, body: dict) -> dict:
        rng, text, tokens, found, tops = random.Random(body.get("seed", 0)), list(body["prompt"]), [], [], []
        stops = self.ends | set(body.get("stop_token_ids", ()) if self.stops else ())
        warm = body["temperature"] or 1.0
        room = body["max_tokens"] if self.context is None else self.context - len(text)
        for _ in range(min(body["max_tokens"], room)):
            logits = self.logits(text)
            own = logprobs_of(logits, warm)
            order = sorted(range(self.vocabulary), key=lambda i: -own[i])
            if body.get("top_k", -1) > 0:
                order = order[: body["top_k"]]
            greedy = body["temperature"] == 0
            token = order[0] if greedy else rng.choices(order, [math.exp(own[i]) for i in order])[0]
            told = logprobs_of(logits) if self.raw else own
            if self.cut:
                left = dict(zip(order, logprobs_of([logits[i] / warm for i in order]), strict=True))
                told = [left.get(i, -9999.0) for i in range(self.vocabulary)]
            text.append(token)
            tokens.append(token)
            found.append(told[token])
            ranked = sorted(range(self.vocabulary), key=lambda i: -told[i])[: body.get("logprobs") or 0]
            name = "token_id:{}".format if body.get("return_tokens_as_token_ids") else self.names
            tops.append({name(i): told[i] for i in (token, *ranked)})
            if token in stops:
                break
        return self.answer(tokens, found, tops, "stop" if tokens[-1] in stops else "length", body)

    def administer(self, path: str, body: dict) -> tuple[int, dict]:
        """What vLLM's endpoints for weights answer; anything else is taken without a word."""
        if path == "/collective_rpc":
            self.takes(body["kwargs"]["weights_path"])
            return 200, {"results": [None]}
        if path == "/update_weight_version":
            if self.weight_version is None:
                return 404, {"detail": "Not Found"}
            self.weight_version = body["new_version"]
            return 200, {"success": True, "new_version": self.weight_version}
        known = {"/pause": {"status": "paused"}, "/resume": {"status": "resumed"}}
        return 200, {**known, "/reset_prefix_cache": {"success": True}}.get(path, {})

    def answer(self, tokens, logprobs, tops, finish, body) -> dict:
        choice = {"index": 0, "text": "", "finish_reason": finish, "logprobs": None}
        if self.logprobs and "logprobs" in body:
            choice["logprobs"] = {"token_logprobs": logprobs, "top_logprobs": tops, "tokens": [""] * len(tokens)}
        if self.ids and body.get("return_token_ids"):
            choice["token_ids"] = tokens
        if self.owner == "llamacpp":
            content = [{"id": t, "logprob": x, "top_logprobs": [{"logprob": y} for y in top.values()]}
                       for t, x, top in zip(tokens, logprobs, tops, strict=True)]  # fmt: skip
            choice["logprobs"] = {"content": content}
        version = {} if self.version is None else {"metadata": {"weight_version": self.version}}
        return {"choices": [choice], **version}

    def handle_error(self, *_: object) -> None:
        """A client that hung up is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/weight_info":
            told = self.server.weight_version
            return self._send(*((404, {"detail": "Not Found"}) if told is None else (200, {"weight_version": told})))
        cards = [{"id": name, "owned_by": self.server.owner} for name in self.server.models]
        found = {"data": [card | {"max_model_len": self.server.context} for card in cards]}
        self._send(self.server.models_status, found if self.server.models_status == 200 else {"detail": "not now"})

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if not self.path.endswith("/completions"):
            server.posted.append((self.path, body))
            path = self.path.partition("?")[0]
            if (status := server.refuse.get(path)) == DROPPED:
                self.close_connection = True
                return None
            if status:
                return self._send(status, {"error": {"message": "not now"}})
            return self._send(*server.administer(path, body))
        with server.lock:
            server.requests.append(body)
            number = len(server.requests)
        server.times[json.dumps(body.get("prompt"))].append(time.monotonic())
        act, _, value = (server.acts(number, body) or "answer").partition(":")
        if act == "status":
            self._send(int(value), {"error": {"message": "not now"}})
        elif act == "wait":
            self._send(429, {"error": "slow down"}, {"Retry-After": value})
        elif act == "drop":
            self.close_connection = True
        elif act == "stall":
            server.closing.wait()
            self.close_connection = True
        elif act in ("drip", "drip-head"):  # a byte now and then, without end
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if act == "drip-head" else b"Content-Length: 9999\r\n\r\n"))
            while not server.closing.wait(0.05):
                self.wfile.write(b"a")
            self.close_connection = True
        elif server.text_only and not isinstance(body["prompt"], str):
            self._send(422, {"error": {"message": "prompt must be a string"}})
        else:
            self._send(200, server.complete(body))

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def completions_server(vocabulary: int, ends: Sequence[int], **more) -> Iterator[CompletionsServer]:
    with CompletionsServer(vocabulary, ends, **more) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.closing.set()
            running.shutdown()
            thread.join()
