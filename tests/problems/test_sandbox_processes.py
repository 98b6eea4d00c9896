"""The sandbox's processes: what ends them, what comes after them, and several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.hostile import RIGHT, TEST
from polythink.errors import UserError
from polythink.problems import sandbox as module
from polythink.problems.sandbox import Limits, Outcome, Sandbox

PATIENT = 60.0  # seconds that a program may take, on a busy machine


def gone(pids: list[int]) -> bool:
    """Whether they all end, and are reaped, within a minute."""
    until = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def children(pid: int, count: int) -> list[int]:
    """The children of a process, once there are that many."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(found) == count:
            return [int(child) for child in found]
        time.sleep(0.05)
    raise AssertionError("it has no such children")


def test_the_end_of_a_keeper_is_that_of_its_programs():
    outcomes: list[Outcome] = []
    with Sandbox(1, Limits(PATIENT)) as sandbox:
        assert sandbox.run(RIGHT, TEST).passed
        (keeper,) = sandbox._idle.queue
        thread = threading.Thread(target=lambda: outcomes.append(sandbox.run("import time\ntime.sleep(1000)", TEST)))
        thread.start()
        running = children(keeper._process.pid, 2)
        os.kill(keeper._process.pid, signal.SIGKILL)
        thread.join()
        assert gone(running)
        assert outcomes[0].reason == "killed"
        assert sandbox.run(RIGHT, TEST).passed  # by another keeper
        assert not Path(keeper._folder).exists()


def test_the_end_of_the_caller_is_that_of_its_keepers():
    code = (
        "from polythink.problems.sandbox import *\ns = Sandbox(1, Limits(300))\n"
        "t = Test(('assert f(2) == 4',), ('f',))\nassert s.run('def f(x): return 4', t).passed\n"
        "k = s._idle.queue[0]\nprint(k._process.pid, k._folder, flush=True)\ns.run('import time\\ntime.sleep(1000)', t)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    keeper, folder = caller.stdout.readline().split()
    running = children(int(keeper), 2)
    caller.kill()
    caller.communicate()
    assert gone([*running, int(keeper)])
    assert not Path(folder).exists()


def test_a_keeper_that_says_nothing_is_killed(monkeypatch):
    monkeypatch.setattr(module, "SLACK_SECONDS", 0.5)
    with Sandbox(1, Limits(0.5)) as sandbox:
        assert sandbox.run(RIGHT, TEST).passed
        (keeper,) = sandbox._idle.queue
        os.kill(keeper._process.pid, signal.SIGSTOP)
        assert sandbox.run(RIGHT, TEST).reason == "killed"
        assert not keeper.alive


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_an_interrupt_leaves_no_answer_for_the_next_program(error):
    def interrupt(*_: object) -> None:
        raise error

    with Sandbox(1, Limits(PATIENT)) as sandbox:
        assert sandbox.run(RIGHT, TEST).passed
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(error):
                sandbox.run(f"print('first')\nimport time\ntime.sleep(1)\n{RIGHT}", TEST)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert sandbox.run(f"print('second')\n{RIGHT}", TEST).output == "second\n"


def test_a_keeper_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(module, "START", "raise SystemExit(1)")
    with Sandbox(1) as sandbox, pytest.raises(UserError, match="did not start: run"):
        sandbox.run(RIGHT, TEST)


def test_several_at_once_and_again_after_the_end():
    with Sandbox(2, Limits(PATIENT)) as sandbox:
        sources = [f"def f(x):\n    return x * x + {n % 2}" for n in range(12)]
        outcomes: dict[int, Outcome] = {}
        threads = [
            threading.Thread(target=lambda n=n, s=s: outcomes.__setitem__(n, sandbox.run(s, TEST)))
            for n, s in enumerate(sources)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [outcomes[n].passed for n in range(12)] == [True, False] * 6
        keepers = [keeper for keeper in sandbox._idle.queue if keeper]
        sandbox.close()
        assert not any(keeper.alive for keeper in keepers)
        assert sandbox.run(RIGHT, TEST).passed
