"""Solutions from a real endpoint on loopback, assembled into traces of numbered paths."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from helpers.chat_server import ChatServer, chat
from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks.countdown import COUNTDOWN, problems
from polythink.run.config import parse_config
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.teachers.assemble import (
    AssembleConfig,
    Assembler,
    Solutions,
    choose,
    read_solutions,
    run_assembly,
    without_thinking_tags,
)
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint, EndpointConfig
from polythink.teachers.rows import show_table
from polythink.teachers.teacher import RetryPolicy, TeacherError
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.parse import parse
from polythink.trace.render import render

SUMS = tuple(Problem(f"sum{i}", f"What is {i} + {i}?", str(2 * i), source="sums") for i in range(6))
QUICK = RetryPolicy(retries=1, wait=0.01)
NONE = get_prompt("none")
CLOSED = "\\boxed{ {answer} }"  # in the words of the countdown tokenizer


def log(text: str) -> str:
    return f"text:{json.dumps(chat(text))}"


def solve(server: ChatServer, out: Path, samples: int = 4) -> None:
    """Plan the server's responses to SUMS, two right and two wrong ones each, and ask for them."""
    for i, problem in enumerate(SUMS):
        right = [f"It is \\boxed{{{2 * i}}}, way {way}" for way in "AB"]
        wrong = [f"It is \\boxed{{{2 * i + 1}}}", "I cannot tell"]
        server.plan[problem.question] = [log(text) for text in (*right, *wrong)]
    server.plan[SUMS[1].question][0] = "status:400"
    server.plan[SUMS[2].question][3] = log("Hm </think3> hm")
    server.plan[SUMS[3].question][1] = server.plan[SUMS[3].question][0]
    server.plan[SUMS[4].question][0] = log("<think>\n4 and 4 is 8\n</think>\n\n\\boxed{8}")
    server.plan[SUMS[5].question] = [log("no idea"), *["status:400"] * 3]
    with Endpoint(EndpointConfig(url=server.base, model="m")) as teacher:
        run_coldstart(
            SUMS, teacher, NONE, "strict", out, samples=samples, right_only=False, concurrency=1, retry=QUICK,
            about_teacher=teacher.about, dialect=PARATHINKER,
        )  # fmt: skip


