"""What is asked of the service and what it answers: one request of several traces, as an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polythink.engine.params import Event, Request, SamplingParams
from polythink.trace.rollout import Rollout


@dataclass(frozen=True)
class Wanted:
    """One trace. `stop` strings and tokens count in main text, and in the summary where the answer stands there.

    They end the trace, whose text is cut before them; its tokens are those that were drawn. A stop string may lie in a
    tag's spelling, but not with `stop_between_tags`, for clients that are not shown tags. With `stream` off there is a
    "done" update alone, and the engine takes less time for the trace.
    """

    request: Request
    params: SamplingParams
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int = 0  # alternatives per sampled token, at most 20
    stream: bool = True
    stop_between_tags: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """One event of one trace.

    `text` is what it completes of its segment, whole characters only: per segment these concatenate to `Segment.text`.
    """

    index: int  # which of the wanted traces
    event: Event
    text: str = ""


STATUS = {"model_error": 500, "timeout": 504, "shutdown": 503}  # HTTP status of each code of `Interrupted`


class Busy(Exception):
    """Not now: the queue is full or the key has reached its limit (`status` 429), or the server is closing (503)."""

    def __init__(self, message: str, retry_after: float, status: int = 429) -> None:
        super().__init__(message)
        self.retry_after, self.status = retry_after, status  # seconds


class Interrupted(Exception):
    """A generation that was accepted could not be finished. `code`: "model_error", "timeout" or "shutdown"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code, self.status = code, STATUS[code]


class Generation:
    """The updates of one request, in the order in which they happen; an async iterator that ends when all traces have.

    Updates wait here until they are read, and decoding does not wait for a reader: a slow one keeps nobody back. What
    waits is bounded by what the request may come to, `max_trace_tokens` updates and a few more for each trace. After
    what had come before it, an interruption (time-out, failure of the model, shut-down) is raised as `Interrupted`.

    For one event loop; not to be read by two tasks at once.
    """

    def __init__(self, wanted: Sequence[Wanted], cancel: Callable[[], None]) -> None:
        self.wanted = tuple(wanted)
        self._cancel = cancel
        self._updates: deque[Update] = deque()
        self._rollouts: dict[int, Rollout] = {}
        self._error: Interrupted | None = None
        self._arrived = asyncio.Event()
        self.finished = False  # nothing more comes
        self.weight_version = ""  # that of the weights with which its traces were drawn, where these were changed

    @property
    def rollouts(self) -> list[Rollout]:
        """Of the traces that are done, in the order in which they were wanted."""
        return [self._rollouts[index] for index in sorted(self._rollouts)]

    def cancel(self) -> None:
        """End all traces before the next step, which frees their rows, keys and values.

        What has been drawn comes as "done" updates with the finish_reason "abort". May be called at any time.
        """
        if not self.finished:
            self._cancel()

    async def aclose(self) -> None:
        """As `cancel`."""
        self.cancel()

    def receive(self, updates: Sequence[Update], finished: bool, error: Interrupted | None) -> None:
        """What has happened, on the event loop."""
        self._updates.extend(updates)
        for update in updates:
            if update.event.rollout is not None:
                self._rollouts[update.index] = update.event.rollout
        self.finished, self._error = finished, error
        self._arrived.set()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Update:
        while not self._updates:
            if self._error is not None:
                raise self._error
            if self.finished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._updates.popleft()
