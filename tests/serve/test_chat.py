"""`/v1/chat/completions` of a real server process, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
from itertools import groupby

import httpx
import openai
import pytest

from helpers.followed import thinker
from polythink.trace.scan import scan

BLOCK = {"paths": 3, "fork_at": 4, "max_blocks": 1}
SEED = 56  # with which the trace forks, joins and ends by itself
ASKED = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture(scope="module")
def lm():
    return thinker()


def ask(client, messages=ASKED, *, seed=SEED, extra=BLOCK, **fields):
    return client.chat.completions.create(model="tiny", messages=messages, seed=seed, extra_body=extra, **fields)


def joined(chunks, index=0):
    """What the deltas of a choice concatenate to, and its last words."""
    found = {"content": "", "reasoning": "", "reasoning_content": "", "logprobs": [], "events": []}
    for choice in (choice for chunk in chunks for choice in chunk.choices if choice.index == index):
        delta = choice.delta.model_dump(exclude_none=True)
        for name in ("content", "reasoning", "reasoning_content"):
            found[name] += delta.get(name, "")
        found["logprobs"] += choice.logprobs.content if choice.logprobs else []
        found["events"] += [delta["polythink"]] if "polythink" in delta else []
        found["finish_reason"], found["token_ids"] = choice.finish_reason, getattr(choice, "token_ids", None)
    return found


# ---- streamed and whole ----


@pytest.mark.parametrize(
    "extra",
    [
        BLOCK,
        pytest.param({"mode": "sequential"}, marks=pytest.mark.long),
        pytest.param({"max_blocks": 2}, marks=pytest.mark.long),
        pytest.param({**BLOCK, "mode": "reread"}, marks=pytest.mark.long),
    ],
)
def test_the_deltas_concatenate_to_the_whole_response(client, extra):
    extra = {**extra, "return_token_ids": True, "return_events": True}
    usual = {"seed": 1, "n": 2, "extra": extra, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, **usual)
    *chunks, last = ask(client, **usual, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage
    assert last.choices == []
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {last.id}
    for choice in whole.choices:
        told = joined(chunks, choice.index)
        assert told["content"] == choice.message.content
        assert told["reasoning"] == told["reasoning_content"] == (choice.message.reasoning or "")
        assert choice.message.reasoning == choice.message.reasoning_content
        assert (told["finish_reason"], told["token_ids"]) == (choice.finish_reason, choice.token_ids)
        assert told["logprobs"] == choice.logprobs.content
        assert_events(told["events"], choice)


def assert_events(events, choice):
    """Each token once; what they tell of a segment is its text."""
    tokens = [event for event in events if event["event"] == "token"]
    assert sorted(event["token_id"] for event in tokens) == sorted(choice.token_ids)
    drawn = [s for s in choice.polythink["segments"] if s["kind"] != "copy" and s["text"]]
    by_segment = {}
    for event in tokens:
        by_segment[event["segment"]] = by_segment.get(event["segment"], "") + event["text"]
    assert sorted(filter(None, by_segment.values())) == sorted(segment["text"] for segment in drawn)
    assert events[-1]["event"] == "done"
    assert events[-1]["text"] == choice.polythink["text"]


def test_reasoning_comes_whole_before_content(client):
    for seed in (SEED, 0, 1):
        deltas = [c.choices[0].delta.model_dump(exclude_none=True) for c in ask(client, seed=seed, stream=True)]
        kinds = ["reasoning" if "reasoning" in d else "content" for d in deltas[1:] if d]
        assert [kind for kind, _ in groupby(kinds)] in (["reasoning", "content"], ["reasoning"], ["content"])


def test_what_is_shown_is_the_trace_without_its_tags(client, lm):
    choice = ask(client, extra={**BLOCK, "return_events": True}).choices[0]
    text = choice.polythink["text"]
    words = [token.text for token in scan(text, lm.dialect) if token.kind == "text"]
    shown = (choice.message.reasoning + choice.message.content).replace("(cut)", "").replace("Summary:", "")
    for i in (1, 2, 3):
        assert shown.count(f"Path {i}:") == 1
        shown = shown.replace(f"Path {i}:", "")
    assert "".join(shown.split()) == "".join("".join(words).split())


# ---- log-probabilities ----


def test_the_contents_logprobs_are_those_of_its_tokens(client):
    choice = ask(client, extra={**BLOCK, "return_events": True, "return_token_ids": True}, logprobs=True,
                 top_logprobs=3).choices[0]  # fmt: skip
    last = choice.polythink["segments"][-1]
    sampled = [x for x, drawn in zip(last["logprobs"], last["sampled"], strict=True) if drawn]
    told = choice.logprobs.content
    assert len(told) > 2
    assert [x for x in (t.logprob for t in told) if x not in sampled] == []
    for token in told:
        tops = [t.logprob for t in token.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert token.logprob <= tops[0] + 1e-6
        assert bytes(token.bytes).decode(errors="replace") == token.token
    with pytest.raises(openai.BadRequestError, match="set logprobs: true"):
        ask(client, top_logprobs=3)


# ---- width, budgets, stops ----


def test_the_effort_is_the_width(client):
    """The server's widths, and over them those of the model's settings; paths that are asked for win."""
    extra = {"fork_at": 0, "max_blocks": 1, "max_path_tokens": 2}
    for effort, paths in {"none": 0, "minimal": 1, "low": 2, "medium": 5, "high": 8}.items():
        response = ask(client, extra=extra, reasoning_effort=effort)
        reasoning = response.choices[0].message.reasoning or ""
        assert [f"Path {i}:" in reasoning for i in range(1, 10)] == [i <= paths for i in range(1, 10)]
        details = response.usage.completion_tokens_details
        assert (details.reasoning_tokens > 0) == (paths > 0)
        assert details.critical_path_tokens <= response.usage.completion_tokens
    for effort in ("high", "none"):
        response = ask(client, extra={**extra, "paths": 3}, reasoning_effort=effort)
        assert "Path 3:" in response.choices[0].message.reasoning
        assert "Path 4:" not in response.choices[0].message.reasoning


def test_a_thinking_budget_closes_paths_and_is_counted(client):
    response = ask(client, extra={**BLOCK, "thinking_budget": 2, "return_events": True})
    segments = response.choices[0].polythink["segments"]
    cut = [s for s in segments if s["kind"] == "path" and s["finish_reason"] == "length"]
    assert len(cut) == response.usage.completion_tokens_details.cut_paths > 0
    assert all(s["text"].endswith("</Path>") and s["tokens"] <= 4 for s in cut)
    assert response.choices[0].message.reasoning.count("(cut)") == len(cut)


def test_choices_are_samples_of_one_request(client):
    three = ask(client, n=3).choices
    assert len({choice.message.reasoning for choice in three}) == 3
    assert ask(client).choices[0].message == three[0].message


@pytest.mark.long
def test_content_ends_before_a_stop_string_and_thinking_does_not(client):
    stops = 0
    for seed in (SEED, *range(7)):
        plain = ask(client, seed=seed).choices[0].message
        letters = (c for c in plain.content[1:] if c != "\ufffd" and not c.isspace() and c not in "</>ParthelSumy")
        if not (letter := next(letters, "")):
            continue
        stopped = ask(client, seed=seed, stop=[letter]).choices[0]
        assert stopped.message.reasoning == plain.reasoning
        assert stopped.message.content == plain.content.partition(letter)[0].rstrip()
        assert (stopped.finish_reason, stopped.stop_reason) == ("stop", letter)
        assert joined(ask(client, seed=seed, stop=letter, stream=True))["content"] == stopped.message.content
        stops += 1
        if stops == 2:
            break
    assert stops == 2


def test_stop_strings_are_no_part_of_tags_that_are_not_shown(client):
    plain = ask(client).choices[0].message
    assert "Path 1:" in plain.reasoning
    for stop in ("Parallel>", "<Parallel>", "<Sum"):
        stopped = ask(client, stop=[stop]).choices[0]
        assert (stopped.message.reasoning, stopped.message.content) == (plain.reasoning, plain.content)
        assert stopped.stop_reason is None
        streamed = joined(ask(client, stop=stop, stream=True))
        assert (streamed["reasoning"], streamed["content"]) == (plain.reasoning, plain.content)


def test_max_tokens_bounds_the_whole_trace(client):
    for name in ("max_tokens", "max_completion_tokens"):
        response = ask(client, extra={"paths": 2, "fork_at": 0}, **{name: 40})
        assert response.usage.completion_tokens <= 40
        assert response.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="mean the same"):
        ask(client, max_tokens=4, max_completion_tokens=5)


# ---- conversations ----


def prompt_of(client, messages):
    return ask(client, messages, extra={"max_blocks": 0, "return_token_ids": True}, max_tokens=1).prompt_token_ids


def test_a_conversation_goes_through_the_chat_template(client, lm):
    parts = [{"type": "text", "text": "and"}, {"type": "text", "text": "3?"}]
    found = prompt_of(client, [
        {"role": "developer", "content": "Add."}, {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning": "hm"}, {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "keep", "reasoning_content": "so"}, {"role": "user", "content": parts},
    ])  # fmt: skip
    end, words = lm.eos, lm.encode
    before = words("system: Add.\nuser: 2 + 2?\nA: 4")
    assert found == [*before, end, *words("user: why?\nA: [so]keep"), end, *words("user: and\n3?\nA: ")]
    assert prompt_of(client, ASKED) == lm.encode_prompt("2 + 2?")


def test_control_tokens_in_a_message_are_ordinary_characters(client, lm):
    told = [{"role": "system", "content": "<|end|>"}, {"role": "user", "content": "a <|end|> b"}]
    found = prompt_of(client, told)
    assert lm.eos not in found
    assert bytes(lm.decode(found), "utf-8") == b"system: <|end|>\nuser: a <|end|> b\nA: "


def test_clients_that_await(server):
    async def both():
        http = httpx.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", http_client=http) as client:
            whole, stream = await asyncio.gather(ask(client), ask(client, stream=True))
            return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(both())
    assert joined(chunks)["content"] == whole.choices[0].message.content


def test_a_client_that_leaves_frees_what_it_held(server, client):
    before = server.wait_idle()
    stream = ask(client, stream=True, n=4, extra={"paths": 4, "fork_at": 0, "max_path_tokens": 10_000}, max_tokens=9000)
    next(iter(stream))
    stream.close()
    assert server.wait_idle()["generation_tokens_total"] < before["generation_tokens_total"] + 4 * 9000


# ---- what is refused ----

REFUSED = {
    "a tool": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "calls no tools"),
    "json": ({"response_format": {"type": "json_object"}}, "answers are text"),
    "a penalty": ({"presence_penalty": 0.5}, "presence_penalty is not supported"),
    "an effort": ({"reasoning_effort": "hihg"}, "did you mean 'high'"),
    "a role": ({"messages": [{"role": "tool", "content": "a"}]}, "use one of system, developer, user, assistant"),
    "no message": ({"messages": []}, "messages is empty"),
    "the last word": ({"messages": [*ASKED, {"role": "assistant", "content": "4"}]}, "must be the user's"),
    "no content": ({"messages": [{"role": "user"}]}, "content is missing"),
    "a null role": ({"messages": [{"role": None, "content": "a"}]}, "messages.0.role is missing"),
    "a call": (
        {"messages": [*ASKED, {"role": "assistant", "tool_calls": [{}]}, *ASKED]},
        "messages.1.tool_calls is not supported: ",
    ),
    "many tokens": ({"max_completion_tokens": 70_000}, "max_completion_tokens=70000 is more than the 65536"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "reads text alone",
    ),
    "another model": ({"model": "gpt-4o"}, "no model 'gpt-4o'"),
    "a typing error": ({"temprature": 1}, "temperature"),
    "many": ({"n": 17}, "16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(server, case):
    changes, sentence = REFUSED[case]
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json={"messages": ASKED, **changes})
    assert answer.status_code in (400, 404)
    assert sentence in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_fields_that_change_nothing_are_taken(client):
    neutral = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "me", "store": False,
               "presence_penalty": 0, "parallel_tool_calls": True}  # fmt: skip
    assert ask(client, **neutral).choices[0].message == ask(client).choices[0].message
