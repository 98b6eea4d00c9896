"""What the answers of chat endpoints mean: whole responses, parts of them, reasoning, errors under any status."""

from __future__ import annotations

import json
import re
import time
from email.utils import formatdate

import pytest

from helpers.chat_server import chat
from helpers.coldstart import ask, last_rows, record
from polythink.errors import UserError
from polythink.run.server_words import one_line, retry_after, words_of
from polythink.teachers.rows import check_kept

HALF = "Half a solution \\boxed{4} and th"


def answer(message: dict, finish: str | None = "stop") -> str:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return f"text:{json.dumps({'choices': [choice]})}"


PERMANENT = {
    "content_filter": "finish_content_filter", "tool_calls": "finish_tool_calls",
    "function_call": "finish_function_call", "recitation": "finish_recitation",
    "Very odd: \n\x1b[2J": "finish_very_odd_2j", "": "finish_other",
    None: "finish_none", 5: "finish_5", "\ud83d": "finish_other",
}  # fmt: skip
AGAIN = {"abort": "finish_abort", "error": "finish_error", "ERROR": "finish_error", "cancelled": "finish_cancelled"}


@pytest.mark.parametrize(("finish", "reason"), PERMANENT.items())
def test_a_response_that_did_not_end_by_itself_is_not_kept_and_not_asked_again(server, tmp_path, finish, reason):
    chosen = record(server, 6)
    server.plan[chosen[0].question] = [answer({"content": server.recorded[chosen[0].question]}, finish)]
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert (line["kept"], line["rejected"], line["retried"]) == (5, {f"error: {reason}": 1}, {})
    row = last_rows(tmp_path)[chosen[0].question]
    assert row["trace"] == server.recorded[chosen[0].question], "what came is in all.jsonl"
    assert ask(server, chosen, tmp_path) == [line]
    assert server.asked.total() == 6


@pytest.mark.parametrize(("finish", "reason"), AGAIN.items())
def test_a_response_that_the_server_broke_off_is_asked_again(server, tmp_path, finish, reason):
    chosen = record(server, 2)
    server.plan[chosen[0].question] = [answer({"content": HALF}, finish)]
    server.plan[chosen[1].question] = [answer({"content": HALF}, finish)] * 3
    (line,) = ask(server, chosen, tmp_path)
    assert (line["kept"], line["rejected"], line["retried"]) == (1, {f"error: {reason}": 1}, {reason: 3})
    assert ask(server, chosen, tmp_path)[0]["kept"] == 2


@pytest.mark.parametrize("finish", ["length", "LENGTH", "max_tokens", "MAX_TOKENS", "model_length"])
def test_words_for_a_cut_at_max_tokens(server, tmp_path, finish):
    (problem,) = record(server, 1)
    server.plan[problem.question] = [answer({"content": HALF}, finish)]
    assert ask(server, (problem,), tmp_path)[0]["rejected"] == {"error: truncated": 1}
    assert last_rows(tmp_path)[problem.question]["trace"] == HALF


def test_a_server_that_never_says_how_a_response_ended_stops_the_run(server, tmp_path):
    chosen = record(server, 30)
    server.acts = lambda number, request: 'text:{"choices": [{"message": {"content": "so"}}]}'
    with pytest.raises(UserError, match="the last time with finish_none: finish_reason None"):
        ask(server, chosen, tmp_path)
    assert server.asked.total() <= 5 + 2 * 4
    server.acts = lambda number, request: None
    assert ask(server, chosen, tmp_path)[0]["kept"] == 30


# ---- where the text is ----


def parts(*texts: str) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


def test_text_parts_are_joined_and_thinking_is_left_out(server, tmp_path):
    (problem,) = record(server, 1)
    whole = server.recorded[problem.question]
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    server.plan[problem.question] = [answer({"content": [thinking, *parts(whole[:9], whole[9:])]})]
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1
    assert last_rows(tmp_path)[problem.question]["trace"] == whole


OTHER_CONTENTS = {
    "an image": ({"content": [*parts("so"), {"type": "image_url", "image_url": {}}]}, "malformed"),
    "a part without type": ({"content": [{"text": "so"}]}, "malformed"),
    "a part without text": ({"content": [{"type": "text"}]}, "malformed"),
    "a part's text is a number": ({"content": [{"type": "text", "text": 5}]}, "malformed"),
    "half a character in a part": ({"content": parts("\ud83d")}, "malformed"),
    "a number": ({"content": 5}, "malformed"),
    "no parts": ({"content": []}, "empty"),
    "nothing": ({}, "empty"),
    "null": ({"content": None, "reasoning_content": None}, "empty"),
    "reasoning_content": ({"content": None, "reasoning_content": "hm, 4"}, "reasoning_only"),
    "reasoning": ({"content": "", "reasoning": "hm, 4"}, "reasoning_only"),
    "thoughts and no content": ({"reasoning": "hm, 4"}, "reasoning_only"),
    "a refusal": ({"content": None, "refusal": "I cannot\nhelp"}, "refusal"),
}


@pytest.mark.parametrize(("message", "reason"), OTHER_CONTENTS.values(), ids=OTHER_CONTENTS)
def test_contents_that_are_no_response(server, tmp_path, message, reason):
    chosen = record(server, 4)
    server.plan[chosen[0].question] = [answer(message)] * 3
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert line["rejected"] == {f"error: {reason}": 1}
    row = last_rows(tmp_path)[chosen[0].question]
    assert row["permanent"] == (reason in ("reasoning_only", "refusal"))
    assert row["trace"] == {"reasoning_only": "hm, 4", "refusal": "I cannot\nhelp"}.get(reason)


