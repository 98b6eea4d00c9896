"""A teacher at an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, or a hosted service.

One call is one request. Each kind of failure has a name (`TeacherError.reason`), by which a cold start counts:

    timeout         no byte for `timeout` seconds, or no whole response within `time_limit`
    connection      refused, reset, broken off in the middle, or not made within 30 seconds
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

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_serializer, field_validator

from polythink.problems.problem import Problem
from polythink.run.address import CHAT, without_password
from polythink.run.config import Config
from polythink.run.http import Connection
from polythink.run.server_words import error_of, no_credit, status_of, words_of
from polythink.teachers.responses import text_of
from polythink.teachers.teacher import TeacherError

if TYPE_CHECKING:
    import httpx

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
    time_limit: float = Field(3600.0, gt=0)
    """Seconds after which a call has failed whose response is not whole, however steadily its bytes come."""
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
        self.config = config
        self._server = Connection(
            config.url, CHAT, "chat endpoint", config.model, key_env=config.key_env, key_header=config.key_header,
            silence=config.timeout, time_limit=config.time_limit, connections=connections,
        )  # fmt: skip
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
        self._server.close()

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        """The response to `prompt`. `TeacherError` if the call failed, `UserError` if no call can succeed."""
        return self._text_of(self._server.post(self._fields | {"messages": [{"role": "user", "content": prompt}]}))

    def _text_of(self, response: httpx.Response) -> str:
        try:
            body = response.json()
            error = error_of(body)
            text = text_of(body["choices"][0]) if not error else ""
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise TeacherError("malformed", self._server.public(words_of(response.text))) from None
        if not error:
            return text
        status, found = status_of(error), json.dumps({"error": error})
        if status or no_credit(found):
            self._server.refused(status or 402, found, response.headers)
        raise TeacherError("malformed", self._server.public(words_of(found)))
