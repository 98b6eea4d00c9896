"""`polythink data assemble` as a user types it. What it makes of solutions: tests/problems/test_assemble.py."""

from __future__ import annotations

import threading

import pytest

from helpers.chat_server import ChatServer
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import CountdownTeacher, problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.trace.dialect import PARATHINKER
from polythink.trace.parse import parse


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    """Six sequential solutions of each of eight problems, right and wrong ones."""
    out = tmp_path_factory.mktemp("solutions")
    teacher = CountdownTeacher({"sequential": 1}, 0.5, dialect=PARATHINKER)
    run_coldstart(
        problems("hard", "train", 8), teacher, get_prompt("countdown_sequential"), "strict", out, samples=6,
        right_only=False, about_teacher=teacher.about, dialect=PARATHINKER,
    )  # fmt: skip
    return out


def test_solutions_become_numbered_paths(solutions, polythink, tmp_path):
    command = (
        "data", "assemble", solutions, "paths=[2,3]", r"template=\boxed{ {answer} }", "--prompt", "countdown_parallel",
        "--dialect", "parathinker:8", "--seed", 3, "--out", tmp_path / "paths",
    )  # fmt: skip
    status, out, err = polythink(*command)
    assert (status, err) == (0, "")
    assert "| countdown-hard | " in out
    kept = read_jsonl(tmp_path / "paths/kept.jsonl")
    assert len(kept) == 8
    for row in kept:
        (block,) = parse(row["trace"], PARATHINKER).blocks
        assert len(block.paths) in (2, 3)
        assert max(block.labels) <= 8
        assert row["prompt"] == "countdown_parallel"
    assert read_json(tmp_path / "paths/solutions.json")["problems"] == 8
    assert polythink(*command) == (0, out, ""), "a second time it is as it was"


def test_a_teacher_behind_an_endpoint_writes_the_summaries(solutions, polythink, tmp_path):
    answers = {problem.question: problem.answer for problem in problems("hard", "train", 8)}
    server = ChatServer()
    server.otherwise = lambda asked: f"as shown \\boxed{{ {next(a for q, a in answers.items() if q in asked)} }}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        status, _, err = polythink(
            "data", "assemble", solutions, "paths=[2]", "summary=teacher", "--endpoint", server.base, "--model", "m",
            "--out", tmp_path / "paths",
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert (status, err) == (0, "")
    kept = read_jsonl(tmp_path / "paths/kept.jsonl")
    assert len(kept) == 8
    for row in kept:
        assert "as shown" in row["trace"].partition("<summary>")[2]
        assert "Attempt" in next(q["messages"][-1]["content"] for q in server.requests if row["question"] in str(q))


MISTAKES = [
    (("paths=[2,99]",), "99"),
    (("filter=best",), "filter"),
    (("summary=teacher",), "summary=teacher and --endpoint URL go together"),
    (("--endpoint", "http://h/v1", "--model", "m"), "summary=teacher and --endpoint URL go together"),
    (("--model", "m"), "--model and --key-env belong to --endpoint"),
    (("--dialect", "parallel_r1"), "use dialect: parathinker"),
    (("--prompt", "paralell"), "did you mean 'parallel'?"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_are_one_line_and_status_2(solutions, polythink, tmp_path, options, message):
    status, _, err = polythink("data", "assemble", solutions, *options, "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_cold_start(polythink, tmp_path):
    status, _, err = polythink("data", "assemble", tmp_path, "--out", tmp_path / "out")
    assert status == 2
    assert "there is no all.jsonl; run one first, with several samples" in err
