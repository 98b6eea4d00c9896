"""`/v1/responses` of a real server process, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from helpers import open_responses
from helpers.followed import thinker
from polythink.engine.engine import Engine
from polythink.models.lm import with_settings
from polythink.serve.config import ServeConfig
from polythink.serve.errors import ApiError
from polythink.serve.growing import Spelling
from polythink.serve.items import Change, Item
from polythink.serve.messages import prompt_of
from polythink.serve.output import Output
from polythink.serve.prompts import Spelling as TokenSpelling
from polythink.serve.responses import Job, ResponsesRequest, turns_of
from polythink.serve.service import Interrupted, Service

BLOCK = {"paths": 3, "fork_at": 4, "max_blocks": 1}
SEED = 56  # with which the trace forks, joins and ends by itself
EVENT = TypeAdapter(ResponseStreamEvent)
OURS = ("id", "created_at", "completed_at")  # fields that differ from one response to the next


def ask(client, input="2 + 2?", *, seed=SEED, extra=BLOCK, **fields):
    return client.responses.create(model="tiny", input=input, extra_body={"seed": seed, **extra}, **fields)


def raw_events(server, **body):
    """The events as they come over the wire."""
    with server.http() as http:
        lines = http.post("/v1/responses", json={"input": "2 + 2?", "seed": SEED, **BLOCK, **body, "stream": True}).text
    found = [line.partition(": ") for line in lines.splitlines() if line]
    assert found[-1][2] == "[DONE]"
    names = [value for field, _, value in found if field == "event"]
    events = [json.loads(value) for field, _, value in found[:-1] if field == "data"]
    assert names == [event["type"] for event in events]
    return events


def without_ids(body):
    """A response without what differs from one to the next."""
    found = {name: value for name, value in body.items() if name not in OURS}
    return found | {"output": [{k: v for k, v in item.items() if k != "id"} for item in body["output"]]}


# ---- the form ----


@pytest.mark.parametrize(
    "mode", ["structured", *(pytest.param(m, marks=pytest.mark.long) for m in ("reread", "sequential"))]
)
def test_events_come_in_order_and_tell_the_whole_response(server, mode):
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    extra = {"mode": mode, **logprobs, "return_events": True} | ({"fork_at": None} if mode == "sequential" else {})
    events = raw_events(server, **extra)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    items = {}
    for event in events[2:-1]:
        index, kind = event["output_index"], event["type"].removeprefix("response.")
        told = items.setdefault(index, {"text": "", "kinds": []})
        told["kinds"].append(kind.rpartition(".")[0] + "." + kind.rpartition(".")[2])
        if kind.endswith(".delta"):
            told["text"] += event["delta"]
        elif kind == "output_item.added":
            assert index == len(items) - 1
            told["id"] = event["item"]["id"]
        elif kind == "output_item.done":
            told["item"] = event["item"]
        assert event.get("item_id", told["id"]) == told["id"]
    last = events[-1]["response"]
    assert last["output"] == [items[i]["item"] for i in range(len(items))]
    for told in items.values():
        assert_item(told)
    with server.http() as http:
        whole = http.post("/v1/responses", json={"input": "2 + 2?", "seed": SEED, **BLOCK, **extra}).json()
    assert without_ids(whole) == without_ids(last)


def assert_item(told):
    """Opened, its part opened, told, and closed from inside out."""
    item, kinds = told["item"], [kind for kind in told["kinds"] if not kind.endswith(".delta")]
    texts = [part["text"] for part in (*item.get("content", ()), *item.get("summary", ()))]
    assert texts == [told["text"]]
    form = {"message": ("content_part", "output_text"), "summary": ("reasoning_summary_part", "reasoning_summary_text")}
    part, text = form.get(item["polythink"]["kind"], ("content_part", "reasoning_text"))
    expected = ["output_item.added", f"{part}.added", f"{text}.done", f"{part}.done", "output_item.done"]
    assert kinds == expected


def test_a_path_is_an_item_and_a_join_a_summary(client):
    response = ask(client, extra={**BLOCK, "return_events": True})
    kinds = [item.polythink["kind"] for item in response.output]
    assert kinds == ["main", "path", "path", "path", "summary", "message"]
    assert [item.polythink["path"] for item in response.output] == [0, 1, 2, 3, 0, 0]
    assert response.status == "completed"
    *thought, answer = response.output
    assert all(item.type == "reasoning" for item in thought)
    assert [bool(item.summary) for item in thought] == [False] * 4 + [True]
    chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "2 + 2?"}], seed=SEED,
                                          extra_body=BLOCK)  # fmt: skip
    assert answer.content[0].text == response.output_text == chat.choices[0].message.content
    texts = [part.text for item in thought for part in (*item.content, *item.summary)]
    headings = ["", "Path 1:", "Path 2:", "Path 3:", "Summary:"]
    expected = "\n\n".join("\n".join(filter(None, each)) for each in zip(headings, texts, strict=True))
    assert chat.choices[0].message.reasoning.replace(": (cut)", ":\n(cut)") == expected
    told, counted = response.usage, chat.usage
    assert (told.input_tokens, told.output_tokens) == (counted.prompt_tokens, counted.completion_tokens)
    details = counted.completion_tokens_details
    assert told.output_tokens_details.reasoning_tokens == details.reasoning_tokens > 0
    assert told.output_tokens_details.critical_path_tokens == details.critical_path_tokens


def test_the_clients_own_accumulator_reads_the_stream(client):
    with client.responses.stream(model="tiny", input="2 + 2?", extra_body={"seed": SEED, **BLOCK}) as stream:
        final = stream.get_final_response()
    assert final.output_text == ask(client).output_text != ""
    assert [item.type for item in final.output] == ["reasoning"] * 5 + ["message"]


def test_token_ids_come_with_the_whole_trace(server, client):
    body = {"input": "2 + 2?", "seed": SEED, **BLOCK, "return_token_ids": True}
    with server.http() as http:
        whole = http.post("/v1/responses", json=body).json()
    chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "2 + 2?"}], seed=SEED,
                                          extra_body={**BLOCK, "return_token_ids": True})  # fmt: skip
    assert whole["token_ids"] == chat.choices[0].token_ids != []
    assert whole["prompt_token_ids"] == chat.prompt_token_ids != []
    *before, last = raw_events(server, return_token_ids=True)
    assert {name: last["response"][name] for name in ("token_ids", "prompt_token_ids")} == {
        name: whole[name] for name in ("token_ids", "prompt_token_ids")
    }
    assert not any("token_ids" in event.get("response", ()) for event in before)
    assert "token_ids" not in ask(client).model_extra


def test_an_item_that_opens_is_in_progress_also_in_the_last_step():
    """What comes after a join is held while a block may follow: a message may open when the response is over."""
    item = Item("message", 0, text="a")
    output = Output(TokenSpelling(thinker()), logprobs=False, marks=False)
    (_, added), *_ = output.events(Change("open", item), "incomplete")
    item.closed = True
    *_, (_, done) = output.events(Change("close", item), "incomplete")
    assert [event["item"]["status"] for event in (added, done)] == ["in_progress", "incomplete"]


def test_paths_grow_at_once(client):
    stream = ask(client, stream=True)
    order = [event.output_index for event in stream if event.type == "response.reasoning_text.delta"]
    first = {index: order.index(index) for index in set(order)}
    last = {index: len(order) - 1 - order[::-1].index(index) for index in set(order)}
    assert first[2] < last[1]
    assert first[3] < last[1]


# ---- what others expect ----


@pytest.mark.parametrize("body", [{}, {"max_output_tokens": 30}, {"reasoning": {"effort": "none"}},
                                  {"include": ["message.output_text.logprobs"], "top_logprobs": 2}])  # fmt: skip
def test_bodies_and_events_are_what_clients_know(server, body):
    for event in raw_events(server, **body):
        EVENT.validate_python(event)
        kind = event["type"]
        assert open_responses.EVENTS[kind] | {"type", "sequence_number"} <= event.keys(), kind
        if open_responses.PATH:
            old = open_responses.RENAMED.get(kind)
            open_responses.check_schema(
                event | ({"type": old} if old else {}), open_responses.event_schemas()[old or kind]
            )
        if "response" in event:
            assert event["response"].keys() >= open_responses.RESPONSE
            Response.model_validate(event["response"])


@pytest.mark.skipif(not open_responses.PATH, reason="POLYTHINK_OPEN_RESPONSES does not say where the OpenAPI file lies")
def test_a_whole_response_is_what_open_responses_specifies(server):
    with server.http() as http:
        for body in ({}, {"max_output_tokens": 30}, {"return_events": True}, {"reasoning": {"effort": "high"}}):
            whole = http.post("/v1/responses", json={"input": "2 + 2?", **BLOCK, **body}).json()
            open_responses.check_schema(whole, "ResponseResource")


def test_a_trace_that_runs_out_of_tokens_is_incomplete(client):
    response = ask(client, max_output_tokens=20, extra={"paths": 2, "fork_at": 0})
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens <= 20
    *_, last = ask(client, max_output_tokens=20, extra={"paths": 2, "fork_at": 0}, stream=True)
    assert last.type == "response.incomplete"


def test_a_failure_in_the_middle_is_told_as_such():
    """The events until then stand, and the last one says what has happened."""
    lm = thinker()

    class Failing:
        def cancel(self):
            self.cancelled = True

        async def __aiter__(self):
            raise Interrupted("the request has run out of its time", "timeout")
            yield

    async def events():
        job = Job(ResponsesRequest(input="a"), Service(Engine(lm), ServeConfig(), "tiny"), Spelling.of(lm),
                  TokenSpelling(lm))  # fmt: skip
        generation = Failing()
        found = [event async for event in job.stream(generation)]
        assert generation.cancelled
        return found

    kinds, (_, last) = [kind for kind, _ in asyncio.run(events())], asyncio.run(events())[-1]
    assert kinds == ["response.created", "response.in_progress", "response.failed"]
    assert last["response"]["status"] == "failed"
    assert "run out of its time" in last["response"]["error"]["message"]
    EVENT.validate_python(last)


# ---- input ----


def test_input_items_are_a_conversation():
    body = ResponsesRequest(instructions="Add.", input=[
        {"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "4"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "4", "annotations": []}]},
        {"role": "user", "content": "why?"},
    ])  # fmt: skip
    assert turns_of(body) == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "hm\n\n4"},
        {"role": "user", "content": "why?"},
    ]


def test_reasoning_that_came_to_no_answer_is_not_that_of_the_next_one():
    thought = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]} for text in ("cut", "hm")]
    said = [{"role": "user", "content": "1?"}, thought[0], {"role": "user", "content": "2?"}, thought[1]]
    turns = turns_of(ResponsesRequest(input=[*said, {"role": "assistant", "content": "4"}]))
    assert [turn.get("reasoning_content") for turn in turns] == [None, None, "hm"]


def test_without_a_chat_template_one_message_is_answered():
    """The model's own prompt holds one problem; it has never seen a conversation."""
    lm = with_settings(thinker(), chat=False, prompt="Solve: {problem} =")
    user = {"role": "user", "content": "2 + 2"}
    assert prompt_of([user], lm) == tuple(lm.encode("Solve: 2 + 2 ="))
    for turns in ([{"role": "system", "content": "Add."}, user], [user, {"role": "assistant", "content": "4"}, user]):
        with pytest.raises(ApiError, match="no chat template"):
            prompt_of(turns, lm)


