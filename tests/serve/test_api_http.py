"""The server as clients on a network meet it: keys, limits, slow and leaving clients, signals, kills."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import openai
import pytest
import torch
from starlette.datastructures import URL
from starlette.requests import Request

from helpers.served import Served, program_of, served, start
from helpers.tiny import tiny
from polythink.models.lm import LanguageModel, with_settings
from polythink.serve.config import ServeConfig
from polythink.serve.guard import Guard

KEYS = ("first-key", "second-key")
KEY = {"authorization": "Bearer second-key"}
ENDLESS = {"prompt": "a", "max_tokens": 3000, "temperature": 1.0}


def endless() -> LanguageModel:
    """A model that does not end its text."""
    lm = with_settings(tiny(), decoding={"max_trace_tokens": 4000, "max_main_tokens": 4000})
    bias = torch.zeros(lm.model.config.vocab_size)
    bias[list(lm.ends)] = -1e4
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    limits = {"max_num_seqs": 4, "max_queue": 4, "max_requests_per_key": 3, "max_body_bytes": 4096}
    slow = {"read_timeout_s": 0.5, "keep_alive_s": 0.05, "cors_origins": ("https://page.example",)}
    with served(endless, tmp_path_factory.mktemp("served"), api_keys=KEYS, **limits, **slow) as running:
        yield running
        assert "Traceback" not in running.stderr.read_text()


@pytest.fixture
def http(server):
    with server.http(headers=KEY) as opened:
        yield opened


def error_of(answer: httpx.Response) -> dict:
    """The error of an answer, in OpenAI's shape."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


# ---- who may ask ----


def test_a_key_is_needed_for_all_but_health_and_the_page(server):
    with server.http() as http:
        assert http.get("/health").json() == {"status": "serving"}
        for path in ("/v1/models", "/v1/nothing", "/metrics", "/version"):
            answer = http.get(path)
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer first-ke", "Bearer first-keyy", "first-key", "Basic first-key", "Bearer \xe9", "Bearer"):
            assert http.get("/v1/models", headers={"authorization": wrong.encode("latin-1")}).status_code == 401
        for key in KEYS:
            assert http.get("/v1/models", headers={"authorization": f"bearer {key}"}).status_code == 200
    with server.client("wrong") as client, pytest.raises(openai.AuthenticationError, match="not one of this server's"):
        client.models.list()
    with server.client(KEYS[0]) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").max_model_len == 4096
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            client.models.retrieve("other")


@pytest.mark.parametrize("host", ["x", "x/page/", "x/page/?", "x/page/#", "x/health?"])
def test_a_host_header_opens_no_route(host, monkeypatch):
    """The path that is routed decides: in some versions of starlette the URL of a request is what its Host spells."""
    monkeypatch.setattr(Request, "url", URL(f"http://{host}/v1/completions"))
    sent = []

    async def route(scope, receive, send):
        raise AssertionError("the request has passed the guard without a key")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(route, ServeConfig(api_keys=KEYS), Counter())(scope, None, send))
    assert sent[0]["status"] == 401


def test_browsers_of_other_sites_are_told_nothing_unless_asked(http):
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    allowed = http.options("/v1/completions", headers={"origin": "https://page.example", **ask})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    other = http.options("/v1/completions", headers={"origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in other.headers
    assert (
        http.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"}).status_code
        == 415
    )


# ---- paths, methods, bodies ----


def test_what_is_not_there(http):
    answer = http.post("/v1/completion", json={})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "unknown_url")
    assert "did you mean '/v1/completions'" in error_of(answer)["message"]
    answer = http.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "use POST" in error_of(answer)["message"]
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/..%2f..%2f..%2fetc/passwd", "/v1/%00"):
        assert http.get(path).status_code == 404


def test_a_body_is_bounded_while_it_comes(server):
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first-key\r\n"
        "Content-Type: application/json\r\nConnection: close\r\n"
    )
    chunks = "Transfer-Encoding: chunked\r\n\r\n"
    large = [f"Content-Length: 5000\r\n\r\n{'x' * 5000}", chunks + 5 * f"400\r\n{'x' * 1024}\r\n" + "0\r\n\r\n"]
    with server.http(headers=KEY) as http:
        assert error_of(http.post("/v1/completions", json={"prompt": "a" * 5000}))["message"].startswith(
            "the body is larger"
        )
    huge = ["Content-Length: 50000\r\n\r\n", chunks + 20 * f"400\r\n{'x' * 1024}\r\n"]
    for body in (*large, *huge):
        assert "HTTP/1.1 413" in answer_to(server, head + body)
    assert "400" in answer_to(server, "nonsense\r\n\r\n")
    assert "400" in answer_to(server, head + "X: " + "y" * 40_000 + "\r\n\r\n")  # a head is bounded too


def test_a_client_that_sends_nothing_more_is_not_waited_for(server):
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first-key\r\n"
    late = f'{head}Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{"prompt":'
    sent = (late, "", "GET /health HT", "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HT")
    open_ = [connect(server, each) for each in sent]
    body, nothing, half, second = map(read_all, open_)
    assert "HTTP/1.1 408" in body
    assert nothing == half == ""
    assert second.startswith("HTTP/1.1 200")
    assert second.count("HTTP/1.1") == 1


