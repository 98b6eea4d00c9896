"""A teacher at an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, or a hosted service.

One call is one request. Each kind of failure has a name (`TeacherError.reason`), by which a cold start counts:

    timeout         no byte for `timeout` seconds
    connection      refused, reset, broken off in the middle, or not made within `CONNECT` seconds
    malformed       status 200, but the body is not JSON or has no text where the response should be
    empty           status 200 and an empty response
    http_N          status N, also as the code of an error under status 200
    truncated       the response reached `max_tokens`
    finish_WORD     `finish_reason` is WORD, neither stop nor length: content_filter, tool_calls, abort, error, ...;
                    `finish_none` where the server does not say how the response ended
    reasoning_only  the content is empty, all text is in `reasoning_content`
    refusal         the content is empty, the message holds a `refusal`

Tried again, and asked again by a resumed run: timeout, connection, malformed, empty, finish_abort, finish_error and
http_N for 408, 409, 425, 429 and 5xx. All others are permanent: another try would cost as much and end in the same way.
What came of a response is kept in all.jsonl, and is never a whole response. Permanent failures other than `truncated`
may be every request's own (a field that the server refuses, say): several in a row stop a cold start (`coldstart.py`).

A wrong address, model or key (401, 403, 404, 405, 410, a redirect) and an account that cannot pay (402, and other
statuses that say so) are a `UserError` at once, in the server's own words.
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from pydantic import Field, field_serializer, field_validator

from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.run.config import Config
from polythink.teachers.address import chat_url, open_client, read_address, without_password
from polythink.teachers.responses import error_of, no_credit, retry_after, status_of, text_of, words_of
from polythink.teachers.teacher import CONNECTION, TeacherError

if TYPE_CHECKING:
    import httpx

__all__ = ["Endpoint", "EndpointConfig", "chat_url", "retry_after"]
CONNECT = 30.0  # seconds for making a connection: a server that needs longer is not there
RETRIED_4XX = (408, 409, 425, 429)
HINTS = {
    401: "the key was not accepted; name the environment variable that holds the right one",
    403: "the key has no access to this model",
    404: "there is no such address or model; the address usually ends in /v1",
    405: "the address is not that of a chat endpoint; it usually ends in /v1",
    407: "the proxy wants a name and a password: http://name:password@host:port",
    410: "the address or model is there no longer",
}
OWN_FIELDS = {
    "stream": "responses are read as a whole",
    "messages": "the prompt is filled in for each problem",
    "model": "it has a key of its own",
    "n": "each request asks for one response; samples says how many there are",
}


class EndpointConfig(Config):
    """Where to ask, and how. The key is never part of a configuration: `key_env` names the variable that holds it."""

    url: str = Field(repr=False)
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str
    """Name of the model on that server."""
    key_env: str | None = None
    """Environment variable that holds the API key; `Basic ...` and `Bearer ...` are sent as given. None: no key."""
    key_header: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """Header that carries the key as it is, such as api-key (Azure); none: Authorization, as a bearer token."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of the teacher."""
    max_tokens: int = Field(4096, ge=1)
    """Longest response in tokens; longer ones are cut off and not kept."""
    timeout: float = Field(600.0, gt=0)
    """Seconds without a byte from the server after which a call has failed."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, such as top_p; null leaves a field out: max_tokens: null."""

    @field_serializer("url")
    def _public_url(self, url: str) -> str:
        return without_password(url)

    @field_validator("model", "extra")
    @classmethod
    def _can_be_sent(cls, value: Any) -> Any:
        for name, why in OWN_FIELDS.items() if isinstance(value, dict) else ():
            if value.get(name) not in (None, False):
                raise ValueError(f"{name} cannot be given here: {why}")
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot be sent as JSON: {error}") from None
        return value