def test_content_beside_reasoning_is_the_response(server, tmp_path):
    (problem,) = record(server, 1)
    whole = server.recorded[problem.question]
    server.plan[problem.question] = [answer({"content": whole, "reasoning_content": "hm", "refusal": None})]
    assert ask(server, (problem,), tmp_path)[0]["kept"] == 1


def test_a_teacher_whose_text_is_all_reasoning_stops_the_run_before_much_is_paid(server, tmp_path):
    chosen = record(server, 50)
    server.acts = lambda number, request: answer({"content": "", "reasoning_content": "hm"})
    with pytest.raises(UserError, match="reasoning_only: all text is in reasoning_content"):
        ask(server, chosen, tmp_path)
    assert server.asked.total() <= 5 + 2 * 4


# ---- errors ----


def test_an_error_under_status_200_is_an_error(server, tmp_path):
    chosen = record(server, 5)
    for problem, error in zip(
        chosen, ({"code": 429, "message": "slow down"}, {"code": "503", "message": "busy"}, "overloaded"), strict=False
    ):
        server.plan[problem.question] = [f"text:{json.dumps({'error': error})}"]
    server.plan[chosen[3].question] = ['text:{"object": "error", "message": "prompt too long", "code": 400}']
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert line["retried"] == {"http_429": 1, "http_503": 1, "malformed": 1}
    assert line["rejected"] == {"error: http_400": 1}
    assert last_rows(tmp_path)[chosen[3].question]["detail"] == "prompt too long"


def test_an_input_that_is_flagged_is_one_problems_own(server, tmp_path):
    chosen = record(server, 6)
    flagged = {"error": {"code": 403, "message": "This model requires moderation. Your input was flagged"}}
    server.plan[chosen[0].question] = [f"error:403:{json.dumps(flagged)}"]
    (line,) = ask(server, chosen, tmp_path, concurrency=1)
    assert (line["kept"], line["rejected"]) == (5, {"error: http_403": 1})


REFUSED = [
    ('error:404:{"error": {"message": "The model `X` does not exist"}}', "The model `X` does not exist"),
    ('error:404:{"detail": "Not Found"}', "the server says: Not Found"),
    ('error:401:{"object": "error", "message": "Invalid token"}', "the server says: Invalid token"),
    ("error:403:<html>\n<b>Forbidden</b>\n</html>", "the server says: Forbidden"),
    ('error:410:{"error": "gpt-3 was retired"}', "the server says: gpt-3 was retired"),
    ('text:{"error": {"code": 401, "message": "No auth"}}', "the server says: No auth"),
]


@pytest.mark.parametrize(("act", "words"), REFUSED)
def test_a_wrong_address_model_or_key_is_told_in_the_servers_words(server, tmp_path, act, words):
    chosen = record(server, 3)
    server.acts = lambda number, request: act
    with pytest.raises(UserError, match=re.escape(words)) as stopped:
        ask(server, chosen, tmp_path)
    assert "\n" not in str(stopped.value)


def test_the_servers_words():
    assert words_of('{"detail": [{"loc": ["body"], "msg": "field required"}]}') == "field required"
    assert words_of('{"error": {"code": 5}}') == '{"error": {"code": 5}}'
    assert words_of("") == ""
    assert words_of("[" * 100_000).startswith("[[[")
    assert one_line("a\x1b[2J\r\nb\u2028c \ud83d") == "a [2J b c"
    assert len(one_line("x" * 1000)) == 300


def test_nothing_kept_is_told_with_its_reasons(server, tmp_path):
    chosen = record(server, 3)
    server.acts = lambda number, request: f"text:{json.dumps(chat('4'))}"
    table = ask(server, chosen, tmp_path)
    with pytest.raises(UserError, match=r"nothing was kept of 3: answer: unparsed 3; .* holds all that came"):
        check_kept(table, tmp_path)


# ---- Retry-After ----

HEADERS = {
    "12": 12.0, " 7 ": 7.0, "1.5": 1.5, "0": 0.0, "²": None, "٣": None, "-5": None, "+5": None, "1e3": None, "": None,
    "soon": None, "nan": None, "inf": None, "12, 30": None, "9" * 400: 365 * 86400.0, "9" * 5000: 365 * 86400.0,
    "Wed, 21 Oct 2015 07:28:00 GMT": 0.0, "Wed, 21 Oct 2015 07:28:00": 0.0, "Mon, 01 Jan 99999 00:00:00 GMT": None,
    "Fri, 31 Dec 9999 23:59:59 GMT": 365 * 86400.0, "Fri, 31 Dec 9999 23:59:59 -2359": 365 * 86400.0,
    "Wed, 99 Foo 2015 77:88:99 GMT": None,
}  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), HEADERS.items())
def test_retry_after_in_every_form(value, seconds):
    assert retry_after(value) == seconds


def test_retry_after_as_a_date():
    assert retry_after(None) is None
    assert 3000 < retry_after(formatdate(time.time() + 3600, usegmt=True)) <= 3600
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0.0


@pytest.mark.parametrize("value", ["²", "-1", "9" * 400])
def test_no_retry_after_ends_a_run(server, tmp_path, value):
    chosen = record(server, 2)
    server.plan[chosen[0].question] = [f"wait:{value}"]
    assert ask(server, chosen, tmp_path)[0]["kept"] == 2 - (value == "9" * 400)
