"""Jobs in threads, results in the caller's thread: a bounded window of futures that an interruption does not lose."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from polythink.errors import UserError

log = logging.getLogger(__name__)
PATIENCE = 60
Job, Result = TypeVar("Job"), TypeVar("Result")


def run_jobs(
    jobs: Iterable[Job],
    call: Callable[[Job, threading.Event], Result],
    record: Callable[[Job, Result], None],
    concurrency: int,
) -> Iterator[tuple[Job, Result]]:
    """Call `call(job, stopped)` in `concurrency` threads; yield each job and its result once `record` has taken it.

    At most twice as many jobs as threads are out at a time: a kill loses no more. `jobs` is asked for more after each
    result, and may have some again after it had none: what to ask next may depend on what has come. However the loop
    ends (Ctrl-C, an error of `call`, which is raised here), `stopped` is set and the results that are there are
    recorded; close the iterator to make sure of it. A `UserError` (of a call, or thrown into the iterator) first waits
    up to `PATIENCE` seconds for the calls under way: their results have been paid for. The threads are daemons, not an
    executor's, which would keep an interrupted process waiting for a slow call.
    """
    jobs, stopped = iter(jobs), threading.Event()
    todo: SimpleQueue[tuple[Future, Job] | None] = SimpleQueue()
    out: dict[Future, Job] = {}  # handed out and not recorded yet

    def hand_out(n: int) -> None:
        for job in islice(jobs, n):
            future: Future = Future()
            out[future] = job
            todo.put((future, job))

    def work() -> None:
        while item := todo.get():
            future, job = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call(job, stopped))
                except BaseException as error:  # raised again where the result is read
                    future.set_exception(error)

    for _ in range(concurrency):
        threading.Thread(target=work, daemon=True).start()
    try:
        while hand_out(2 * concurrency - len(out)) or out:
            wait(out, timeout=0.5, return_when=FIRST_COMPLETED)  # a wait without end could miss Ctrl-C
            for future in [future for future in out if future.done()]:
                record(out[future], future.result())
                yield out.pop(future), future.result()
    except UserError:
        stopped.set()
        under_way = [future for future in out if not future.cancel()]
        if wait(under_way, timeout=1).not_done:
            log.warning("stopping; waiting up to %d seconds for responses that are under way", PATIENCE)
            wait(under_way, timeout=PATIENCE)
        raise
    finally:
        stopped.set()
        for _ in range(concurrency):
            todo.put(None)
        for future, job in out.items():
            if not future.cancel() and future.done() and not future.exception():
                record(job, future.result())