def blocks_of(out: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for row in read_jsonl(out / "kept.jsonl"):
        (block,) = parse(row["trace"], PARATHINKER).blocks
        found.setdefault(row["problem"], []).append(block)
    return found


def test_solutions_become_traces_and_everything_dropped_is_counted(server, tmp_path):
    solve(server, tmp_path / "solved")
    config = AssembleConfig(paths=3, traces=5)
    (line,) = run_assembly(tmp_path / "solved", tmp_path / "out", config, NONE, PARATHINKER)
    assert line["jobs"] == line["kept"] + sum(line["rejected"].values()) == 30
    assert line["rejected"] == {"error: too few solutions": 5}  # of the last problem
    assert read_json(tmp_path / "out" / "solutions.json") == {
        "problems": 6, "right": 2 + 1 + 2 + 1 + 2, "wrong": 2 + 2 + 1 + 2 + 2 + 1,
        "dropped": {"error: http_400": 4, "tags": 1, "repeated": 1},
    }  # fmt: skip
    assert "too few solutions 5" in show_table([line])
    rows, given = read_jsonl(tmp_path / "out" / "kept.jsonl"), {p.key: p for p in SUMS}
    with Grader(dialect=PARATHINKER) as grader:
        for row in rows:
            problem = given[row["problem"]]
            assert set(row) == {"problem", "question", "answer", "prompt", "trace", "checker"}
            assert render(parse(row["trace"], PARATHINKER), PARATHINKER) == row["trace"]
            (block,) = parse(row["trace"], PARATHINKER).blocks
            assert len(block.paths) == len({path.parts[0] for path in block.paths}) == 3
            assert block.summary.parts[0].strip().endswith(f"\\boxed{{{problem.answer}}}.")
            assert grader.grade(row["trace"], problem).verdict == "right"
    labels = [label for found in blocks_of(tmp_path / "out").values() for block in found for label in block.labels]
    assert len(set(labels)) > 10
    assert set(labels) <= set(range(1, 17))
    (path,) = {p.parts[0] for b in blocks_of(tmp_path / "out")["sum4"] for p in b.paths if "and" in p.parts[0]}
    assert path == "\n4 and 4 is 8\n\n\n\\boxed{8}\n"


def test_resuming_asks_nothing_twice_and_refuses_other_settings(server, tmp_path):
    solve(server, tmp_path / "solved")
    config = AssembleConfig(paths=[2, 3], traces=2)
    run = lambda config, **more: run_assembly(tmp_path / "solved", tmp_path / "out", config, NONE, PARATHINKER, **more)  # noqa: E731
    run(config)
    before = read_jsonl(tmp_path / "out" / "all.jsonl")
    assert run(config)[0]["jobs"] == 12
    assert read_jsonl(tmp_path / "out" / "all.jsonl") == before
    run(config.model_copy(update={"traces": 3}))  # more of the same
    after = read_jsonl(tmp_path / "out" / "all.jsonl")
    assert (len(before), after[: len(before)], len(after)) == (12, before, 18)
    alone = run_assembly(tmp_path / "solved", tmp_path / "other", AssembleConfig(paths=[2, 3], traces=3), NONE,
                         PARATHINKER, concurrency=3)  # fmt: skip
    assert alone[0]["kept"] == len(read_jsonl(tmp_path / "out" / "kept.jsonl"))
    assert (tmp_path / "other" / "kept.jsonl").read_bytes() == (tmp_path / "out" / "kept.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a cold start with teacher"):
        run(config, seed=1)
    rows = read_jsonl(tmp_path / "solved" / "all.jsonl")
    write_jsonl(tmp_path / "solved" / "all.jsonl", rows[:-5])
    with pytest.raises(UserError, match="holds a cold start with teacher"):
        run(config)


def test_the_teacher_writes_the_summary(server, tmp_path):
    solve(server, tmp_path / "solved")
    asked: list[str] = []

    def summarise(question: str) -> str:
        asked.append(question)
        problem = next(p for p in SUMS if p.question in question)
        if problem.key == "sum2":
            return "I see </think1> nothing"
        if problem.key == "sum3":
            return "<think>only thoughts</think>"
        number = int(problem.answer) + (problem.key == "sum4")
        return f"<think>so many</think>\nThey agree.\nFinal Answer: {number}"

    server.otherwise = summarise
    config = AssembleConfig(paths=2, summary="teacher")
    with Endpoint(EndpointConfig(url=server.base, model="m")) as teacher:
        (line,) = run_assembly(
            tmp_path / "solved", tmp_path / "out", config, NONE, PARATHINKER, summariser=teacher, retry=QUICK
        )
    assert line["rejected"] == {
        "error: tags in the summary": 1, "error: empty summary": 1, "answer: wrong": 1, "error: too few solutions": 1,
    }  # fmt: skip
    assert line["retried"] == {"tags in the summary": 1, "empty summary": 1}
    found = blocks_of(tmp_path / "out")
    assert set(found) == {"sum0", "sum1"}
    for key, (block,) in found.items():
        problem = next(p for p in SUMS if p.key == key)
        assert block.summary.parts == (f"They agree.\nFinal Answer: {problem.answer}\n",)
        (question,) = (q for q in asked if f"Problem: {problem.question}" in q)
        attempts = re.findall(r"^Attempt (\d+):\n(.*)$", question, flags=re.MULTILINE)
        stated = {int(label): text for label, text in attempts}
        assert stated == {label: path.parts[0].strip() for label, path in block.numbered()}
        assert list(stated) == sorted(stated)


# ---- the choice of paths ----

MANY = Solutions(SUMS[0], right=[f"r{i}" for i in range(4)], wrong=[f"w{i}" for i in range(4)])


def drawn(n: int = 400, **config) -> list[list[str]]:
    rng = random.Random(0)
    return [choose(AssembleConfig(**config), MANY, rng) for _ in range(n)]


def wrongs(paths: list[str]) -> int:
    return sum(path[0] == "w" for path in paths)


def test_numbers_of_paths_are_drawn_from_the_list():
    sizes = Counter(len(paths) for paths in drawn(paths=[2, 3, 8]))
    assert set(sizes) == {2, 3, 8}
    assert min(sizes.values()) > 90
    assert all(len(set(paths)) == len(paths) for paths in drawn(paths=[2, 8]))
    assert {len(paths) for paths in drawn(paths=[3, 9])} == {3}  # nine there are not


def test_filters_and_shares():
    assert {wrongs(paths) for paths in drawn(paths=3)} == {0, 1, 2, 3}
    assert {wrongs(paths) for paths in drawn(paths=3, filter="right_only")} == {0}
    assert {wrongs(paths) for paths in drawn(paths=4, filter="mixed", wrong=0.25)} == {1}
    assert {wrongs(paths) for paths in drawn(paths=4, filter="mixed", wrong=1)} == {3}, "one is right"
    halves = drawn(paths=3, filter="mixed", wrong=0.5)
    assert {wrongs(paths) for paths in halves} == {1, 2}
    assert 1.4 < sum(map(wrongs, halves)) / len(halves) < 1.6
    first = Counter(paths[0][0] for paths in halves)
    assert min(first.values()) > 150, "right and wrong paths stand in any order"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"paths": 9}, "too few solutions"),
        ({"paths": [5, 6], "filter": "right_only"}, "too few right solutions"),
        ({"paths": 8, "filter": "mixed", "wrong": 0.1}, "too few right solutions"),
        ({"paths": 8, "filter": "mixed", "wrong": 0.7}, "too few wrong solutions"),
    ],
)
def test_too_few(config: dict, reason: str):
    with pytest.raises(TeacherError) as error:
        choose(AssembleConfig(**config), MANY, random.Random(0))
    assert (error.value.reason, error.value.permanent) == (reason, True)


