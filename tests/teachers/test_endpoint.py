"""A teacher at a real HTTP endpoint on loopback that answers, fails, stalls and talks nonsense on demand."""

from __future__ import annotations

import re

import pytest

from helpers.coldstart import ask, record
from polythink.errors import UserError
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint, EndpointConfig
from polythink.teachers.teacher import RetryPolicy

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


def test_a_stalled_call_times_out_and_is_repeated(server, tmp_path):
    """However slow the machine: calls that time out although nothing is wrong are repeated as well."""
    answered, silent = record(server, 2)
    server.plan[answered.question] = ["stall"]
    server.plan[silent.question] = ["stall"] * 1000
    patient = RetryPolicy(retries=50, wait=0.01)
    (line,) = ask(server, (answered,), tmp_path / "answered", timeout=0.5, retry=patient)
    assert line["kept"] == 1
    assert line["retried"]["timeout"] >= 1
    (line,) = ask(server, (silent,), tmp_path / "silent", timeout=0.2)
    assert line["rejected"] == {"error: timeout": 1}
    assert line["retried"] == {"timeout": 2}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_no_body_is_too_odd(server, tmp_path, body):
    (problem,) = record(server, 1)
    server.plan[problem.question] = [body] * 3
    (line,) = ask(server, (problem,), tmp_path)
    assert line["rejected"] == {"error: malformed": 1}
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1


# ---- a wrong address, model or key ----

REFUSED = [
    ("status:401", "answers 401 for model 'teacher': the key was not accepted"),
    ("status:403", "answers 403"),
    ("status:404", "answers 404 for model 'teacher': there is no such address or model"),
    ("redirect:http://127.0.0.1:1/v1", "answers 307"),
]


@pytest.mark.slow
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


def test_a_server_that_is_down_ends_the_run(tmp_path):
    chosen = problems("easy", "train", limit=30)
    retry = RetryPolicy(retries=1, wait=0.001, give_up_after=5)
    teacher = Endpoint(EndpointConfig(url="http://127.0.0.1:1/v1", model="m"))
    with pytest.raises(UserError, match="failed for 5 problems in a row, the last time with connection"):
        run_coldstart(chosen, teacher, get_prompt("none"), "strict", tmp_path, retry=retry, concurrency=2)
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
    policy = RetryPolicy(wait=1.0, longest_wait=8.0)
    for failures, middle in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
        drawn = [policy.pause(failures, None) for _ in range(200)]
        assert min(drawn) >= 0.5 * middle
        assert max(drawn) <= 1.5 * middle
        assert max(drawn) - min(drawn) > 0.5 * middle
    assert policy.pause(1, 20.0) == 20.0
