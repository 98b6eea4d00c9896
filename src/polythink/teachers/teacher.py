"""A teacher: anything that responds to a problem. How its failures are named, and how often a call is repeated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from polythink.problems.problem import Problem
from polythink.run.retry import CallError as TeacherError
from polythink.run.retry import RetryPolicy as CallPolicy
from polythink.run.retry import repeated

# teacher(problem, prompt, sample) -> response; `prompt` has the question filled in. It is called from several threads.
Teacher = Callable[[Problem, str, int], str]


class RetryPolicy(CallPolicy):
    """How often a failed call is repeated, and after how many failures in a row the teacher is given up.

    Waits vary by half up and down, so that callers do not return all at once.
    """

    give_up_after: int = Field(50, ge=1)
    """Problems in a row without a response after which the run stops: the teacher is down."""
    give_up_early: int = Field(5, ge=1)
    """The same where no patience helps: requests that are refused, a server that has not answered at all yet."""


@dataclass(frozen=True)
class Reply:
    """The result of asking: a response, or the failure that was left after all retries."""

    trace: str | None
    error: TeacherError | None = None
    retried: tuple[str, ...] = ()  # reasons of the failed calls that were repeated
    sent: float = 0.0  # when the last call began and ended, in seconds of `time.monotonic`
    came: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether the teacher responded, if only with the beginning of a response: then requests are as they should."""
        return self.error is None or (self.error.permanent and not self.error.refused and self.error.text is not None)


def ask(
    teacher: Teacher,
    problem: Problem,
    prompt: str,
    sample: int,
    policy: RetryPolicy,
    stopped: threading.Event,
    reached: threading.Event,
) -> Reply:
    """Call the teacher until it responds, fails for good, or the retries are used up; `stopped` ends a wait.

    Sets `reached` when the teacher answers anything at all.
    """
    tried = repeated(lambda: teacher(problem, prompt, sample), policy, stopped, reached)
    trace = tried.result if tried.error is None else tried.error.text
    return Reply(trace, tried.error, tried.retried, tried.sent, tried.came)