def test_the_synthetic_task_assembles_in_its_own_words(tmp_path):
    teacher = COUNTDOWN.teacher({"sequential": 1}, p_right=0.5)
    chosen = problems("easy", "train", limit=10)
    run_coldstart(chosen, teacher, get_prompt("countdown_sequential"), "strict", tmp_path / "solved", samples=6,
                  right_only=False)  # fmt: skip
    config = AssembleConfig(paths=2, template=CLOSED, labels="ordered")
    prompt = Prompt("mine", "{problem} together :")
    (line,) = run_assembly(tmp_path / "solved", tmp_path / "out", config, prompt, PARATHINKER)
    assert line["kept"] >= 8
    assert {block.labels for blocks in blocks_of(tmp_path / "out").values() for block in blocks} == {(1, 2)}
    row = read_jsonl(tmp_path / "out" / "kept.jsonl")[0]
    assert row["trace"].endswith(f"<summary>\\boxed{{ {row['answer']} }}\n</summary>")
    assert (row["prompt"], row["checker"]) == ("mine", "countdown")


def test_mistakes_in_words(tmp_path):
    config = AssembleConfig()
    for call, message in [
        (lambda: run_assembly(tmp_path, tmp_path / "out", config, NONE, PARATHINKER), "no cold start in"),
        (lambda: Assembler([MANY], config, PARALLEL_R1), "those of dialect parallel_r1 after it"),
        (lambda: Assembler([MANY], config, get_dialect("parathinker:3")), "4 paths are more than the 3 numbers"),
        (lambda: Assembler([MANY], AssembleConfig(summary="teacher"), PARATHINKER), "needs a teacher to ask"),
        (lambda: Assembler([MANY], AssembleConfig(template="{answer}</summary>"), PARATHINKER), "holds a tag"),
        (lambda: parse_config(AssembleConfig, {"template": "so it is"}, "r"), r"template.*must hold \{answer\}"),
        (lambda: parse_config(AssembleConfig, {"paths": 0}, "r"), "paths"),
        (lambda: parse_config(AssembleConfig, {"paths": []}, "r"), "paths"),
        (lambda: parse_config(AssembleConfig, {"filter": "right"}, "r"), "filter"),
        (lambda: parse_config(AssembleConfig, {"wrong": 1.2}, "r"), "wrong"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


def test_a_timeout_is_neither_right_nor_wrong():
    row = {"source": "s", "problem": "p", "question": "q", "answer": "1", "checker": "math", "sample": 0, "error": None}
    rows = [{**row, "trace": "x", "verdict": "timeout"}, {**row, "sample": 1, "trace": " ", "verdict": "unparsed"}]
    (found,), dropped = read_solutions(rows, PARATHINKER)
    assert (found.right, found.wrong, dropped) == ([], [], {"answer: timeout": 1, "empty": 1})
    assert without_thinking_tags("<think>a</think>b") == "ab"
