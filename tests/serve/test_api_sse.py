"""Server-sent events without a server: what is written, and that the source is closed however a stream ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from polythink.errors import UserError
from polythink.serve.sse import ClientGone, Stalled, events, unless_gone


class Stream:
    """A stream to a client that one can watch: it may stop reading, or leave."""

    def __init__(self) -> None:
        self.sent, self.closed, self.aborted = [], False, False
        self.left, self.reads = asyncio.Event(), asyncio.Event()
        self.reads.set()

    async def source(self, items):
        try:
            for item in items:
                if callable(item):
                    await item()
                else:
                    yield item
        finally:
            self.closed = True

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.reads.wait()
        self.sent.append(message)

    def abort(self):
        self.aborted = True
        self.left.set()

    async def run(self, items, **settings):
        scope = {"type": "http", "state": {"abort": self.abort}}
        await asyncio.wait_for(events(self.source(items), **settings)(scope, self.receive, self.send), 30)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def test_events_names_and_the_end():
    async def run():
        stream = Stream()
        await stream.run([{"a": "é"}, ("named", {"b": 1})])
        assert stream.text == 'data: {"a":"é"}\n\nevent: named\ndata: {"b":1}\n\ndata: [DONE]\n\n'
        assert stream.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert stream.closed
        without = Stream()
        await without.run([{}], done="")
        assert without.text == "data: {}\n\n"

    asyncio.run(run())


def test_an_error_in_the_middle_is_the_last_event(caplog):
    async def run():
        async def mistaken():
            raise UserError("this is wrong")

        async def broken():
            raise ValueError("a secret")

        for fails, message in ((mistaken, "this is wrong"), (broken, "the server failed")):
            stream = Stream()
            await stream.run([{"a": 1}, fails, {"b": 2}])
            first, last = stream.text.split("\n\n")[:-1]
            assert first == 'data: {"a":1}'
            assert message in json.loads(last.removeprefix("data: "))["error"]["message"]
            assert "secret" not in stream.text
            assert stream.closed

    asyncio.run(run())
    assert "a secret" in caplog.text


def test_a_comment_keeps_a_silent_stream_open():
    async def run():
        stream = Stream()

        async def silent():
            while stream.text.count(": waiting") < 2:
                await asyncio.sleep(0)

        await stream.run([silent, {"a": 1}], keep_alive_s=0.001)
        assert stream.text.startswith(": waiting\n\n: waiting\n\n")
        assert stream.text.endswith('data: {"a":1}\n\ndata: [DONE]\n\n')

    asyncio.run(run())


def test_a_client_that_leaves_or_stops_reading_closes_the_source():
    async def run():
        leaving = Stream()

        async def forever():
            leaving.left.set()
            await asyncio.Event().wait()

        with pytest.raises(ClientGone):
            await leaving.run([{"a": 1}, forever])
        assert leaving.closed
        assert not leaving.aborted

        left = Stream()
        left.left.set()  # before anything is written
        left.reads.clear()
        with pytest.raises(ClientGone):
            await left.run([{"a": 1}])
        assert left.closed
        assert not left.sent

        stalled = Stream()

        async def stops():
            stalled.reads.clear()

        with pytest.raises(Stalled):
            await stalled.run([{"a": 1}, stops, {"b": 1}, {"c": 1}], stalled_s=0.01)
        assert stalled.closed
        assert stalled.aborted
        assert stalled.text == 'data: {"a":1}\n\n'

    asyncio.run(run())


def test_work_for_a_client_that_has_left_is_given_up():
    async def run():
        stream, ended = Stream(), []

        async def work(until):
            try:
                await until
                return 5
            finally:
                ended.append(True)

        assert await unless_gone(stream, work(asyncio.sleep(0))) == 5
        waiting = asyncio.ensure_future(unless_gone(stream, work(asyncio.Event().wait())))
        await asyncio.sleep(0)
        stream.left.set()
        with pytest.raises(ClientGone):
            await waiting
        assert len(ended) == 2

    asyncio.run(run())