def connect(server: Served, sent: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(sent.encode())
    return connection


def read_all(connection: socket.socket) -> str:
    """What comes until the server closes the connection."""
    with connection:
        found = b""
        while data := connection.recv(65536):
            found += data
        return found.decode()


def answer_to(server: Served, sent: str) -> str:
    return read_all(connect(server, sent))


# ---- clients that leave, and slow ones ----


def test_a_client_that_leaves_frees_its_rows(server):
    before = server.counters(**KEY)["request_aborted_total"]
    with server.client(KEYS[1]) as client:
        stream = client.completions.create(model="tiny", **ENDLESS, n=3, stream=True)
        next(iter(stream))
        stream.close()
    assert server.wait_idle(**KEY)["request_aborted_total"] == before + 3
    with server.http(headers=KEY, timeout=0.2) as impatient, pytest.raises(httpx.TimeoutException):
        impatient.post("/v1/completions", json={**ENDLESS, "n": 2})
    found = server.wait_until(lambda found: found["request_aborted_total"] >= before + 5, **KEY)
    assert found["http_requests_total:499"] == 1


def test_a_reader_that_does_not_read_keeps_nobody_back(server, http):
    body = json.dumps({**ENDLESS, "n": 2, "stream": True, "return_events": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: {KEY['authorization']}\r\n"
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        stalled.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = http.post("/v1/completions", json={**ENDLESS, "max_tokens": 20})
        assert answer.json()["usage"]["completion_tokens"] == 20
    server.wait_idle(**KEY)


class Streams:
    """Streams that stay open until the end, each read to its first bytes."""

    def __init__(self, http) -> None:
        self.http, self.open = http, ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def ask(self, **fields) -> str:
        body = {**ENDLESS, "stream": True, **fields}
        answer = self.open.enter_context(self.http.stream("POST", "/v1/completions", json=body))
        lines = answer.iter_lines()
        self.open.callback(lines.close)  # a reader that is dropped closes its answer
        return next(lines)


def test_a_stream_is_kept_open_while_nothing_comes(server, http):
    """The first request takes all rows, so that the second waits."""
    with Streams(http) as streams:
        streams.ask(n=4)
        server.wait_until(lambda found: found["num_requests_running"] == 4, **KEY)
        assert streams.ask() == ": waiting"
    server.wait_idle(**KEY)


def test_what_is_too_much_is_refused_for_now(server, http):
    other = {"authorization": "Bearer first-key"}
    with Streams(http) as streams:
        streams.ask(n=4)
        streams.ask(n=2)
        full = http.post("/v1/completions", json={**ENDLESS, "n": 3})
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert error_of(full)["type"] == "rate_limit_error"
        streams.ask()
        assert "this key has 3 requests" in error_of(http.post("/v1/completions", json=ENDLESS))["message"]
        with http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}, headers=other) as answer:
            assert answer.status_code == 200
    server.wait_idle(**KEY)


# ---- what is told of the server ----


def test_metrics_and_version(server, http):
    text = http.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "generation_tokens_total", "kv_cache_bytes"):
        assert f'polythink_{name}{{model_name="tiny"}} ' in text
    assert 'polythink_http_requests_total{handler="/metrics",method="GET",status="200"}' in http.get("/metrics").text
    assert http.get("/version").json().keys() == {"version"}


# ---- its end ----


def test_a_signal_lets_what_runs_finish(tmp_path):
    server = start(program_of(endless, drain_s=60), tmp_path)
    with server.http() as http, server.http() as other, Streams(http) as streams:
        streams.ask()
        body = {**ENDLESS, "max_tokens": 50, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.terminate()
            while (health := other.get("/health")).status_code == 200:
                time.sleep(0.01)
            assert (health.status_code, health.json()) == (503, {"status": "stopping"})
            refused = other.post("/v1/completions", json=ENDLESS)
            assert (refused.status_code, error_of(refused)["type"]) == (503, "service_unavailable_error")
            *_, done = [line for line in lines if line]
            assert done == "data: [DONE]"
        assert server.process.is_alive()  # the other stream is still open
    assert server.ended() == 0
    assert server.stderr.read_text() == ""


def test_what_does_not_finish_in_time_is_told_so(tmp_path):
    server = start(program_of(endless, drain_s=0), tmp_path)
    with server.http() as http, http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.terminate()
        *_, last = [line for line in lines if line]
        assert json.loads(last.removeprefix("data:"))["error"]["code"] == "shutdown"
    assert server.ended() == 0


def test_a_second_signal_ends_at_once(tmp_path):
    server = start(program_of(endless, drain_s=600), tmp_path)
    with server.http() as http, server.http() as other, Streams(http) as streams:
        streams.ask()
        server.process.terminate()
        while other.get("/health").status_code == 200:
            time.sleep(0.01)
        assert server.stop(signal.SIGINT) == 130


def test_after_a_kill_clients_see_a_clean_error_and_the_port_is_free(tmp_path):
    server = start(program_of(endless), tmp_path)
    with server.client() as client:
        stream = client.completions.create(model="tiny", **ENDLESS, stream=True)
        next(iter(stream))
        server.stop(signal.SIGKILL)
        with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError, httpx.ReadError)):
            list(stream)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
        again = start(program_of(endless, port=server.port), tmp_path)
        try:
            assert again.port == server.port
            assert (
                client.completions.create(model="tiny", prompt="a", max_tokens=2).choices[0].finish_reason == "length"
            )
        finally:
            again.stop(signal.SIGKILL)