class Endpoint:
    """A teacher: `endpoint(problem, prompt, sample)` sends one request. Thread-safe; close it, or use `with`."""

    def __init__(self, config: EndpointConfig, connections: int = 64):
        import httpx

        self.config = config
        self._address = read_address(config.url)
        key, user = _key(config.key_env), self._address.user
        if key and user:
            raise UserError("the address holds a user and a password, and key_env names a key: give one of them")
        self._secrets = _secrets(key, user, config.url)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # no timeout on waiting for a free connection: that is our own queue, not the server's silence
        timeout = httpx.Timeout(config.timeout, pool=None, connect=min(config.timeout, CONNECT))
        headers = _key_header(key, config.key_header)
        self._client, proxy = open_client(self._address.url, timeout=timeout, limits=limits, headers=headers, auth=user)
        self._where = f"{self._address.shown} through the proxy {proxy}" if proxy else self._address.shown
        body = {"model": config.model, "messages": None, "temperature": config.temperature}
        body |= {"max_tokens": config.max_tokens} | config.extra
        self._fields = {name: value for name, value in body.items() if value is not None or name == "messages"}

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

        messages = [{"role": "user", "content": prompt}]
        try:
            response = self._client.post(self._address.url, json=self._fields | {"messages": messages})
        except httpx.ConnectTimeout:
            limit = min(self.config.timeout, CONNECT)
            raise TeacherError(CONNECTION, f"{self._where}: no connection within {limit:g} seconds") from None
        except httpx.TimeoutException:
            raise TeacherError("timeout", f"no byte for {self.config.timeout:g} seconds") from None
        except httpx.TransportError as error:
            raise TeacherError(CONNECTION, f"{self._where}: {self._words(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TeacherError("malformed", self._words(error)) from None
        if response.status_code != 200:
            self._refused(response.status_code, response.text, response.headers)
        return self._text_of(response)

    def _refused(self, status: int, body: str, headers: httpx.Headers | dict[str, str]) -> NoReturn:
        """Raise what an answer that is an error means."""
        words = self._public(words_of(body))
        flagged = status == 403 and re.search("moderation|flagged", words, re.IGNORECASE)  # this prompt, not the model
        broke = status == 402 or (status >= 400 and no_credit(body))
        if broke or (status in HINTS and not flagged) or 300 <= status < 400:
            hint = HINTS.get(status, "it has moved; give the final address")
            hint = "the account cannot pay for more requests" if broke else hint
            says = f" (the server says: {words})" if words else ""
            raise UserError(f"{self._where} answers {status} for model {self.config.model!r}: {hint}{says}")
        permanent = 400 <= status < 500 and status not in RETRIED_4XX
        wait = retry_after(headers.get("Retry-After"))
        raise TeacherError(f"http_{status}", words, permanent=permanent, refused=permanent, retry_after=wait)

    def _text_of(self, response: httpx.Response) -> str:
        try:
            body = response.json()
            error = error_of(body)
            text = text_of(body["choices"][0]) if not error else ""
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise TeacherError("malformed", self._public(words_of(response.text))) from None
        if not error:
            return text
        status, found = status_of(error), json.dumps({"error": error})
        if status or no_credit(found):
            self._refused(status or 402, found, response.headers)
        raise TeacherError("malformed", self._public(words_of(found)))

    def _words(self, error: Exception) -> str:
        return self._public(str(error) or type(error).__name__)

    def _public(self, text: str) -> str:
        """A message without our key or password."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name} should hold the endpoint's key, but it is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {name} holds characters that no key has")
    return key


def _key_header(key: str | None, name: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if name:
        return {name: key}
    return {"Authorization": key if key.startswith(("Basic ", "Bearer ")) else f"Bearer {key}"}


def _secrets(key: str | None, user: tuple[str, str] | None, url: str) -> list[str]:
    """What a server's message is searched for, the longest first: key and password, in the forms they are sent in."""
    found = [key, key.partition(" ")[2] if key else None]
    if user:
        name, password = user
        found += [f"{name}:{password}", base64.b64encode(f"{name}:{password}".encode()).decode(), password or name]
        found += [quote(password), url.rpartition("@")[0].partition("://")[2].partition(":")[2]]
    return sorted({secret for secret in found if secret}, key=len, reverse=True)
