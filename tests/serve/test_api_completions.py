"""`/v1/completions` of a real server process, asked by OpenAI's own client."""

from __future__ import annotations

import openai
import pytest
import torch

from helpers.device import collate
from helpers.served import served
from helpers.tiny import tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.lm import LanguageModel, with_settings
from polythink.models.logprobs import token_logprobs

DECODING = {"max_main_tokens": 16, "max_path_tokens": 8, "max_summary_tokens": 4, "max_trace_tokens": 80}
PROMPT = "a b c c a"
OURS = {
    "paths", "mode", "top_k", "return_token_ids", "stop_token_ids", "prompt_logprobs", "problem", "sample", "segment",
    "drawn", "fork_at", "max_path_tokens", "max_blocks", "return_tokens_as_token_ids", "return_events",
}  # fmt: skip
BLOCK = {"paths": 3, "fork_at": 2, "max_blocks": 1}  # of a trace that forks for sure


def model() -> LanguageModel:
    return with_settings(tiny(), decoding=DECODING)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(model, tmp_path_factory.mktemp("served"), max_num_seqs=8, max_choices=16) as running:
        yield running
        assert "Traceback" not in running.stderr.read_text()


@pytest.fixture(scope="module")
def client(server):
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def lm():
    return model()


@pytest.fixture(scope="module")
def engine(lm):
    return Engine(lm)


def ask(client, **fields):
    """A completion; fields that OpenAI does not know go where its client takes them."""
    extra = {name: fields.pop(name) for name in OURS & fields.keys()}
    usual = {"prompt": PROMPT, "model": "tiny", "seed": 7, "temperature": 1.0}
    return client.completions.create(**usual | fields, extra_body=extra)


# ---- what is drawn ----


def prompt_scores(lm, ids):
    """(T - 1, V): log-probabilities of what follows each token but the last, by the model itself."""
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


def test_a_completion_is_the_plain_continuation_of_its_prompt(client, lm):
    """Tags are tokens like any other: the log-probabilities are those of one causal forward over all."""
    prompt, tags, ends = lm.encode(PROMPT), 0, set()
    response = ask(client, n=6, max_tokens=10, logprobs=0, return_token_ids=True)
    for choice in response.choices:
        tokens = choice.token_ids
        assert choice.prompt_token_ids == prompt
        scores = prompt_scores(lm, [*prompt, *tokens])[len(prompt) - 1 :]
        own = scores.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
        assert choice.logprobs.token_logprobs == pytest.approx(own, abs=1e-4)
        assert choice.logprobs.top_logprobs is None
        assert choice.text == lm.decode(tokens)
        assert choice.finish_reason == ("stop" if tokens[-1] in lm.ends else "length")
        ends.add(choice.finish_reason)
        tags += len(set(tokens) & set(lm.tag_ids.values()))
    assert tags > 5
    assert ends == {"stop", "length"}
    usage = response.usage
    assert usage.prompt_tokens == len(prompt)
    assert usage.completion_tokens == sum(len(c.token_ids) for c in response.choices)
    assert usage.completion_tokens_details.reasoning_tokens == 0
    assert usage.completion_tokens_details.critical_path_tokens == usage.completion_tokens


@pytest.mark.parametrize("mode", ["structured", "reread"])
def test_a_request_that_names_paths_gets_the_trace_that_the_engine_draws(client, lm, engine, mode):
    """Its log-probabilities are those of one masked forward over the whole trace."""
    prompt, params = tuple(lm.encode(PROMPT)), SamplingParams(**DECODING, **BLOCK, mode=mode)
    rollouts = engine.generate([Request(prompt, sample=i) for i in range(2)], params, seed=7)
    response = ask(client, n=2, **BLOCK, mode=mode, logprobs=0, return_token_ids=True)
    for choice, rollout in zip(response.choices, rollouts, strict=True):
        shown = [segment for segment in rollout.segments if segment.kind != "copy"]
        assert sum(segment.kind == "path" for segment in shown) == 3
        assert choice.text == rollout.text
        assert choice.token_ids == [token for segment in shown for token in segment.tokens]
        layout = rollout.layout()
        again = token_logprobs(lm.model, collate([layout]))[0, len(prompt) :].tolist()
        of_copies = [segment.kind == "copy" for segment in rollout.segments for _ in segment.tokens]
        sampled = layout.sampled[len(prompt) :]
        expected = [
            (x if drawn else None) for x, drawn, copy in zip(again, sampled, of_copies, strict=True) if not copy
        ]
        assert [x is None for x in choice.logprobs.token_logprobs] == [x is None for x in expected]
        told = [x for x in choice.logprobs.token_logprobs if x is not None]
        assert told == pytest.approx([x for x in expected if x is not None], abs=1e-4)
    details = response.usage.completion_tokens_details
    assert details.critical_path_tokens == sum(rollout.critical_path for rollout in rollouts)
    after = sum(len(rollout.segments[-1].tokens) for rollout in rollouts)
    assert details.reasoning_tokens == response.usage.completion_tokens - after


