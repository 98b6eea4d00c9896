"""Calls of a server that may fail: how failures are named, and how often a call is repeated."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import Field

from polythink.run.config import Config

CONNECTION = "connection"  # the reason of a failure in which the server was not reached
Result = TypeVar("Result")


class CallError(Exception):
    """One failed call. `reason` is short and stable, to count by; a `permanent` failure is not tried again.

    `refused`: permanent, but perhaps not this request's own: every other one may fail in the same way.
    `retry_after`: seconds that the server asked us to wait. `text`: the part of a response that did come.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        permanent: bool = False,
        refused: bool = False,
        retry_after: float | None = None,
        text: str | None = None,
    ):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.permanent, self.refused = reason, detail, permanent, refused
        self.retry_after, self.text = retry_after, text


class RetryPolicy(Config):
    """How often a failed call is repeated, and how long to wait: `wait` seconds, then twice as long, and so on.

    Waits vary by half up and down, so that callers do not return all at once.
    """

    retries: int = Field(4, ge=0)
    """How often a failed call is repeated."""
    wait: float = Field(1.0, ge=0)
    """Seconds before the first repetition."""
    longest_wait: float = Field(60.0, ge=0)
    """Seconds at which the doubling stops."""
    longest_asked: float = Field(600.0, ge=0)
    """A server that asks us to wait longer than this many seconds is not asked again in this run."""

    def is_over(self, failures: int, error: CallError, reached: bool = True) -> bool:
        """Whether not to try again after `error`, with `failures` repeated failures before it.

        `reached`: whether the server has answered anything yet; until then, connections are tried three times only.
        """
        retries = self.retries if reached or error.reason != CONNECTION else min(self.retries, 2)
        return error.permanent or failures >= retries or (error.retry_after or 0) > self.longest_asked

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Seconds before the next try, after `failures` failed ones; never less than the server asked for."""
        doublings = min(failures - 1, 1000)  # a float holds no more
        wait = min(self.wait * 2**doublings, self.longest_wait) * random.uniform(0.5, 1.5)
        return max(wait, retry_after or 0.0)


@dataclass(frozen=True)
class Tried(Generic[Result]):
    """What came of a call: a result, or the failure that was left after all retries."""

    result: Result | None
    error: CallError | None = None
    retried: tuple[str, ...] = ()  # reasons of the failed calls that were repeated
    sent: float = 0.0  # when the last call began and ended, in seconds of `time.monotonic`
    came: float = 0.0


def repeated(
    call: Callable[[], Result], policy: RetryPolicy, stopped: threading.Event, reached: threading.Event
) -> Tried[Result]:
    """Call until it succeeds, fails for good, or the retries are used up; `stopped` ends a wait.

    Sets `reached` when the server answers anything at all.
    """
    retried: list[str] = []
    while True:
        sent, result, error = time.monotonic(), None, None
        try:
            result = call()
        except CallError as failure:
            error = failure
        tried = Tried(result, error, tuple(retried), sent, time.monotonic())
        if error is None or error.reason != CONNECTION:
            reached.set()
        if error is None or policy.is_over(len(retried), error, reached.is_set()):
            return tried
        retried.append(error.reason)
        if stopped.wait(policy.pause(len(retried), error.retry_after)):
            return replace(tried, retried=tuple(retried))
