"""Cold start against a real HTTP endpoint on loopback that answers, fails, stalls and talks nonsense on demand."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.chat_server import CLIENT_TIMEOUT, ChatServer
from polythink.errors import UserError
from polythink.problems.answers import Grade, Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import CountdownTeacher, demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import RetryPolicy, TeacherError, rejection, run_coldstart, show_table
from polythink.teachers.endpoint import Endpoint, EndpointConfig, chat_url, retry_after
from polythink.trace.dialect import PARATHINKER

QUICK = RetryPolicy(retries=2, wait=0.01)


def record(server: ChatServer, n: int, p_right: float = 1.0, level: str = "easy") -> tuple[Problem, ...]:
    """`n` problems whose responses the server knows."""
    chosen = problems(level, "train", limit=n)
    for problem in chosen:
        server.recorded[problem.question] = demonstrate(problem, DemoStyle(p_right=p_right), random.Random(problem.key))
    return chosen


def ask(server: ChatServer, chosen: tuple[Problem, ...], out: Path, **options):
    """One cold start over the endpoint; the recorded server knows bare questions, so the prompt is empty."""
    config = EndpointConfig(
        url=server.base, model="teacher", timeout=CLIENT_TIMEOUT, key_env=options.pop("key_env", None)
    )
    options = {"concurrency": 4, "patience": QUICK} | options
    with Endpoint(config) as teacher:
        return run_coldstart(
            chosen,
            teacher,
            get_prompt("none"),
            options.pop("rule", "strict"),
            out,
            about_teacher=teacher.about,
            **options,
        )


def last_rows(out: Path) -> dict[str, dict]:
    return {row["question"]: row for row in read_jsonl(out / "all.jsonl")}


# ---- failures of every kind, and resuming ----

NONSENSE = {
    "not json": "text:<html>busy</html>",
    "cut json": 'text:{"choices": [{"message": {"content": "9 -',
    "no choices": 'text:{"object": "chat.completion"}',
    "empty choices": 'text:{"choices": []}',
    "no message": 'text:{"choices": [{"index": 0}]}',
    "choices null": 'text:{"choices": null}',
    "a list": "text:[1, 2]",
    "no text": 'text:{"choices": [{"message": {"content": ["parts"]}}]}',
    "lone surrogate": 'text:{"choices": [{"message": {"content": "\\ud83d"}}]}',
    "deep": "text:" + "[" * 100_000,
    "not utf-8": 'text:{"choices": "\udcff"}',
}


def test_every_failure_is_counted_and_asked_again_on_resuming_only(server, tmp_path):
    chosen = record(server, 30)
    questions = [problem.question for problem in chosen]
    transient = ["status:500", "status:503", "status:429", "stall", "drop", "half", "text:nonsense", "text:{}", "empty"]
    for question, act in zip(questions, transient, strict=False):
        server.plan[question] = [act]  # once: repeated at once, then answered
    down = {9: "status:500", 10: "wait:0", 11: "stall", 12: "text:[]", 13: "drop", 14: "empty"}
    for i, act in down.items():
        server.plan[questions[i]] = [act] * 3  # as often as we try
    server.plan[questions[15]] = ["status:400"]
    server.plan[questions[16]] = ["cut"]

    (line,) = ask(server, chosen, tmp_path)
    assert line["jobs"] == 30
    assert line["missing"] == 0
    assert line["responses"] == line["valid"] == line["right"] == line["kept"] == 22
    assert line["rejected"] == {
        "error: http_500": 1,
        "error: http_429": 1,
        "error: timeout": 1,
        "error: malformed": 1,
        "error: connection": 1,
        "error: empty": 1,
        "error: http_400": 1,
        "error: truncated": 1,
    }
    assert line["retried"] == {
        "http_500": 1 + 2,
        "http_503": 1,
        "http_429": 1 + 2,
        "timeout": 1 + 2,
        "connection": 2 + 2,
        "malformed": 2 + 2,
        "empty": 1 + 2,
    }
    asked = dict(server.asked)
    assert [asked[q] for q in questions] == [2] * 9 + [3] * 6 + [1] * 15
    rows = last_rows(tmp_path)
    assert rows[questions[16]]["trace"] == server.recorded[questions[16]][: len(server.recorded[questions[16]]) // 2]

    # again: the six that might work now are asked, nothing else is; the two permanent ones stay as they are
    (line,) = ask(server, chosen, tmp_path)
    assert line["responses"] == line["kept"] == 28
    assert line["rejected"] == {"error: http_400": 1, "error: truncated": 1}
    again = {q: server.asked[q] - asked[q] for q in questions}
    assert [again[q] for q in questions] == [0] * 9 + [1] * 6 + [0] * 15

    # and a third time: nobody is asked
    before = server.asked.total()
    assert ask(server, chosen, tmp_path) == [line]
    assert server.asked.total() == before
    assert read_json(tmp_path / "table.json") == [line]
    assert len(read_jsonl(tmp_path / "all.jsonl")) == 30 + 6


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_no_body_is_too_odd(server, tmp_path, body):
    (problem,) = record(server, 1)
    server.plan[problem.question] = [body] * 3
    (line,) = ask(server, (problem,), tmp_path)
    assert line["rejected"] == {"error: malformed": 1}
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1


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
    assert line["valid"] == 37
    assert line["valid_rate"] == 37 / 40
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
    for i, act in enumerate(["status:500", "status:429", "stall", "text:nonsense", "drop"] * 2):
        server.plan[chosen[10 * i].question] = [act]
    (line,) = ask(server, chosen, tmp_path / "reference", rule="reference", concurrency=8)
    assert line["responses"] == line["valid"] == 241
    assert line["retried"] == {"http_500": 2, "http_429": 2, "timeout": 2, "malformed": 2, "connection": 2}
    assert line["parallel"] == 239  # two have no block
    assert line["right"] >= 239
    assert server.asked.total() == 241 + 10
    assert "| gsm8k" in show_table([line])


# ---- loopback is not the only thing that can go wrong ----

REFUSED = [
    ("status:401", "answers 401 for model 'teacher': the key was not accepted"),
    ("status:403", "answers 403"),
    ("status:404", "answers 404 for model 'teacher': there is no such address or model"),
    ("redirect:http://127.0.0.1:1/v1", "answers 307"),
]


@pytest.mark.parametrize(("act", "message"), REFUSED)
def test_a_wrong_key_address_or_model_stops_at_once_and_loses_nothing(server, tmp_path, act, message):
    chosen = record(server, 20)
    for problem in chosen[6:]:
        server.plan[problem.question] = [act]
    with pytest.raises(UserError, match=re.escape(message)):
        ask(server, chosen, tmp_path, concurrency=1)
    assert len(read_jsonl(tmp_path / "kept.jsonl")) >= 6
    assert server.asked.total() <= 9  # the one that was refused, and those already handed out
    for problem in chosen:
        server.plan.pop(problem.question, None)
    assert ask(server, chosen, tmp_path)[0]["kept"] == 20
    assert all(server.asked[p.question] == 1 for p in chosen[:6])


def test_the_key_is_sent_and_is_written_nowhere(server, tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    chosen = record(server, 3)
    server.plan[chosen[0].question] = ["status:400"]  # this server repeats the key in its error
    server.plan[chosen[1].question] = ["status:500"] * 3
    ask(server, chosen, tmp_path, key_env="TEACHER_KEY")
    assert {request["key"] for request in server.requests} == {"Bearer sk-very-secret"}
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "status 400 for Bearer" in written
    assert "sk-very-secret" not in written + caplog.text


def test_what_is_sent(server, tmp_path):
    (problem,) = record(server, 1)
    config = EndpointConfig(url=server.base + "/", model="m", temperature=0.6, max_tokens=77, extra={"top_p": 0.9})
    with Endpoint(config) as endpoint:
        assert endpoint(problem, problem.question, 0) == server.recorded[problem.question]
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "key": None,
            "model": "m",
            "messages": [{"role": "user", "content": problem.question}],
            "temperature": 0.6,
            "max_tokens": 77,
            "top_p": 0.9,
        }
    ]


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable NO_SUCH_KEY"):
        Endpoint(EndpointConfig(url="http://localhost/v1", model="m", key_env="NO_SUCH_KEY"))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "", "http://", "http://[::1", "/v1"])
def test_a_bad_address_is_refused(url):
    with pytest.raises(UserError, match="must be an address like"):
        chat_url(url)


def test_addresses():
    assert chat_url("http://h:1/v1/") == chat_url("http://h:1/v1/chat/completions") == "http://h:1/v1/chat/completions"


def test_nobody_listens(tmp_path):
    chosen = problems("easy", "train", limit=30)
    patience = RetryPolicy(retries=1, wait=0.001, give_up_after=5)
    teacher = Endpoint(EndpointConfig(url="http://127.0.0.1:1/v1", model="m"))
    with pytest.raises(UserError, match="failed for 5 problems in a row, the last time with connection"):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, patience=patience, concurrency=2)
    (line,) = read_json(tmp_path / "table.json")
    assert 5 <= line["rejected"]["error: connection"] <= 9
    assert line["missing"] == 30 - line["rejected"]["error: connection"]
    assert line["kept_rate"] is None


# ---- waiting ----


def test_retry_after_is_honoured(server, tmp_path):
    chosen = record(server, 2)
    server.plan[chosen[0].question] = ["wait:1"]
    server.plan[chosen[1].question] = ["wait:86400"]  # more than we wait: left for the next run
    (line,) = ask(server, chosen, tmp_path)
    first, second = server.times[chosen[0].question]
    assert second - first >= 1
    assert line["kept"] == 1
    assert line["rejected"] == {"error: http_429": 1}
    assert server.asked[chosen[1].question] == 1
    assert ask(server, chosen, tmp_path)[0]["kept"] == 2


def test_pauses_double_with_jitter_up_to_the_longest():
    patience = RetryPolicy(wait=1.0, longest_wait=8.0)
    for failures, middle in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
        drawn = [patience.pause(failures, None) for _ in range(200)]
        assert min(drawn) >= 0.5 * middle
        assert max(drawn) <= 1.5 * middle
        assert max(drawn) - min(drawn) > 0.5 * middle
    assert patience.pause(1, 20.0) == 20.0


def test_retry_after_as_a_date():
    from email.utils import formatdate

    assert retry_after(None) is None
    assert retry_after("12") == 12.0
    assert retry_after("soon") is None
    assert 25 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0.0


# ---- any callable is a teacher ----


def countdown_run(out: Path, **options):
    chosen = problems("easy", "train", limit=60)
    teacher = CountdownTeacher({"sequential": 1, "parallel": 1}, p_right=0.4)
    prompt = get_prompt("none")
    return run_coldstart(chosen, teacher, prompt, "strict", out, about_teacher=teacher.about, samples=2, **options)


def test_the_result_does_not_depend_on_threads(tmp_path):
    one = countdown_run(tmp_path / "one", concurrency=1)
    many = countdown_run(tmp_path / "many", concurrency=8)
    assert one == many
    assert (tmp_path / "one/kept.jsonl").read_bytes() == (tmp_path / "many/kept.jsonl").read_bytes()
    assert one[0]["valid_rate"] == 1.0
    assert 0.4 < one[0]["kept_rate"] < 0.9
    assert 0.35 < one[0]["parallel_rate"] < 0.65


def test_a_reasoning_models_tags_are_no_block(tmp_path):
    chosen = problems("mini", "train", limit=2)
    traces = dict(zip(chosen, (r"<think> a </think>\boxed{1}", "<think1>a</think1><summary>s</summary>"), strict=True))
    options = {"dialect": PARATHINKER, "right_only": False}
    (line,) = run_coldstart(chosen, lambda p, *_: traces[p], get_prompt("none"), "strict", tmp_path, **options)
    assert (line["valid"], line["parallel"]) == (2, 1)


def test_unfiltered_replay_keeps_honest_mistakes(tmp_path):
    (line,) = countdown_run(tmp_path, right_only=False)
    assert line["kept"] == line["valid"] == 120
    assert line["right"] < 120
    assert len(read_jsonl(tmp_path / "kept.jsonl")) == 120


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
    """Ctrl-C while a slow teacher is being waited for: nothing that has come is lost, nobody waits for the slow one."""
    chosen = problems("easy", "train", limit=8)
    never = threading.Event()

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        if problem == chosen[7]:
            os.kill(os.getpid(), signal.SIGINT)
            never.wait(20)
        return demonstrate(problem, DemoStyle("sequential", p_right=1.0), random.Random(0))

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=1)
    assert time.monotonic() - started < 15
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
                self.interrupted = seventh.wait(20)
                raise KeyboardInterrupt
            return super().grade(text, problem)

    grader = InterruptedGrader()
    with pytest.raises(KeyboardInterrupt):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=4, grader=grader)
    kept = [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")]
    assert 4 <= len(kept) <= 8  # up to four of the first eight were still on their way
    assert kept == [p.key for p in chosen if p.key in kept]
    (line,) = read_json(tmp_path / "table.json")
    assert line["missing"] == 20 - len(kept)


MISTAKES = [
    ({"samples": 0}, "samples and concurrency must be 1 or more"),
    ({"concurrency": 0}, "samples and concurrency must be 1 or more"),
    ({"rule": "reference", "dialect": PARATHINKER}, "dialect parathinker has none"),
    ({"rule": "strikt"}, "no validity rule 'strikt'; did you mean 'strict'?"),
    ({"chosen": ()}, "no problems to ask"),
    ({"prompt": "sequential"}, "holds a cold start with prompt"),
    ({"about_teacher": {"model": "b"}}, "holds a cold start with teacher {'model': 'a'}, now it is {'model': 'b'}"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes_are_one_sentence_and_touch_nothing(tmp_path, change, message):
    def run(rule="strict", chosen=None, prompt="none", about_teacher=None, **options):
        teacher = CountdownTeacher({"parallel": 1})
        chosen = problems("mini", "train", limit=2) if chosen is None else chosen
        about = about_teacher or {"model": "a"}
        return run_coldstart(chosen, teacher, get_prompt(prompt), rule, tmp_path, about_teacher=about, **options)

    run()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=re.escape(message)):
        run(**change)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reasons_of_rejection():
    row = {"kept": False, "error": None, "valid": True, "reason": "ok", "verdict": "timeout"}
    assert rejection(row) == "answer: timeout"
    assert rejection(row | {"valid": False, "reason": "not_closed"}) == "form: not_closed"
    assert rejection(row | {"error": "http_500"}) == "error: http_500"
    assert rejection(row | {"kept": True}) is None
    assert str(TeacherError("timeout", "no byte")) == "timeout: no byte"


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


def command(server: ChatServer, out: Path, n: int) -> list[str]:
    run = "import sys; from polythink.cli.main import main; sys.exit(main())"
    return [
        sys.executable, "-c", run, "data", "coldstart", "countdown-easy:train", "--limit", str(n), "--out", str(out),
        "--endpoint", server.base, "--model", "teacher", "--prompt", "none", "--concurrency", "3",
    ]  # fmt: skip


def test_a_killed_command_resumes_where_it_was(server, tmp_path):
    n = 60
    chosen = record(server, n, p_right=0.6)
    server.delay = 0.05
    out = tmp_path / "killed"
    running = subprocess.Popen(command(server, out, n), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while running.poll() is None and (not (out / "all.jsonl").exists() or len(read_jsonl(out / "all.jsonl")) < 15):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=30)
    assert running.returncode == -signal.SIGKILL
    saved = last_rows(out)
    assert 15 <= len(saved) < n
    with (out / "all.jsonl").open("ab") as file:  # what a kill in the middle of a write leaves behind
        file.write(b'{"source": "countdown-easy", "probl')

    server.delay = 0.0
    server.asked.clear()
    done = subprocess.run(command(server, out, n), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(server.asked) == {p.question for p in chosen} - set(saved)
    assert server.asked.total() == n - len(saved)
    assert last_rows(out).keys() == {p.question for p in chosen}
    ask(server, chosen, tmp_path / "whole")
    assert (out / "kept.jsonl").read_bytes() == (tmp_path / "whole/kept.jsonl").read_bytes()
    assert "countdown-easy" in done.stdout
