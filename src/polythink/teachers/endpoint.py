"""A teacher at an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, or a hosted service.

One call is one request. Each kind of failure has a name (`TeacherError.reason`), by which a cold start counts:

    timeout         no byte for `timeout` seconds
    connection      refused, reset, or broken off in the middle
    malformed       status 200, but the body is not JSON or has no text where the response should be
    empty           status 200 and an empty response
    http_N          status N: 408, 409, 425, 429 and 5xx are tried again, other 4xx (a faulty request) are not
    truncated       the response reached `max_tokens`; permanent, the cut text is kept in all.jsonl

A wrong address, model or key (401, 403, 404, 405, a redirect) is a `UserError` at once.
"""

from __future__ import annotations

import datetime
import os
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.run.config import Config
from polythink.teachers.teacher import TeacherError

if TYPE_CHECKING:
    import httpx

RETRIED_4XX = (408, 409, 425, 429)
HINTS = {
    401: "the key was not accepted; name the environment variable that holds the right one",
    403: "the key has no access to this model",
    404: "there is no such address or model; the address usually ends in /v1",
    405: "the address is not that of a chat endpoint; it usually ends in /v1",
}


class EndpointConfig(Config):
    """Where to ask, and how. The key is never part of a configuration: `key_env` names the variable that holds it."""

    url: str
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str
    """Name of the model on that server."""
    key_env: str | None = None
    """Environment variable that holds the API key; no key if left out."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of the teacher."""
    max_tokens: int = Field(4096, ge=1)
    """Longest response in tokens; longer ones are cut off and not kept."""
    timeout: float = Field(600.0, gt=0)
    """Seconds without a byte from the server after which a call has failed."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, such as top_p."""


class Endpoint:
    """A teacher: `endpoint(problem, prompt, sample)` sends one request. Thread-safe; close it, or use `with`."""

    def __init__(self, config: EndpointConfig, connections: int = 64):
        import httpx

        self.config = config
        self._url = chat_url(config.url)
        self._key = _key(config.key_env)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # no timeout on waiting for a free connection: that is our own queue, not the server's silence
        timeout = httpx.Timeout(config.timeout, pool=None)
        self._client = httpx.Client(timeout=timeout, limits=limits, headers=headers)

    @property
    def about(self) -> dict[str, Any]:
        """What its responses depend on: recorded with them. Address, key and timeout are not part of it."""
        return {"kind": "endpoint"} | self.config.model_dump(include={"model", "temperature", "max_tokens", "extra"})

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        """The response to `prompt`. `TeacherError` if the call failed, `UserError` if no call can succeed."""
        import httpx

        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        try:
            response = self._client.post(self._url, json=body | self.config.extra)
        except httpx.TimeoutException:
            raise TeacherError("timeout", f"no byte for {self.config.timeout:g} seconds") from None
        except httpx.TransportError as error:
            raise TeacherError("connection", self._public(str(error) or type(error).__name__)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TeacherError("malformed", self._public(str(error) or type(error).__name__)) from None
        if response.status_code != 200:
            self._refused(response)
        return self._text_of(response)

    def _refused(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in HINTS or 300 <= status < 400:
            hint = HINTS.get(status, "it has moved; give the final address")
            raise UserError(f"{self._url} answers {status} for model {self.config.model!r}: {hint}")
        raise TeacherError(
            f"http_{status}",
            self._public(response.text),
            permanent=400 <= status < 500 and status not in RETRIED_4XX,
            retry_after=retry_after(response.headers.get("Retry-After")),
        )

    def _text_of(self, response: httpx.Response) -> str:
        try:
            choice = response.json()["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise TeacherError("malformed", self._public(response.text)) from None
        if text is not None and not _is_text(text):
            raise TeacherError("malformed", "the content is not a text")
        if finish == "length":
            raise TeacherError("truncated", f"{self.config.max_tokens} tokens", permanent=True, text=text)
        if not text:
            raise TeacherError("empty", f"finish_reason {finish!r}")
        return text

    def _public(self, text: str, longest: int = 200) -> str:
        """The beginning of a server's message, with our key masked."""
        text = text.replace(self._key, "***") if self._key else text
        return text.encode("utf-8", "replace").decode()[:longest]


def chat_url(url: str) -> str:
    """The address to post to, given the base address that servers print (.../v1) or the full one."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"the endpoint must be an address like http://localhost:8000/v1, got {url!r}")
    url = url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def retry_after(value: str | None) -> float | None:
    """Seconds to wait according to a Retry-After header in either form (RFC 9110): seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name} should hold the endpoint's key, but it is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {name} holds characters that no key has")
    return key


def _is_text(content: Any) -> bool:
    """A string that can be written to a file: without lone surrogates, which JSON can contain."""
    if not isinstance(content, str):
        return False
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
