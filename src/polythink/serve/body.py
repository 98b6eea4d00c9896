"""The body of a request: read within bounds of bytes and time, strict JSON, checked by a model; 400 in one sentence."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from fastapi import Request
from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from polythink.run.config import Config, first_mistake
from polythink.run.plain import LARGEST, short
from polythink.serve.config import ServeConfig
from polythink.serve.errors import ApiError
from polythink.serve.sse import ClientGone

DEEPEST = 32  # lists and objects in one another
READ_ON = 4  # times the largest body: so much of a larger one is read before its connection is closed
LONGEST_NAME = 200  # characters of a field's
DIGITS = 400  # of a number
Wanted = TypeVar("Wanted", bound="Body")


class Body(Config):
    """Base of the bodies: unknown fields are refused with the nearest name, a text is no number, null means left out.

    `ignored` names fields of OpenAI's that change nothing here, `refused` those that would change the response, each
    with the values that ask for nothing and why any other is refused. Each is documented by its name here.
    """

    model_config = ConfigDict(strict=True)
    ignored: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, (neutral, why) in cls.refused.items():
            if data.get(name) is not None and not any(data[name] is v or data[name] == v for v in neutral):
                raise PydanticCustomError("refused", "{key} is not supported: {why}", {"key": name, "why": why})
        dropped = cls.ignored | cls.refused.keys()
        return {name: value for name, value in data.items() if value is not None and name not in dropped}


def parsed(model: type[Wanted]) -> Callable[[Request], Awaitable[Wanted]]:
    """A dependency (`Depends(parsed(Model))`) that gives the request's body as a `Model`."""

    async def body(request: Request) -> Wanted:
        data = await read_json(request, request.app.state.config)
        try:
            return model.model_validate(data)
        except ValidationError as error:
            key, sentence = first_mistake(error, data)
            raise ApiError(400, sentence, key or None) from None

    return body


async def read_json(request: Request, config: ServeConfig) -> dict[str, Any]:
    """The JSON object that a request holds; `ApiError` for any other body, or one that is too long or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site could send text/plain unasked
        raise ApiError(415, f"the content type is {short(kind)}; send JSON with Content-Type: application/json")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise ApiError(415, f"the content encoding is {short(coding)}; send the body uncompressed")
    data = parse(await read_body(request, config))
    if not isinstance(data, dict):
        raise ApiError(400, f"the body must be a JSON object, got {short(data)}")
    return data


async def read_body(request: Request, config: ServeConfig) -> bytes:
    """The bytes of the body; `ApiError` 413 beyond `max_body_bytes`, 408 where it is too slow.

    What is too much is read a while longer and forgotten: a client that is cut off while it sends sees no answer.
    """
    most = config.max_body_bytes
    too_large = f"the body is larger than {most} bytes, the most that this server takes"
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise ApiError(400, "the header Content-Length must be a whole number", headers=CLOSE)
    if int(length) > READ_ON * most:
        raise ApiError(413, too_large, headers=CLOSE)
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(config.read_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    body += chunk
                elif size > READ_ON * most:
                    raise ApiError(413, too_large, headers=CLOSE)
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        late = f"the body did not arrive within {config.read_timeout_s:g} seconds; send it at once"
        raise ApiError(408, late, headers=CLOSE) from None
    if size > most:
        raise ApiError(413, too_large)
    return bytes(body)


CLOSE = {"Connection": "close"}


# ---- strict JSON ----


def parse(body: bytes) -> Any:
    """JSON as RFC 8259 has it, without what a client cannot have meant: a key twice, NaN, half of a surrogate pair.

    `ApiError` (400) in one sentence, for nesting deeper than 32 levels and for numbers beyond 64 bits too.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start + 1} is {body[error.start]:#04x}") from None
    if not text.strip():
        raise ApiError(400, "the body is empty; send a JSON object")
    _check_depth(text)
    try:
        data = json.loads(
            text, parse_int=_int, parse_float=_float, parse_constant=_constant, object_pairs_hook=_without_duplicates
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"the body is not valid JSON: {error.msg[0].lower()}{error.msg[1:]} at {where}") from None
    if not text.isascii() or "\\u" in text:
        _check_texts(data)
    return data


# a text, to its end or that of the body, or one bracket; possessive, so that no body makes it try again
_PARTS = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def _check_depth(text: str) -> None:
    """Before the parser recurses. Brackets inside texts do not count."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for part in _PARTS.finditer(text):
        first = text[part.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > DEEPEST:
            raise ApiError(400, f"the body nests lists and objects deeper than {DEEPEST} levels; make it flatter")


def _int(digits: str) -> int:
    if len(digits) > DIGITS or abs(int(digits)) > LARGEST:
        raise ApiError(400, f"the number {digits[:20]}... is too large; whole numbers go up to {LARGEST}")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > DIGITS or abs(float(digits)) == float("inf"):
        raise ApiError(400, f"the number {digits[:20]}... is too large or too long; numbers have 64 bits")
    return float(digits)


def _constant(name: str) -> None:
    raise ApiError(400, f"{name} is no JSON number; leave the field out")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if long := next((name for name in found if len(name) > LONGEST_NAME), None):
        raise ApiError(400, f"the field {short(_shown(long))} has a name of {len(long)} characters; no field has that")
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, f"the body has the field {short(_shown(twice))} twice; give it once")
    return found


def _check_texts(data: Any) -> None:
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ApiError(
                400, f"the text {short(_shown(value))} holds half of a surrogate pair, which is no character"
            )


def _shown(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
