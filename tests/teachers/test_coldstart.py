"""Cold start: what is kept and counted, resuming, and what survives interruptions, a full disk and a kill."""

from __future__ import annotations

import re

import pytest

from helpers.chat_server import ChatServer
from helpers.coldstart import ask, countdown_run, last_rows, record
from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import COUNTDOWN, problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.rows import rejection, show_table
from polythink.teachers.teacher import TeacherError
from polythink.trace.dialect import PARATHINKER

# ---- failures of every kind, and resuming ----

TRANSIENT = ["status:500", "status:503", "status:429", "drop", "half", "text:nonsense", "text:{}", "empty"]
DOWN = ["status:500", "wait:0", "text:[]", "drop", "empty"]
PERMANENT = ["status:400", "cut"]
N, FAILING = 24, len(TRANSIENT) + len(DOWN) + len(PERMANENT)


def with_failures(server: ChatServer) -> tuple[Problem, ...]:
    """`N` problems: for the first the server fails once, then as often as we try, then for good; then it answers."""
    chosen = record(server, N)
    plans = [[act] for act in TRANSIENT] + [[act] * 3 for act in DOWN] + [[act] for act in PERMANENT]
    for problem, acts in zip(chosen, plans, strict=False):
        server.plan[problem.question] = acts
    return chosen