def test_paths_can_be_drawn_one_by_one_as_the_engine_draws_them(client, lm, engine):
    """A client that forks by itself, with the random numbers of the engine."""
    prompt = tuple(lm.encode(PROMPT))
    params = SamplingParams(**DECODING, **BLOCK, mode="reread")
    (rollout,) = engine.generate([Request(prompt, "p", 5)], params, seed=3)
    main, *paths = [s for s in rollout.segments if s.kind in ("main", "path")][:4]
    ends = [lm.tag_ids["</Path>"], *lm.ends]
    for number, path in enumerate(paths, start=2):
        forced = path.sampled.index(True)
        before = [*prompt, *main.tokens, *path.tokens[:forced]]
        for skip in (0, 1):
            response = ask(
                client, prompt=before + path.tokens[forced : forced + skip], seed=3, problem="p", sample=5,
                segment=number, drawn=skip, max_tokens=8 - skip, stop_token_ids=ends, return_token_ids=True,
            )  # fmt: skip
            drawn = [t for t, sampled in zip(path.tokens, path.sampled, strict=True) if sampled]
            assert response.choices[0].token_ids == drawn[skip:]


def test_the_same_seed_gives_the_same_and_the_seed_of_a_response_is_told(client):
    first, second = (ask(client, max_tokens=8).choices[0].text for _ in range(2))
    assert first == second
    free = ask(client, max_tokens=8, seed=None, return_token_ids=True)
    again = ask(client, max_tokens=8, seed=free.seed, return_token_ids=True)
    assert free.choices[0].token_ids == again.choices[0].token_ids
    several = ask(client, max_tokens=8, n=3).choices
    assert several[0].text == first
    assert [choice.text for choice in several[1:]] == [
        ask(client, max_tokens=8, sample=i).choices[0].text for i in (1, 2)
    ]


def test_several_prompts_of_both_kinds(client, lm):
    texts = ["a b", "c c c"]
    by_text = ask(client, prompt=texts, n=2, max_tokens=6).choices
    by_ids = ask(client, prompt=[lm.encode(text) for text in texts], n=2, max_tokens=6).choices
    alone = [choice for text in texts for choice in ask(client, prompt=text, n=2, max_tokens=6).choices]
    assert [choice.index for choice in by_text] == [0, 1, 2, 3]
    assert [c.text for c in by_text] == [c.text for c in by_ids] == [c.text for c in alone]


def test_a_prompt_that_comes_again_is_answered_anew(client, lm):
    ids = lm.encode("a b")
    told = [c.text for c in ask(client, prompt=["a b", "c c c", "a b"], n=2, max_tokens=8).choices]
    assert told[:2] + told[4:] == [c.text for c in ask(client, prompt="a b", n=4, max_tokens=8).choices]
    assert told[2:4] == [c.text for c in ask(client, prompt="c c c", n=2, max_tokens=8).choices]
    again = [c.text for c in ask(client, prompt=[ids] * 4, sample=3, max_tokens=8).choices]
    assert again == [c.text for c in ask(client, prompt=ids, n=4, sample=3, max_tokens=8).choices]
    assert len({*told[:2], *told[4:]}) == 4


# ---- the prompt's own log-probabilities ----


@pytest.mark.parametrize("more", [0, 1])
def test_an_echo_gives_what_an_evaluation_harness_reads(client, lm, more):
    """lm-evaluation-harness: prompts as token ids, echo, logprobs 1, and one token more, which it leaves out."""
    prompts = [lm.encode(PROMPT), lm.encode("b </Path> c <Path>")]
    response = ask(client, prompt=prompts, max_tokens=more, temperature=0, logprobs=1, echo=True)
    for choice, ids in zip(response.choices, prompts, strict=True):
        expected, told = prompt_scores(lm, ids), choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + more
        assert told.token_logprobs[0] is None
        assert told.top_logprobs[0] is None
        own = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        assert told.token_logprobs[1 : len(ids)] == pytest.approx(own, abs=1e-4)
        for place, token in enumerate(ids[1:], start=1):
            greedy = told.token_logprobs[place] == max(told.top_logprobs[place].values())  # as the harness asks
            assert greedy == (int(expected[place - 1].argmax()) == token)
        assert choice.text.startswith(lm.decode(ids))
        assert told.text_offset[-1] <= len(choice.text)
    assert response.usage.completion_tokens == 2 * more


