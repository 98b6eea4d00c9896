"""Cold starts that are interrupted: by a bug, Ctrl-C, a full disk, a kill. What has come is saved, and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time

import pytest

from helpers.coldstart import ask, command, countdown_run, last_rows, record
from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart


def test_a_teacher_with_a_bug_stops_the_run_and_what_came_before_is_saved(tmp_path):
    chosen = problems("easy", "train", limit=20)

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        if problem == chosen[10]:
            raise ZeroDivisionError("a bug")
        return demonstrate(problem, DemoStyle("sequential", p_right=1.0), random.Random(0))

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=1)
    kept = [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")]
    assert kept[:10] == [p.key for p in chosen[:10]]


def test_replies_that_came_are_saved_on_ctrl_c(tmp_path):
    """Ctrl-C while waiting for a slow teacher: no response is lost, and the run ends without that teacher's."""
    chosen = problems("easy", "train", limit=8)
    never = threading.Event()

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        if problem == chosen[7]:
            os.kill(os.getpid(), signal.SIGINT)
            never.wait()
        return demonstrate(problem, DemoStyle("sequential", p_right=1.0), random.Random(0))

    with pytest.raises(KeyboardInterrupt):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=1)
    never.set()
    assert [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")] == [p.key for p in chosen[:7]]


def test_replies_that_are_not_yet_judged_are_saved_on_ctrl_c(tmp_path):
    """Ctrl-C while the first of eight replies is being graded: all that have come are saved, the others are missing."""
    chosen = problems("easy", "train", limit=20)
    asked: list[Problem] = []
    seventh = threading.Event()

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        asked.append(problem)
        if len(asked) > 6:
            seventh.set()
        return demonstrate(problem, DemoStyle("sequential", p_right=1.0), random.Random(0))

    class InterruptedGrader(Grader):
        interrupted = False

        def grade(self, text: str, problem: Problem) -> Grade:
            if not self.interrupted:
                self.interrupted = seventh.wait()
                raise KeyboardInterrupt
            return super().grade(text, problem)

    grader = InterruptedGrader()
    with pytest.raises(KeyboardInterrupt):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=4, grader=grader)
    kept = [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")]
    assert 3 <= len(kept) <= 8  # seven have been asked for, of which up to four were still on their way
    assert kept == [p.key for p in chosen if p.key in kept]
    (line,) = read_json(tmp_path / "table.json")
    assert line["missing"] == 20 - len(kept)


# ---- a full disk, a kill ----


def test_a_full_disk_loses_nothing(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*all\.jsonl"):
            countdown_run(tmp_path / "cold", concurrency=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    saved = read_jsonl(tmp_path / "cold/all.jsonl")
    assert 20 < len(saved) < 60
    assert len(read_jsonl(tmp_path / "cold/kept.jsonl")) == sum(row["kept"] for row in saved)
    countdown_run(tmp_path / "cold", concurrency=1)
    countdown_run(tmp_path / "whole", concurrency=1)
    for name in ("kept.jsonl", "table.json"):
        assert (tmp_path / "cold" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    cold, whole = (read_jsonl(tmp_path / name / "all.jsonl") for name in ("cold", "whole"))
    assert [{**row, "seconds": 0} for row in cold] == [{**row, "seconds": 0} for row in whole]


@pytest.mark.slow
def test_a_killed_command_resumes_where_it_was(server, tmp_path):
    n = 60
    chosen = record(server, n, p_right=0.6)
    server.answers_before_hold = 20  # so that the command cannot end before it is killed
    out = tmp_path / "killed"
    running = subprocess.Popen(command(server, out, n), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while running.poll() is None and (not (out / "all.jsonl").exists() or len(read_jsonl(out / "all.jsonl")) < 15):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=30)
    assert running.returncode == -signal.SIGKILL
    saved = last_rows(out)
    assert 15 <= len(saved) <= 20
    with (out / "all.jsonl").open("ab") as file:  # what a kill in the middle of a write leaves behind
        file.write(b'{"source": "countdown-easy", "probl')

    server.answers_before_hold = 1_000_000
    server.asked.clear()
    done = subprocess.run(command(server, out, n), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(server.asked) == {p.question for p in chosen} - set(saved)
    assert server.asked.total() == n - len(saved)
    assert last_rows(out).keys() == {p.question for p in chosen}
    ask(server, chosen, tmp_path / "whole")
    assert (out / "kept.jsonl").read_bytes() == (tmp_path / "whole/kept.jsonl").read_bytes()
    assert "countdown-easy" in done.stdout
