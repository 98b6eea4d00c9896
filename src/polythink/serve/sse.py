"""Answers that end with their client: server-sent events, and a whole answer that is given up when nobody waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from polythink.serve.errors import as_api_error, error_body

if TYPE_CHECKING:
    from polythink.serve.generation import Generation, Update

Result = TypeVar("Result")
DONE = "[DONE]"


class ClientGone(Exception):
    """The client has closed its connection: nobody is left to answer."""


class Stalled(ClientGone):
    """The client takes nothing of what is sent to it."""


def events(
    source: AsyncIterator[Any], keep_alive_s: float = 15.0, stalled_s: float = 60.0, done: str = DONE
) -> EventStream:
    """Stream the objects of `source` as server-sent events; `done` (the literal after the last; "": none) ends them.

    An object is a dict (`data: JSON`), or a pair of an event name and a dict (`event: NAME` before it). `source` must
    be an async generator: it is closed, so that its `finally` runs, when the client disconnects, when it takes nothing
    for `stalled_s` seconds, and at the end. An error in the middle becomes one last event, `{"error": ..}`. The next
    object is asked for only after the last is written: nothing is buffered here but what the socket holds.
    """
    return EventStream(source, keep_alive_s, stalled_s, done)


class EventStream(Response):
    """See `events`."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncIterator[Any], keep_alive_s: float, stalled_s: float, done: str) -> None:
        self.source, self.keep_alive_s, self.stalled_s, self.done = source, keep_alive_s, stalled_s, done
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._first = asyncio.ensure_future(anext(self.source))
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.sleep(0)  # let the source begin: one that has not would be closed without its `finally`
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            stalled = sending.done() and isinstance(sending.exception(), Stalled)
            if stalled and (abort := scope.get("state", {}).get("abort")):
                abort()  # closing would wait until the client has taken what was sent
                await gone
        finally:
            for task in (sending, gone, self._first):
                task.cancel()
            await asyncio.gather(sending, gone, self._first, return_exceptions=True)
            await self.source.aclose()
        if sending.cancelled():
            raise ClientGone
        sending.result()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    await self._write(send, chunk)
        except ClientGone:
            raise
        except Exception as error:
            await self._write(send, _event(_told(error)))
        else:
            if self.done:
                await self._write(send, f"data: {self.done}\n\n".encode())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, chunk: bytes) -> None:
        try:
            async with asyncio.timeout(self.stalled_s):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise Stalled from None

    async def _chunks(self) -> AsyncIterator[bytes]:
        """The events as bytes, and a comment whenever none has come for a while."""
        upcoming: asyncio.Future | None = self._first
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(self.source))
                done, _ = await asyncio.wait({upcoming}, timeout=self.keep_alive_s)
                if not done:
                    yield b": waiting\n\n"
                    continue
                found, upcoming = upcoming, None
                try:
                    event = found.result()
                except StopAsyncIteration:
                    return
                yield _event(event)
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)


def _told(error: Exception) -> dict[str, Any]:
    found = as_api_error(error)
    return error_body(found.status, found.message, found.param, found.code)


def _event(event: Any) -> bytes:
    name, data = event if isinstance(event, tuple) else ("", event)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (f"event: {name}\n" * bool(name) + f"data: {text}\n\n").encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- whole answers ----


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client closes its connection (`ClientGone`)."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def collect(request: Request, generation: Generation) -> list[Update]:
    """All updates of a generation, in their order; it is cancelled when the client has gone or anything fails."""

    async def updates() -> list[Update]:
        return [update async for update in generation]

    try:
        return await unless_gone(request, updates())
    finally:
        generation.cancel()  # nothing where all its traces are done