def test_every_failure_is_repeated_and_counted(server, tmp_path):
    chosen = with_failures(server)
    (line,) = ask(server, chosen, tmp_path)
    assert (line["jobs"], line["missing"]) == (N, 0)
    assert line["responses"] == line["well_formed"] == line["right"] == line["kept"] == N - len(DOWN) - len(PERMANENT)
    assert line["rejected"] == {
        "error: http_500": 1, "error: http_429": 1, "error: malformed": 1, "error: connection": 1, "error: empty": 1,
        "error: http_400": 1, "error: truncated": 1,
    }  # fmt: skip
    once, twice = 1, 2
    assert line["retried"] == {
        "http_500": once + twice, "http_503": once, "http_429": once + twice, "connection": 2 * once + twice,
        "malformed": 2 * once + twice, "empty": once + twice,
    }  # fmt: skip
    asked = [server.asked[problem.question] for problem in chosen]
    assert asked == [2] * len(TRANSIENT) + [3] * len(DOWN) + [1] * (N - len(TRANSIENT) - len(DOWN))
    cut = chosen[FAILING - 1].question
    assert last_rows(tmp_path)[cut]["trace"] == server.recorded[cut][: len(server.recorded[cut]) // 2]


def test_a_resumed_run_asks_only_for_failures_that_are_not_permanent(server, tmp_path):
    chosen = with_failures(server)
    ask(server, chosen, tmp_path)
    before = dict(server.asked)
    (line,) = ask(server, chosen, tmp_path)
    assert line["responses"] == line["kept"] == N - len(PERMANENT)
    assert line["rejected"] == {"error: http_400": 1, "error: truncated": 1}
    again = [server.asked[problem.question] - before[problem.question] for problem in chosen]
    assert again == [0] * len(TRANSIENT) + [1] * len(DOWN) + [0] * (N - len(TRANSIENT) - len(DOWN))
    assert len(read_jsonl(tmp_path / "all.jsonl")) == N + len(DOWN)


def test_a_finished_run_asks_nothing(server, tmp_path):
    chosen = record(server, 8)
    table = ask(server, chosen, tmp_path)
    assert ask(server, chosen, tmp_path) == table == read_json(tmp_path / "table.json")
    assert server.asked.total() == len(read_jsonl(tmp_path / "all.jsonl")) == 8


def test_more_samples_and_problems_ask_only_what_is_new(server, tmp_path):
    chosen = record(server, 6)
    ask(server, chosen[:4], tmp_path, samples=2)
    assert server.asked == {p.question: 2 for p in chosen[:4]}
    ask(server, chosen, tmp_path, samples=3)
    assert server.asked == {p.question: 3 for p in chosen}
    ask(server, chosen[:2], tmp_path)  # fewer: only those are kept and counted, the others are not lost
    assert server.asked.total() == 18
    assert [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")] == [p.key for p in chosen[:2]]
    assert len(read_jsonl(tmp_path / "all.jsonl")) == 18


def test_a_corrected_answer_is_another_problem(server, tmp_path):
    """A verdict belongs to the answer that it was given for."""
    (problem,) = record(server, 1)
    wrong = Problem(problem.key, problem.question, "9 + 9 + 9", "countdown", problem.source)
    assert ask(server, (wrong,), tmp_path)[0]["rejected"] == {"answer: wrong": 1}
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1


def test_another_checker_is_another_problem(server, tmp_path):
    """As a corrected answer is: a verdict belongs to the checker that it was given by."""
    (problem,) = record(server, 1)
    other = Problem(problem.key, problem.question, problem.answer, "math", problem.source)
    assert ask(server, (other,), tmp_path)[0]["jobs"] == 1
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1
    assert server.asked.total() == 2
    assert [row["checker"] for row in read_jsonl(tmp_path / "kept.jsonl")] == ["countdown"]


# ---- verdicts ----


def test_what_is_kept_is_valid_and_right(server, tmp_path):
    chosen = record(server, 40, p_right=0.3)
    faults = {
        0: lambda text: text.replace("</Path>", "", 1),
        1: lambda text: text.replace("</Parallel>", ""),
        2: lambda text: re.sub(r"\\boxed\{ (.*) \}", r"it is \1", text),
        3: lambda text: re.sub(r"<Summary>.*</Summary>", "", text),
    }
    for i, fault in faults.items():
        server.recorded[chosen[i].question] = fault(server.recorded[chosen[i].question])
    (line,) = ask(server, chosen, tmp_path)
    rows = last_rows(tmp_path)
    right = {p.key for p in chosen[4:] if server.recorded[p.question].endswith(f"\\boxed{{ {p.answer} }}")}
    assert 10 < len(right) < 36
    kept = read_jsonl(tmp_path / "kept.jsonl")
    assert {row["problem"] for row in kept} == right
    assert line["well_formed"] == 37
    assert line["well_formed_rate"] == 37 / 40
    assert line["kept_rate"] == len(right) / 40
    assert line["parallel"] == 37
    assert line["jobs"] == line["kept"] + sum(line["rejected"].values())
    assert line["rejected"]["answer: unparsed"] == 1
    assert line["rejected"]["answer: wrong"] == 36 - len(right)
    assert sum(count for reason, count in line["rejected"].items() if reason.startswith("form: ")) == 3
    assert all(rows[chosen[i].question]["reason"] != "ok" for i in (0, 1, 3))
    assert kept[0] == {
        "problem": rows[kept[0]["question"]]["problem"],
        "question": kept[0]["question"],
        "answer": rows[kept[0]["question"]]["answer"],
        "prompt": "none",
        "trace": server.recorded[kept[0]["question"]],
        "checker": "countdown",
    }


def test_real_traces(server, tmp_path, shared_data):
    """The recorded pilot traces of a real teacher: all pass the published rule, their final answers are right."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet").to_pylist()
    chosen = tuple(Problem(str(i), row["question"], row["answer"], source="gsm8k") for i, row in enumerate(table))
    server.recorded = {row["question"]: row["trace"] for row in table}
    for i, act in enumerate(["status:500", "status:429", "text:nonsense", "drop"] * 2):
        server.plan[chosen[10 * i].question] = [act]
    (line,) = ask(server, chosen, tmp_path / "reference", rule="reference", concurrency=8)
    assert line["responses"] == line["well_formed"] == 241
    assert line["retried"] == {"http_500": 2, "http_429": 2, "malformed": 2, "connection": 2}
    assert line["parallel"] == 239  # two have no block
    assert line["right"] >= 239
    assert server.asked.total() == 241 + 8
    assert "| gsm8k" in show_table([line])


# ---- any callable is a teacher ----


def test_the_result_does_not_depend_on_threads(tmp_path):
    one = countdown_run(tmp_path / "one", concurrency=1)
    many = countdown_run(tmp_path / "many", concurrency=8)
    assert one == many
    assert (tmp_path / "one/kept.jsonl").read_bytes() == (tmp_path / "many/kept.jsonl").read_bytes()
    assert one[0]["well_formed_rate"] == 1.0
    assert 0.4 < one[0]["kept_rate"] < 0.9
    assert 0.35 < one[0]["parallel_rate"] < 0.65


def test_a_reasoning_models_tags_are_no_block(tmp_path):
    chosen = problems("mini", "train", limit=2)
    traces = dict(zip(chosen, (r"<think> a </think>\boxed{1}", "<think1>a</think1><summary>s</summary>"), strict=True))
    options = {"dialect": PARATHINKER, "right_only": False}
    (line,) = run_coldstart(chosen, lambda p, *_: traces[p], get_prompt("none"), "strict", tmp_path, **options)
    assert (line["well_formed"], line["parallel"]) == (2, 1)


def test_unfiltered_replay_keeps_honest_mistakes(tmp_path):
    (line,) = countdown_run(tmp_path, right_only=False)
    assert line["kept"] == line["well_formed"] == 120
    assert line["right"] < 120
    assert len(read_jsonl(tmp_path / "kept.jsonl")) == 120


MISTAKES = [
    ({"samples": 0}, "samples and concurrency must be 1 or more"),
    ({"concurrency": 0}, "samples and concurrency must be 1 or more"),
    ({"rule": "reference", "dialect": PARATHINKER}, "dialect parathinker has none"),
    ({"rule": "strikt"}, "no validity rule 'strikt'; did you mean 'strict'?"),
    ({"chosen": ()}, "no problems to ask"),
    ({"prompt": "sequential"}, "holds a cold start with prompt"),
    ({"about_teacher": {"model": "b"}}, "holds a cold start with teacher.model: 'a' -> 'b' (before -> now)"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes_are_one_sentence_and_touch_nothing(tmp_path, change, message):
    def run(rule="strict", chosen=None, prompt="none", about_teacher=None, **options):
        teacher = COUNTDOWN.teacher({"parallel": 1})
        chosen = problems("mini", "train", limit=2) if chosen is None else chosen
        about = about_teacher or {"model": "a"}
        return run_coldstart(chosen, teacher, get_prompt(prompt), rule, tmp_path, about_teacher=about, **options)

    run()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=re.escape(message)):
        run(**change)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reasons_of_rejection():
    row = {"kept": False, "error": None, "well_formed": True, "reason": "ok", "verdict": "timeout"}
    assert rejection(row) == "answer: timeout"
    assert rejection(row | {"well_formed": False, "reason": "not_closed"}) == "form: not_closed"
    assert rejection(row | {"error": "http_500"}) == "error: http_500"
    assert rejection(row | {"kept": True}) is None
    assert str(TeacherError("timeout", "no byte")) == "timeout: no byte"
