"""Jobs in threads: the window, the order of results, and what is recorded when the loop ends early."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from polythink.run.pool import run_jobs


def test_all_jobs_are_recorded_once_and_no_more_than_the_window_is_out():
    out, most, lock = 0, 0, threading.Lock()
    recorded: list[int] = []

    def jobs():
        nonlocal out, most
        for job in range(50):
            with lock:
                out += 1
                most = max(most, out)
            yield job

    def record(job: int, result: int) -> None:
        nonlocal out
        with lock:
            out -= 1
        recorded.append(result)

    done = list(run_jobs(jobs(), lambda job, stopped: 2 * job, record, concurrency=3))
    assert sorted(recorded) == [2 * job for job in range(50)]
    assert sorted(done) == [(job, 2 * job) for job in range(50)]
    assert most <= 6


def test_one_thread_keeps_the_order():
    recorded: list[int] = []
    list(run_jobs(range(30), lambda job, stopped: job, lambda job, result: recorded.append(result), concurrency=1))
    assert recorded == list(range(30))


def test_an_error_of_a_call_is_raised_and_what_came_before_is_recorded():
    recorded: list[int] = []

    def call(job: int, stopped: threading.Event) -> int:
        if job == 5:
            raise ZeroDivisionError("a bug")
        return job

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(run_jobs(range(20), call, lambda job, result: recorded.append(result), concurrency=1))
    assert set(range(5)) <= set(recorded) <= {*range(5), 6}


def test_leaving_the_loop_early_stops_waits_and_starts_no_new_job():
    started: list[int] = []
    waiting, ended = threading.Event(), threading.Event()

    def call(job: int, stopped: threading.Event) -> int:
        started.append(job)
        if job == 1:
            waiting.set()
            stopped.wait()
            ended.set()
        return job

    with closing(run_jobs(range(20), call, lambda job, result: None, concurrency=1)) as done:
        assert next(done) == (0, 0)
        waiting.wait()
    ended.wait()  # forever, were `stopped` not set
    assert started == [0, 1]


def test_a_result_whose_recording_was_interrupted_is_recorded_on_the_way_out():
    recorded: list[int] = []

    def record(job: int, result: int) -> None:
        if job == 3 and 3 not in interrupted:
            interrupted.append(3)
            raise KeyboardInterrupt
        recorded.append(result)

    interrupted: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(range(10), lambda job, stopped: job, record, concurrency=1))
    assert recorded[:4] == [0, 1, 2, 3]
