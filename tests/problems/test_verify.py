"""math-verify in worker processes: what it compares, and what happens to workers that overrun, die or cannot start."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from helpers.grading import boxed, problem
from polythink.errors import UserError
from polythink.problems import verify
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.verify import Worker


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("(x+1)^2", "x^2+2x+1", "right"),
        (r"2\sqrt{2}", r"\sqrt{8}", "right"),
        (r"\{1,2\}", "2, 1", "right"),
        ("3", "x=3", "right"),
        ("1024", "2^{10}", "right"),
        ("(1,2)", "[1,2]", "wrong"),
        ("5", "5x", "wrong"),
        ("3", "3 million", "wrong"),
        ("2", "2 or 3", "wrong"),
        ("528", "52_8", "wrong"),
        ("5", "five or so, give or take", "wrong"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3", "wrong"),
    ],
)
def test_algebra(grader: Grader, reference: str, answer: str, verdict: str):
    assert grader.grade(f"Final Answer: {answer}", problem(reference)).verdict == verdict


def test_off_the_main_thread(grader: Grader):
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.append(grader.grade(boxed("1+x"), problem("x+1"))))
    thread.start()
    thread.join()
    assert grades == [Grade("right", "1+x")]


@pytest.mark.slow
def test_what_overruns_is_killed_and_the_next_answer_is_right():
    hard = ["9^{9^{9^9}}", "(10^8)!"]
    asked = [(boxed(text), problem("x+1")) for text in [*hard, "1+x", "x"]]
    with Grader(workers=2, seconds=0.5) as grader:
        grades = grader.grade_many(asked[:2])
        grader.seconds = 60.0
        grades += grader.grade_many(asked[2:])
        assert [grade.verdict for grade in grades] == ["timeout", "timeout", "right", "wrong"]
        assert [grade.extracted for grade in grades] == [*hard, "1+x", "x"]


def stand_in(folder: Path, monkeypatch, first: str = "", equal: str = "given == reference") -> None:
    """Let workers use, in place of algebra, a module that is quick to start and compares spellings."""
    (folder / "stand_in.py").write_text(f"{first}\ndef equal(given, reference):\n    return {equal}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(verify, "ALGEBRA", "stand_in")


def test_a_worker_that_died_is_replaced(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    with Grader(workers=1) as grader:
        assert grader.equal("1+x", "x+1") is False
        worker = grader._idle.queue[0]
        worker._process.kill()
        worker._process.wait()
        assert grader.equal("2+x", "x+2") is False
        replacement = grader._idle.queue[0]
        assert replacement is not worker
    assert not replacement.alive  # closed with the grader


@pytest.mark.slow
def test_the_start_of_a_worker_is_not_on_the_clock(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch, first="import time; time.sleep(2.5)")
    with Grader(workers=1, seconds=2) as grader:
        assert grader.equal("a+b", "b+a") is False  # the stand-in's answer: it came in time


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_an_interrupt_leaves_no_reply_for_the_next_answer(tmp_path: Path, monkeypatch, error: type[BaseException]):
    def interrupt(*_: object) -> None:
        raise error

    stand_in(tmp_path, monkeypatch, first="import time", equal="given == 'a+b' and not time.sleep(0.5)")
    with Grader(workers=1) as grader:
        assert grader.equal("x+y", "y+x") is False  # the worker is ready
        threads, before = threading.active_count(), signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(error):
                grader.equal("a+b", "b+a")
        finally:
            signal.signal(signal.SIGALRM, before)
        assert threading.active_count() == threads  # nothing is left that kills
        assert grader.equal("x+z", "z+x") is False
        assert grader.equal("a+b", "b+a") is True


def test_a_worker_that_cannot_start_says_so(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch, first="raise ImportError('broken')")
    with Grader(workers=1) as grader, pytest.raises(UserError, match=r"did not start .*problems\.verify"):
        grader.equal("1+x", "x+1")


def test_what_a_library_prints_is_no_reply(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch, first="print('hello')")
    with Grader(workers=1) as grader:
        assert grader.equal("a+b", "b+a") is False


@pytest.mark.slow
def test_a_worker_that_waits_for_work_stays_alive(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    worker = Worker()
    assert worker._exchange(json.dumps(["a", "b", -3]) + "\n", 20) == "false"  # with an alarm after two seconds
    time.sleep(2.3)
    assert worker.alive
    worker.kill()


def test_a_worker_ends_with_its_parent(tmp_path: Path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    worker = Worker()
    worker._process.stdin.close()
    assert worker._process.wait(timeout=30) == 0
    worker._process.stdout.close()
