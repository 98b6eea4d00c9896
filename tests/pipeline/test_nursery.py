"""Stages forked from one process: their status, their log, their lock, and how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polythink.pipeline import schedule
from polythink.pipeline.nursery import LOST, Forked, Nursery
from polythink.run.folder import take_lock


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    found = Nursery({**os.environ}, imports="polythink.pipeline.stage")  # without torch
    yield found
    found.close()


def start(nursery: Nursery, folder: Path, spec: Path) -> Forked:
    """A stage that has the lock of the folder."""
    lock = take_lock(folder / "lock")
    with (folder / "log.txt").open("ab") as log:
        forked = nursery.start(spec, 1, log.fileno(), lock)
    forked.pid  # noqa: B018  until the number is known
    os.close(lock)
    return forked


def hanging(folder: Path) -> Path:
    """A description that is never read to its end."""
    os.mkfifo(folder / "spec.json")
    return folder / "spec.json"


def test_a_stage_ends_with_its_status_and_its_words_in_the_log(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"plan": {"sedd": 1}}')
    forked = start(nursery, tmp_path, tmp_path / "spec.json")
    assert forked.wait(60) == 2
    assert "error: " in (tmp_path / "log.txt").read_text()
    assert os.getsid(0) != forked.pid != os.getpid()


def test_several_stages_run_at_once_and_are_ended_one_by_one(nursery: Nursery, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    one, other = (start(nursery, folder, hanging(folder)) for folder in folders)
    assert one.poll() is other.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.05)
    assert take_lock(folders[0] / "lock") is None  # the stage has it
    os.killpg(other.pid, signal.SIGKILL)
    assert other.wait(60) == -signal.SIGKILL
    assert one.poll() is None
    os.killpg(one.pid, signal.SIGTERM)
    assert one.wait(60) == 128 + signal.SIGTERM  # it ended by itself
    os.close(take_lock(folders[0] / "lock"))


def test_a_stage_outlives_its_experiment(tmp_path: Path) -> None:
    nursery = Nursery({**os.environ}, imports="polythink.pipeline.stage")
    forked = start(nursery, tmp_path, hanging(tmp_path))
    nursery.close()
    assert take_lock(tmp_path / "lock") is None
    os.killpg(forked.pid, signal.SIGKILL)


def test_stages_of_a_lost_server_have_failed(nursery: Nursery, tmp_path: Path) -> None:
    forked = start(nursery, tmp_path, hanging(tmp_path))
    nursery._server.kill()
    assert forked.wait(60) == LOST
    os.killpg(forked.pid, signal.SIGKILL)


def test_what_was_asked_of_a_server_that_was_not_ready_is_not_begun_after_its_parent_has_gone(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(f"import os\nopen({str(tmp_path / 'gate')!r}).read()")  # waits for a writer
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "spec.json").write_text('{"plan": {"sedd": 1}}')
    nursery = Nursery({**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}, imports="slow")
    lock = take_lock(tmp_path / "lock")
    with (tmp_path / "log.txt").open("ab") as log:
        for _ in range(2):
            nursery.start(tmp_path / "spec.json", 1, log.fileno(), lock)
    os.close(lock)
    nursery._socket.close()
    (tmp_path / "gate").write_text("")
    assert nursery._server.wait(60) == 0
    assert (tmp_path / "log.txt").read_text() == ""
    os.close(take_lock(tmp_path / "lock"))


def test_a_stage_can_be_ended_as_soon_as_its_number_is_known(nursery: Nursery, tmp_path: Path) -> None:
    spec = hanging(tmp_path)
    for _ in range(20):
        forked = start(nursery, tmp_path, spec)
        os.killpg(forked.pid, signal.SIGKILL)
        assert forked.wait(60) == -signal.SIGKILL


def test_a_stage_that_has_just_ended_does_not_keep_the_others_from_being_ended(tmp_path, monkeypatch) -> None:
    closed: list[bool] = []
    killpg = os.killpg

    def too_late(pid: int, number: int) -> None:
        killpg(pid, signal.SIGKILL)
        raise ProcessLookupError(3, "No such process")

    jobs = [schedule.Job(name, name * 64, None, {}, tmp_path / name, ("a",)) for name in "01"]
    found = schedule.Schedule(jobs, 2, (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(os, "killpg", too_late)
    monkeypatch.setattr(found._nursery, "close", lambda: closed.append(True))
    running: list[int] = []

    def interrupt(states: dict, notes: dict) -> None:
        running.extend(running.process.pid for running in found._running.values())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.run(interrupt)
    assert (len(running), closed) == (2, [True])
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
