"""Errors that every request has stop a cold start and are asked again; those of one problem are that problem's."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from helpers.chat_server import ChatServer
from helpers.coldstart import ask, last_rows, record
from helpers.sweep import sweep
from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import problems
from polythink.run.folder import read_json
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.record import Recorder
from polythink.teachers.rows import Job, check_kept
from polythink.teachers.teacher import Reply, RetryPolicy, TeacherError


def error(number: int, message: str, **more: object) -> str:
    return f"error:{number}:{json.dumps({'error': {'message': message, **more}})}"


def broken_after(server: ChatServer, n: int, act: str) -> None:
    server.acts = lambda number, request: act if number > n else None


NO_CREDIT = [
    error(402, "Insufficient Balance"),
    error(402, "Your trial has ended"),
    error(429, "You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
    error(429, "Your account is suspended", type="exceeded_current_quota_error"),
    error(400, "Your credit balance is too low to access the API", type="invalid_request_error"),
    error(403, "Insufficient account balance to run this model"),
    'error:400:{"code":"Arrearage","message":"Access denied"}',
    'text:{"error":{"code":402,"message":"Insufficient credits"}}',
    'text:{"error":{"code":"insufficient_quota","message":"no more"}}',
    'text:{"choices":[{"message":{"content":"4"},"finish_reason":"error","error":{"code":402,"message":"Top up"}}]}',
]


@pytest.mark.parametrize("act", sweep(NO_CREDIT, NO_CREDIT[::2]))
def test_an_account_without_credit_stops_in_the_servers_words_and_the_rest_is_asked_later(server, tmp_path, act):
    chosen = record(server, 24)
    broken_after(server, 10, act)
    with pytest.raises(UserError, match="the account cannot pay for more requests") as stopped:
        ask(server, chosen, tmp_path)
    assert re.search(r'"message": ?"([^"]*)"', act)[1] in str(stopped.value)
    assert "the responses so far are saved" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert server.asked.total() <= 10 + 2 * 4, "no request is repeated, and no further one is sent"
    assert len(read_jsonl(tmp_path / "kept.jsonl")) == 10
    server.acts = lambda number, request: None
    answered = set(last_rows(tmp_path))
    server.asked.clear()
    assert ask(server, chosen, tmp_path)[0]["kept"] == 24
    assert set(server.asked) == {p.question for p in chosen} - answered
    assert server.asked.total() == 14


def test_a_busy_server_is_no_empty_account(server, tmp_path):
    """Rate limits speak of quotas too: they are waited for."""
    chosen = record(server, 2)
    words = "Requests exceeded the token rate limit of your pricing tier; to increase your quota, see the billing page"
    server.plan[chosen[0].question] = [error(429, words, code="429"), error(429, words, status="RESOURCE_EXHAUSTED")]
    (line,) = ask(server, chosen, tmp_path)
    assert line["kept"] == 2
    assert line["retried"] == {"http_429": 2}


STATUSES = (400, 406, 413, 418, 422, 424, 431, 451, 498, 499)


@pytest.mark.parametrize(
    ("status", "before"),
    sweep(
        [(status, before) for status in STATUSES for before in (0, 10)],
        [*((status, 0) for status in STATUSES[::2]), *((status, 10) for status in STATUSES[1::2])],
    ),
)
def test_a_refusal_of_every_request_stops_and_is_not_remembered(server, tmp_path, status, before):
    chosen = record(server, 24)
    broken_after(server, before, error(status, "field max_tokens\n is not supported"))
    with pytest.raises(UserError, match="refused 5 problems in a row") as stopped:
        ask(server, chosen, tmp_path)
    assert f"http_{status}: field max_tokens is not supported; " in str(stopped.value)
    assert "--extra" in str(stopped.value)
    assert server.asked.total() < before + 5 + 2 * 4
    rows = last_rows(tmp_path)
    assert not any(row["permanent"] for row in rows.values())
    assert sum(not row["error"] for row in rows.values()) == before
    (line,) = read_json(tmp_path / "table.json")
    assert line["kept"] == before
    server.acts = lambda number, request: None
    server.asked.clear()
    assert ask(server, chosen, tmp_path)[0]["kept"] == 24
    assert server.asked.total() == 24 - before
    assert max(server.asked.values()) == 1


def test_few_problems_that_are_all_refused(server, tmp_path):
    """Fewer than it takes to stop: nothing came, so nothing is remembered."""
    chosen = record(server, 3)
    server.acts = lambda number, request: error(400, "no such field")
    table = ask(server, chosen, tmp_path)
    with pytest.raises(UserError, match="nothing was kept of 3: error: http_400 3; the last error: no such field"):
        check_kept(table, tmp_path)
    server.acts = lambda number, request: None
    assert ask(server, chosen, tmp_path)[0]["kept"] == 3


def test_refusals_of_single_problems_are_theirs_and_are_remembered(server, tmp_path):
    chosen = record(server, 40)
    long = chosen[3:7] + chosen[20:24]
    for problem in long:
        server.plan[problem.question] = [error(400, "This model's maximum context length is 4096 tokens")]
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert line["kept"] == 32
    assert line["rejected"] == {"error: http_400": 8}
    server.asked.clear()
    assert ask(server, chosen, tmp_path) == [line]
    assert server.asked.total() == 0
    assert "maximum context length" in last_rows(tmp_path)[long[0].question]["detail"]


def test_refusals_at_the_end_are_asked_again(server, tmp_path):
    """No later answer shows that they are the problems' own."""
    chosen = record(server, 12)
    broken_after(server, 9, error(451, "not in your country"))
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert line["kept"] == 9
    assert line["rejected"] == {"error: http_451": 3}
    server.acts = lambda number, request: None
    server.asked.clear()
    assert ask(server, chosen, tmp_path)[0]["kept"] == 12
    assert set(server.asked) == {p.question for p in chosen[9:]}