def test_prompt_logprobs_as_vllm_gives_them(client, lm):
    ids = lm.encode(PROMPT)
    response = ask(client, prompt_logprobs=2, max_tokens=1, n=2)
    expected = prompt_scores(lm, ids)
    for choice in response.choices:
        first, *others = choice.prompt_logprobs
        assert first is None
        for place, (entry, own) in enumerate(zip(others, ids[1:], strict=True)):
            row = expected[place]
            ranked = row.argsort(descending=True).tolist()
            assert {int(id) for id in entry} == {own, *ranked[:2]}
            for id, told in entry.items():
                assert told["logprob"] == pytest.approx(float(row[int(id)]), abs=1e-4)
                assert told["rank"] == ranked.index(int(id)) + 1
                assert told["decoded_token"] == lm.tokenizer.decode([int(id)])


def test_alternatives_of_sampled_tokens(client, lm):
    response = ask(client, max_tokens=6, logprobs=3, return_token_ids=True, return_tokens_as_token_ids=True)
    (choice,) = response.choices
    ids = [*choice.prompt_token_ids, *choice.token_ids]
    expected = prompt_scores(lm, ids)[len(choice.prompt_token_ids) - 1 :]
    told = choice.logprobs
    assert told.tokens == [f"token_id:{id}" for id in choice.token_ids]
    for row, own, top, logprob in zip(expected, choice.token_ids, told.top_logprobs, told.token_logprobs, strict=True):
        best = row.argsort(descending=True)[:3].tolist()
        assert top.keys() == {f"token_id:{id}" for id in {own, *best}}
        assert top[f"token_id:{own}"] == logprob
        for name, value in top.items():
            assert value == pytest.approx(float(row[int(name.removeprefix("token_id:"))]), abs=1e-4)


# ---- ends ----


def test_stop_strings_and_stop_tokens(client, lm):
    several = ask(client, n=8, max_tokens=14, return_token_ids=True).choices
    whole = max(several, key=lambda choice: len(set(choice.token_ids)))
    asked = {"sample": whole.index, "max_tokens": 14, "return_token_ids": True}
    token = next(t for t in whole.token_ids[2:] if t not in whole.token_ids[:2])
    at = whole.token_ids.index(token)
    stopped = ask(client, **asked, stop_token_ids=[token], logprobs=0).choices[0]
    assert stopped.token_ids == whole.token_ids[: at + 1]
    assert len(stopped.logprobs.token_logprobs) == at + 1
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", token)
    word = lm.decode([token])
    cut = ask(client, **asked, stop=["zzz", word]).choices[0]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", word)
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.token_ids == stopped.token_ids
    assert stopped.text == cut.text.rstrip()


def test_a_budget_that_runs_out(client):
    assert ask(client, max_tokens=1).choices[0].finish_reason == "length"
    trace = ask(client, **BLOCK, max_tokens=40)
    assert trace.usage.completion_tokens <= 40


def test_a_server_that_allows_fewer_tokens_than_a_completion_takes_by_default_gives_fewer(tmp_path):
    with served(model, tmp_path, max_tokens=8) as running, running.client() as opened:
        plain = ask(opened, n=4, return_token_ids=True).choices
        assert max(len(choice.token_ids) for choice in plain) == 8
        assert ask(opened, **BLOCK, return_token_ids=True).usage.completion_tokens <= 8
        with pytest.raises(openai.BadRequestError, match="max_tokens=9 is more than the 8 that this server allows"):
            ask(opened, max_tokens=9)


# ---- streams ----

ASKED = {
    "plain": {"n": 3, "max_tokens": 12},
    "paths": {"n": 2, **BLOCK},
    "sequential": {"n": 2, "mode": "sequential", "max_tokens": 40},
    "stop": {"n": 3, "max_tokens": 14, "stop": ["b", "</Path>"]},
    "prompts": {"prompt": ["a", "b c"], "n": 2, "max_tokens": 6},
    "echo": {"echo": True, "n": 2, "max_tokens": 5},
}