REFUSED = {
    "a stored response": ({"previous_response_id": "resp_1"}, "nothing is stored"),
    "a tool": ({"tools": [{"type": "web_search"}]}, "calls no tools"),
    "json": ({"text": {"format": {"type": "json_object"}}}, "answers are text"),
    "a call": ({"input": [{"type": "function_call", "name": "f"}]}, "use message or reasoning"),
    "an image": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "reads text alone"),
    "a call with its fields": (
        {"input": [{"role": "user", "content": "a"}, {"type": "function_call", "call_id": "c", "arguments": "{}"}]},
        "input.1.type is 'function_call'; use message or reasoning",
    ),
    "a content": ({"input": [{"role": "user", "content": 5}]}, "input.0.content must be text or a list, got 5"),
    "a field": ({"input": [{"role": "user", "content": "a", "foo": 1}]}, "unknown key input.0.foo"),
    "a text for a part": (
        {"input": [{"role": "user", "content": ["a"]}]},
        'input.0.content.0 must be a mapping, got "a"',
    ),
    "nothing": ({"input": []}, "input is empty"),
    "background": ({"background": True}, "nothing is stored"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(server, case):
    changes, sentence = REFUSED[case]
    with server.http() as http:
        answer = http.post("/v1/responses", json={"input": "a", **changes})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]


def test_a_client_that_leaves_frees_what_it_held(server, client):
    before = server.wait_idle()
    stream = ask(
        client, stream=True, extra={"paths": 4, "fork_at": 0, "max_path_tokens": 10_000}, max_output_tokens=9000
    )
    next(iter(stream))
    stream.close()
    assert server.wait_idle()["generation_tokens_total"] < before["generation_tokens_total"] + 9000
    with pytest.raises(openai.BadRequestError, match="effort"):
        ask(client, reasoning={"effort": "huge"})
