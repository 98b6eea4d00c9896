"""Bodies that nobody should send: each is answered in words or, where it happens to make sense, done. Never a fault."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from helpers.tiny import tiny
from polythink.engine.engine import Engine
from polythink.models.lm import with_settings
from polythink.serve.app import build_app
from polythink.serve.completions import CompletionRequest
from polythink.serve.config import ServeConfig
from polythink.serve.service import Service

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
DECODING = {"paths": 2, "max_main_tokens": 8, "max_path_tokens": 4, "max_summary_tokens": 4, "max_trace_tokens": 24}


class Asked:
    """A server in this process, without a socket."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        config = ServeConfig(max_tokens=24, max_choices=3, max_body_bytes=65536)
        self.service = Service(Engine(with_settings(tiny(), decoding=DECODING), 8), config, "tiny")
        self.loop.run_until_complete(self.service.start())
        app = build_app(self.service, config)
        self.paths = [path for path in PATHS if path in app.state.paths]
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    def post(self, path: str, body: bytes, kind: str = "application/json") -> httpx.Response:
        return self.loop.run_until_complete(self.client.post(path, content=body, headers={"content-type": kind}))

    def close(self) -> None:
        self.loop.run_until_complete(self.client.aclose())
        self.loop.run_until_complete(self.service.stop(5))
        self.loop.close()


@pytest.fixture(scope="module")
def asked():
    opened = Asked()
    yield opened
    assert opened.service.engine.unfinished == 0
    opened.close()


# ---- what is sent ----

HUGE = st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e308, 1e-320, 0.5, -0.0])
SMALL = st.integers(-2, 70)
NUMBERS = st.one_of(SMALL, SMALL, HUGE, st.floats(allow_nan=True, allow_infinity=True))
ODD = st.sampled_from(
    ["", "a b", "zebra", "\0", "\ud800", "\udfff\ud800", "é", "🙂", "</Path>", "<|end|>", "tiny", "a" * 5000]
)
TEXTS = st.one_of(ODD, st.text(max_size=8))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
PROMPTS = st.one_of(
    st.sampled_from(
        ["a", "a b c", "c </Path> b", ["a", "b"], [3, 4, 5], [[3], [4, 5]], [], [[]], ["a", 1], [10**9], "a " * 5000]
    ),
    VALUES,
)
SENSIBLE = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "a b"}], "input": "a b"}
NAMES = sorted(
    {*CompletionRequest.model_fields, *CompletionRequest.refused, *CompletionRequest.ignored, "messages", "input",
     "max_completion_tokens", "max_output_tokens", "reasoning", "reasoning_effort", "response_format", "tools", "zzz"}
)  # fmt: skip


@st.composite
def bodies(draw) -> bytes:
    """JSON objects that begin sensibly, some of whose fields then do not; and JSON that is broken."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    body = {"prompt": draw(st.one_of(st.just("a b"), PROMPTS))}
    body |= {name: SENSIBLE[name] for name in ("model", "max_tokens") if draw(st.booleans())}
    body |= {name: draw(VALUES) for name in names}
    if draw(st.integers(0, 9)) == 0:
        body = draw(VALUES)
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    sent = text.encode("utf-8", "surrogatepass")
    kind = draw(st.integers(0, 19))
    at = draw(st.integers(0, max(len(sent) - 1, 0)))
    if kind == 0:
        return sent[:at]
    if kind == 1:
        return sent[:at] + draw(st.binary(min_size=1, max_size=4)) + sent[at:]
    if kind == 2:
        return b'{"prompt": "a", ' + sent[1:]
    if kind == 3:
        depth = draw(st.sampled_from([30, 33, 2000, 30000]))
        return b'{"prompt": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
    if kind == 4:
        return b'{"prompt": "a", "seed": ' + b"9" * draw(st.sampled_from([18, 19, 40, 5000])) + b"}"
    return sent


def check(asked: Asked, path: str, body: bytes) -> int:
    answer = asked.post(path, body)
    shown = (path, body[:500], answer.text[:500])
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, shown
    assert "Traceback" not in answer.text, shown
    if answer.status_code != 200:
        error = answer.json()["error"]
        message = error["message"]
        assert error.keys() == {"message", "type", "param", "code"}, shown
        assert message, shown
        assert "\n" not in message, shown
        assert len(message) < 1000, shown
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n") or "response.completed" in answer.text, shown
        assert '"error":{' not in answer.text, shown
    else:
        answer.json()
    return answer.status_code


QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def run_fuzz(asked: Asked, examples: int, number: int) -> set[int]:
    seen: list[int] = []

    @seed(number)
    @settings(max_examples=examples, phases=[Phase.generate, Phase.shrink], **QUIET)
    @given(st.sampled_from(asked.paths), bodies())
    def fuzz(path: str, body: bytes) -> None:
        seen.append(check(asked, path, body))

    fuzz()
    assert len(seen) >= examples
    return set(seen)


def test_some_bodies(asked):
    """Of so few perhaps none is right: what hypothesis draws depends on the modules that are imported."""
    assert 400 in run_fuzz(asked, 40, number=0)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, 11))
def test_ten_thousand_bodies(asked, part):
    assert {200, 400} <= run_fuzz(asked, 1_000, number=part)


@settings(max_examples=60, derandomize=True, **QUIET)
@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"]))
def test_any_path_and_method(asked, path, method):
    url = "http://localhost/" + quote(path.encode("utf-8", "replace"))
    answer = asked.loop.run_until_complete(asked.client.request(method, url))
    assert answer.status_code < 500
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.json()["error"]["message"]
