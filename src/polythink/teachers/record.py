"""What a cold start writes down of its replies, and when it gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from polythink.errors import UserError
from polythink.run.jsonl import JsonlWriter
from polythink.teachers.rows import Job
from polythink.teachers.teacher import Reply, RetryPolicy, TeacherError

Row = dict[str, Any]


class Recorder:
    """Writes the rows of a run. A refusal is held back until it is known whether it is the problem's own.

    It is, once a request that was sent after it has been answered (not: a slow one that was sent before it). What is
    still held when the run ends is written as not permanent, and is asked again.
    """

    def __init__(
        self,
        writer: JsonlWriter,
        rows: dict[tuple, Row],
        row_of: Callable[[Job, Reply], Row],
        policy: RetryPolicy,
        reached: threading.Event,
    ) -> None:
        self.rows, self.whole, self.interrupted = rows, False, False  # whole: all jobs were asked
        self._writer, self._row_of, self._policy, self._reached = writer, row_of, policy, reached
        self._held: list[tuple[Job, Reply]] = []  # refusals, in the order of arrival
        self._refused_in_a_row = self._failed_in_a_row = 0
        self._last: TeacherError | None = None
        self._time = time.monotonic()

    def record(self, job: Job, reply: Reply) -> None:
        """Write the row of a reply, or hold it back, and count failures in a row."""
        row = self._row_of(job, reply)
        if reply.error and reply.error.refused:
            self.rows[job.identity] = row
            self._held.append((job, reply))
            self._refused_in_a_row += 1
            self._last = reply.error
            return
        self._write(row)
        self.rows[job.identity] = row  # not before it is written: the disk may be full
        if reply.answered:
            self._refused_in_a_row = self._failed_in_a_row = 0
            settled = [held for held in self._held if held[1].came <= reply.sent]
            self._held = [held for held in self._held if held[1].came > reply.sent]
            self._settle(settled, permanent=True)
        elif reply.error and not reply.error.permanent:
            self._failed_in_a_row += 1
            self._last = reply.error

    def hopeless(self) -> UserError | None:
        """Why to stop, after too many failures in a row."""
        early, late = self._policy.give_up_early, self._policy.give_up_after
        if self._refused_in_a_row >= early:
            return UserError(
                f"stopped: the teacher refused {self._refused_in_a_row} problems in a row, the last time with "
                f"{self._last}; if every request is refused, change it (a field: --extra NAME=VALUE, or extra: in a "
                "recipe; null leaves one out); those problems will be asked again"
            )
        if self._failed_in_a_row >= (late if self._reached.is_set() else min(early, late)):
            return UserError(
                f"stopped: the teacher failed for {self._failed_in_a_row} problems in a row, the last time with "
                f"{self._last}"
            )
        return None

    def close(self) -> None:
        """Write what is still held.

        If all jobs were asked, fewer than `give_up_early` refusals stay open: of more, a later resumption would think
        that every request is refused.
        """
        early = self._policy.give_up_early
        own = len(self._held) - self._refused_in_a_row if self.whole and len(self._held) >= early else 0
        self._settle(self._held[:own], permanent=True)
        self._settle(self._held[own:], permanent=False)
        self._held = []

    def _settle(self, held: list[tuple[Job, Reply]], permanent: bool) -> None:
        for job, _ in held:
            self.rows[job.identity] |= {"permanent": permanent}
            self._write(self.rows[job.identity])

    def _write(self, row: Row) -> None:
        before, self._time = self._time, time.monotonic()
        self._writer.write(row | {"seconds": self._time - before})