@pytest.mark.parametrize("name", ASKED)
def test_a_stream_concatenates_to_the_whole(client, name):
    fields = ASKED[name] | {"return_token_ids": True, "logprobs": 2}
    whole = ask(client, **fields)
    chunks = list(ask(client, **fields, stream=True, stream_options={"include_usage": True}))
    *deltas, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in deltas)
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in deltas if chunk.choices[0].index == choice.index]
        assert "".join(delta.text for delta in own) == choice.text
        assert [token for delta in own for token in delta.token_ids] == choice.token_ids
        assert own[0].prompt_token_ids == choice.prompt_token_ids
        assert [delta.finish_reason for delta in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        if choice.logprobs:
            for column, values in choice.logprobs.model_dump().items():
                assert [v for delta in own for v in getattr(delta.logprobs, column)] == values
    assert len(deltas) > len(whole.choices)


def test_a_stream_without_usage_says_none(client):
    *_, last = ask(client, max_tokens=3, stream=True)
    assert last.choices[0].finish_reason
    assert last.usage is None


def test_events_tell_a_client_that_knows_us_how_the_trace_grows(client):
    chunks = ask(client, **BLOCK, stream=True, return_events=True)
    events = [chunk.choices[0].polythink for chunk in chunks]
    paths = [event for event in events if event["path"]]
    assert [event["event"] for event in events].count("fork") == 3
    assert {event["path"] for event in paths} == {1, 2, 3}
    first_ends = max(i for i, event in enumerate(paths) if event["path"] == 1)
    assert any(event["path"] == 3 for event in paths[:first_ends])  # they grow at once
    assert events[-1]["event"] == "done"
    assert events[-1]["critical_path"] < events[-1]["tokens"]


# ---- mistakes ----

WRONG = {
    "prompt is missing": ({}, "prompt"),
    "it must be a text, token ids, or a list of either": ({"prompt": [1, "a"]}, "prompt"),
    "prompt is empty": ({"prompt": ""}, None),
    "go from 0 to": ({"prompt": [1, 999]}, None),
    "cannot fit the model's context": ({"prompt": "a " * 2**20}, None),
    "holds 4096": ({"prompt": [1] * 5000}, None),
    "no token for 'zebra'": ({"prompt": "zebra"}, None),
    "did you mean 'temperature'": ({"prompt": "a", "temprature": 1}, "temprature"),
    "best_of is not supported": ({"prompt": "a", "best_of": 2}, "best_of"),
    "token ids, or a list of either, got [1, 2, true]": ({"prompt": [1, 2, True]}, "prompt"),
    "segment.1 must be a whole number": ({"prompt": "a", "segment": [1, "a"]}, "segment.1"),
    "n must be a whole number": ({"prompt": "a", "n": True}, "n"),
    "max_tokens must be a whole number": ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    "asks for nothing": ({"prompt": "a", "max_tokens": 0}, None),
    "more than the 65536": ({"prompt": "a", "max_tokens": 70000}, "max_tokens"),
    "at most 16": ({"prompt": "a", "n": 17}, None),
    "none of them empty": ({"prompt": "a", "stop": [""]}, "stop"),
    "logprobs must be less than or equal to 20": ({"prompt": "a", "logprobs": 21}, "logprobs"),
    "stream_options is for streams": ({"prompt": "a", "stream_options": {"include_usage": True}}, None),
    "in mode sequential the model itself writes every tag": (
        {"prompt": "a", "mode": "sequential", "fork_at": 2},
        None,
    ),
    "of a continuation without blocks": ({"prompt": "a", "paths": 2, "segment": 2}, None),
}


def test_a_mistake_is_one_sentence(server):
    with server.http() as http:
        for sentence, (body, param) in WRONG.items():
            answer = http.post("/v1/completions", json=body)
            error = answer.json()["error"]
            assert answer.status_code == 400, sentence
            assert sentence in error["message"]
            assert "\n" not in error["message"]
            assert (error["type"], error["param"]) == ("invalid_request_error", param), sentence


def test_fields_that_ask_for_nothing_are_taken(client):
    neutral = {
        "suffix": None,
        "best_of": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "user": "u",
    }
    assert ask(client, max_tokens=2, **neutral).choices[0].text is not None


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        ask(client, model="gpt-4", max_tokens=1)