def refusing(slow: Problem, refused: tuple[Problem, ...], arrived: threading.Event):
    """A teacher that answers `slow` after the others were refused, whatever was sent first."""
    left = set(refused)

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        if problem == slow:
            arrived.wait()
            return "<think>"
        left.discard(problem)
        if not left:
            threading.Timer(0.3, arrived.set).start()
        raise TeacherError("http_400", "no", permanent=True, refused=True)

    return teacher


def test_a_slow_answer_to_an_earlier_request_does_not_settle_later_refusals(tmp_path):
    slow, *refused = problems("easy", "train", limit=5)
    teacher = refusing(slow, tuple(refused), threading.Event())
    run_coldstart((slow, *refused), teacher, get_prompt("none"), "strict", tmp_path, concurrency=5)
    rows = last_rows(tmp_path)
    assert rows[slow.question]["error"] is None
    assert [rows[p.question]["permanent"] for p in refused] == [False] * 4


@pytest.mark.parametrize(("whole", "n_open"), [(True, 0), (False, 8)])
def test_a_finished_run_leaves_fewer_refusals_open_than_would_stop_the_next(tmp_path, whole, n_open):
    """Eight refusals between answers that were all sent before them, with at most two in a row."""
    jobs = [Job(problem, 0) for problem in problems("easy", "train", limit=12)]
    refusal = TeacherError("http_400", "no", permanent=True, refused=True)
    rows: dict[tuple, dict] = {}
    row_of = lambda job, reply: {"error": reply.error and "http_400", "permanent": bool(reply.error)}  # noqa: E731
    with JsonlWriter(tmp_path / "all.jsonl") as writer:
        recorder = Recorder(writer, rows, row_of, RetryPolicy(), threading.Event())
        for number, job in enumerate(jobs, 1):
            reply = Reply("so", sent=0, came=number) if number % 3 == 0 else Reply(None, refusal, (), number, number)
            recorder.record(job, reply)
            assert recorder.hopeless() is None
        recorder.whole = whole
        recorder.close()
    written = read_jsonl(tmp_path / "all.jsonl")
    assert len(written) == len(rows) == 12
    assert sum(bool(row["error"]) and not row["permanent"] for row in written) == n_open


def test_a_stop_waits_for_responses_that_are_under_way(server, tmp_path):
    chosen = record(server, 20)
    slow, sent = threading.Event(), threading.Event()

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        if problem == chosen[0]:
            sent.set()
            slow.wait()
            return server.recorded[problem.question]
        sent.wait()
        threading.Timer(0.5, slow.set).start()
        raise UserError("the account is empty")

    with pytest.raises(UserError, match="the account is empty; the responses so far are saved"):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, concurrency=2)
    assert set(last_rows(tmp_path)) == {chosen[0].question}


def test_a_teacher_that_fails_for_good_is_not_refusing(tmp_path: Path):
    """Permanent failures of other kinds, as of an assembly with too few solutions, never stop a run."""

    def teacher(problem: Problem, prompt: str, sample: int) -> str:
        raise TeacherError("too few solutions", permanent=True)

    chosen = problems("easy", "train", limit=70)
    (line,) = run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path)
    assert line["rejected"] == {"error: too few solutions": 70}
    assert all(row["permanent"] for row in read_jsonl(tmp_path / "all.jsonl"))
