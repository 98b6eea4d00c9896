"""`polythink data assemble` as a user types it. What it makes of solutions: tests/problems/test_assemble.py."""

from __future__ import annotations

import re
import threading

import pytest

from helpers.chat_server import ChatServer
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import COUNTDOWN, problems
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.assemble import read_solutions
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.rows import rows_so_far
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
from polythink.trace.parse import parse


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    """Six sequential solutions of each of eight problems, right and wrong ones."""
    out = tmp_path_factory.mktemp("solutions")
    teacher = COUNTDOWN.teacher({"sequential": 1}, p_right=0.5, dialect=PARATHINKER)
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


def solved(out, style: str, samples: int, dialect) -> None:
    teacher = COUNTDOWN.teacher({style: 1}, p_right=0.5, dialect=dialect)
    run_coldstart(
        problems("hard", "train", 5), teacher, get_prompt("none"), "strict", out, samples=samples, right_only=False,
        about_teacher=teacher.about, dialect=dialect,
    )  # fmt: skip


@pytest.mark.parametrize("dialect", [PARALLEL_R1, PARATHINKER])
def test_solutions_that_think_in_parallel_become_no_paths(polythink, tmp_path, dialect):
    """A block within a path would be a block within a block, whichever dialect it is written in."""
    solved(tmp_path / "solved", "parallel", 4, dialect)
    status, out, err = polythink("data", "assemble", tmp_path / "solved", "paths=[2]", "--out", tmp_path / "paths")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "can become a path (already parallel 20); ask for solutions that do not think in parallel: --teacher " in err
    assert "--teacher countdown --style sequential (in a recipe: teacher.styles={sequential: 1})" in err
    assert not (tmp_path / "paths").exists()
    assert holds_no_block(tmp_path / "solved", dialect)


def test_the_advice_where_nothing_can_become_a_path_is_one_that_helps(polythink, tmp_path):
    asked, again = tmp_path / "asked", ("data", "assemble", tmp_path / "asked", "paths=[2]", "--out", tmp_path / "out")
    cold = ("data", "coldstart", "countdown-mini:train", "--limit", 4, "--samples", 4, "--teacher", "countdown")
    assert polythink(*cold, "--out", asked)[0] == 0
    advised = re.search("--teacher countdown --style sequential", polythink(*again)[2])
    assert polythink(*cold, *advised[0].split()[2:], "--out", tmp_path / "flat")[0] == 0
    line = ("data", "assemble", tmp_path / "flat", "paths=[2]", r"template=\boxed{ {answer} }")
    assert polythink(*line, "--out", tmp_path / "paths")[0] == 0
    for about, advice in (
        ({"kind": "endpoint"}, "as under --prompt sequential (in a recipe: assemble.prompt=sequential)"),
        ({"kind": "attribution"}, "the attribution teacher writes no others; take the solutions of an endpoint"),
        ({"kind": "assembled"}, "give the folder of the solutions that they were made of"),
    ):
        write_json(asked / "settings.json", read_json(asked / "settings.json") | {"teacher": about})
        status, _, err = polythink(*again)
        assert (status, err.count("\n")) == (2, 1)
        assert advice in err


def holds_no_block(folder, dialect) -> bool:
    solutions, dropped = read_solutions(rows_so_far(folder / "all.jsonl").values(), dialect)
    return dropped == {"already parallel": 20} and not any(found.right or found.wrong for found in solutions)


def test_too_few_solutions_are_no_success(polythink, tmp_path):
    solved(tmp_path / "solved", "sequential", 2, PARATHINKER)
    line = ("data", "assemble", tmp_path / "solved", "paths=[3]", "--out", tmp_path / "paths")
    status, out, err = polythink(*line)
    assert (status, err.count("\n")) == (2, 1)
    assert "error: too few solutions 5" in out
    assert "nothing was kept of 5: error: too few solutions 5; the last error: " in err
    assert "of 3; a cold start with more samples per problem has more" in err
