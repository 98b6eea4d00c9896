"""The folder of a cold start: one process at a time, one teacher, prompt and rule, no leftovers of killed runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.chat_server import ChatServer
from helpers.coldstart import AT_ONCE, arguments, ask, command, countdown_run, last_rows, record
from helpers.program import Forked, run_forked
from polythink.errors import UserError
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import COUNTDOWN, problems
from polythink.run.folder import folder_lock, read_json, write_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.assemble import AssembleConfig, run_assembly
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.folder import LOCK, SETTINGS, check_finished, coldstart_lock
from polythink.teachers.rows import rows_so_far
from polythink.teachers.teacher import TeacherError
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
from polythink.trace.production import Dialect, PathTags

# ---- two processes ----


def started(server: ChatServer, out: Path, n: int, answers: int, fresh: bool = False) -> Forked | subprocess.Popen:
    """A cold start of another process that has got so many answers and waits for the others, with all requests out."""
    record(server, n)
    server.answers_before_hold = answers
    if fresh:  # what it logs is seen there alone
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = subprocess.Popen(command(server, out, n), **piped)
    else:
        running = Forked(*arguments(server, out, n))
    asked = min(n, answers + AT_ONCE)
    while running.poll() is None and (
        server.asked.total() < asked or not (out / "all.jsonl").exists() or len(read_jsonl(out / "all.jsonl")) < answers
    ):
        time.sleep(0.02)
    return running


@pytest.mark.slow
def test_a_second_cold_start_in_a_folder_is_refused_and_changes_nothing(server, tmp_path):
    n, out = 30, tmp_path / "cold"
    running = started(server, out, n, 10)
    try:
        with (out / "all.jsonl").open("ab") as file:  # what the other process is about to finish
            file.write(b'{"source": "countdown-easy", "probl')
        before, asked = {path: path.read_bytes() for path in out.iterdir()}, server.asked.total()
        said = f"polythink: another cold start is at work in {out}; wait until it ends, or give another folder\n"
        assert run_forked(*arguments(server, out, n)) == (2, "", said)
        with pytest.raises(UserError, match="another cold start is at work in"):
            run_assembly(out, tmp_path / "paths", AssembleConfig(), get_prompt("none"), PARATHINKER)
        with pytest.raises(UserError, match="another cold start is at work in"):
            countdown_run(out)
        assert not (tmp_path / "paths").exists()
        assert {path: path.read_bytes() for path in out.iterdir()} == before
        assert server.asked.total() == asked
    finally:
        running.kill()
        running.wait(60)


def test_an_experiment_that_holds_the_folder_of_its_stage_does_not_refuse_its_own_cold_start(tmp_path):
    with folder_lock(tmp_path):
        assert countdown_run(tmp_path)[0]["jobs"] == 120
        check_finished(tmp_path)


def test_leftovers_of_a_killed_run_are_deleted_and_nothing_else(tmp_path):
    for name in ("settings.json", "kept.jsonl", "table.json", "solutions.json"):
        (tmp_path / f".{name}.0123abcd.tmp").write_text("{")
    (tmp_path / ".mine.json.0123abcd.tmp").write_text("")
    (tmp_path / "notes.txt").write_text("")
    countdown_run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "settings.json", "kept.jsonl", "table.json", "all.jsonl", LOCK, ".mine.json.0123abcd.tmp", "notes.txt",
    }  # fmt: skip


def test_a_folder_that_is_in_use_is_not_swept(tmp_path):
    with coldstart_lock(tmp_path):
        (tmp_path / ".kept.jsonl.0123abcd.tmp").write_text("")
        with pytest.raises(UserError, match="at work"), coldstart_lock(tmp_path):
            pass
        assert (tmp_path / ".kept.jsonl.0123abcd.tmp").exists()


# ---- other settings ----


def start(
    out: Path,
    *,
    works: bool = True,
    prompt: str = "none",
    rule: str = "strict",
    dialect: Dialect = PARALLEL_R1,
    **about: object,
):
    def teacher(problem, prompt, sample):
        if works:
            return COUNTDOWN.teacher({"parallel": 1})(problem, prompt, sample)
        raise TeacherError("http_400", "no such model", permanent=True, refused=True)

    chosen = problems("mini", "train", limit=2)
    about = {"model": "a", **about}
    return run_coldstart(chosen, teacher, get_prompt(prompt), rule, out, about_teacher=about, dialect=dialect)


CHANGES = [
    ({"model": "b"}, "holds a cold start with teacher.model: 'a' -> 'b' (before -> now)"),
    ({"extra": {"top_p": 0.9}}, "with teacher.extra: not set -> {'top_p': 0.9} (before"),
    ({"rule": "stack"}, "with rule: 'strict' -> 'stack' (before"),
    ({"prompt": "sequential"}, "with prompt.name: 'none' -> 'sequential', prompt.hash: '"),
    ({"model": "b" * 100}, f"teacher.model: 'a' -> '{'b' * 56}... (before"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_other_settings_are_refused_by_the_keys_that_differ(tmp_path, change, message):
    start(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=re.escape(message)):
        start(tmp_path, **change)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_dialect_file_that_was_edited_is_another_setting(tmp_path):
    before = replace(PARALLEL_R1, name="mine", published_check=False)
    now = replace(before, block=(before.block[0], PathTags("<Way>", "</Way>", least=2), *before.block[2:]))
    start(tmp_path, dialect=before)
    assert start(tmp_path, dialect=before)[0]["kept"] == 2
    with pytest.raises(UserError, match=r"holds a cold start with dialect_hash: '\w{16}' -> '\w{16}' \(before -> now"):
        start(tmp_path, dialect=now)
    settings = read_json(tmp_path / "settings.json")
    write_json(tmp_path / "settings.json", {key: x for key, x in settings.items() if key != "dialect_hash"})
    with pytest.raises(UserError, match=r"holds a cold start with dialect_hash: not set -> '\w{16}' \(before -> now"):
        start(tmp_path, dialect=before)


def test_of_a_published_dialect_the_name_is_recorded(tmp_path):
    start(tmp_path)
    assert read_json(tmp_path / "settings.json").keys() == set(SETTINGS)


def test_a_folder_without_a_response_may_be_used_with_other_settings(tmp_path, caplog):
    assert start(tmp_path, works=False, model="WRONG")[0]["rejected"] == {"error: http_400": 2}
    assert start(tmp_path, model="teacher")[0]["kept"] == 2
    assert "the cold start with teacher.model: 'WRONG' -> 'teacher' got no response and is replaced" in caplog.text
    assert len(read_jsonl(tmp_path / "all.jsonl")) == 2
    assert read_json(tmp_path / "settings.json")["teacher"] == {"model": "teacher"}
    with pytest.raises(UserError, match=re.escape("teacher.model: 'teacher' -> 'WRONG'")):
        start(tmp_path, model="WRONG")


def test_a_response_that_was_cut_is_a_response(server, tmp_path):
    chosen = record(server, 2)
    for problem in chosen:
        server.plan[problem.question] = ["cut"]
    ask(server, chosen, tmp_path)
    with pytest.raises(UserError, match="holds a cold start with"):
        ask(server, chosen, tmp_path, rule="stack")


def test_files_of_somebody_else_are_left_alone(tmp_path):
    for content in ([], {"editor": "vi"}):
        write_json(tmp_path / "settings.json", content)
        with pytest.raises(UserError, match=r"settings\.json was not written by a cold start; give another folder"):
            start(tmp_path)
        assert read_json(tmp_path / "settings.json") == content


@pytest.mark.parametrize("row", ['{"a": 1}', "{}"])
def test_rows_of_somebody_else(tmp_path, row):
    (tmp_path / "all.jsonl").write_text(row + "\n")
    with pytest.raises(UserError, match=r"all\.jsonl was not written by a cold start: a row has no field 'source'"):
        start(tmp_path)
    assert (tmp_path / "all.jsonl").read_text() == row + "\n"


def test_a_row_of_no_problem(tmp_path):
    start(tmp_path)
    text = (tmp_path / "all.jsonl").read_text()
    (tmp_path / "all.jsonl").write_text(re.sub(r'"question": "[^"]*"', '"question": ["a"]', text))
    with pytest.raises(UserError, match="a row belongs to no problem"):
        rows_so_far(tmp_path / "all.jsonl")


# ---- Ctrl-C ----


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_command_says_what_is_kept_and_how_to_go_on(server, tmp_path, number, word):
    n, out = 30, tmp_path / "cold"
    running = started(server, out, n, 12, fresh=True)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert err == (
        f"12 of 30 responses are saved in {out}, 12 of them kept; run the same command again (train: with --resume) to "
        f"continue\npolythink: {word}\n"
    )
    assert len(read_jsonl(out / "kept.jsonl")) == len(last_rows(out)) == 12
    server.answers_before_hold = 1_000_000
    asked = set(last_rows(out))
    server.asked.clear()
    status, _, err = run_forked(*arguments(server, out, n))
    assert (status, err) == (0, "")
    assert len(server.asked) == server.asked.total() == n - 12
    assert not asked & set(server.asked)


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_reaches_the_whole_group_of_processes(server, tmp_path):
    n, out = 30, tmp_path / "cold"
    record(server, n)
    server.answers_before_hold = 12
    running = subprocess.Popen(
        command(server, out, n), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while running.poll() is None and (not (out / "all.jsonl").exists() or len(read_jsonl(out / "all.jsonl")) < 12):
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "12 of 30 responses are saved" in err
    assert "Traceback" not in err
