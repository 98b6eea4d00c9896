"""Stages forked from one process: their status, their log, their lock, and how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
