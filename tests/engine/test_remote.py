"""Rollouts over HTTP from servers that are not ours: fields, log-probabilities, failures, journal, weights."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter

import pytest

from helpers.completions_server import DROPPED, completions_server, logits_after, logprobs_of
from helpers.remote import PARAMS, QUICK, client, wanted
from helpers.tiny import drawn, tiny
from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.completions import read
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.probe import Abilities
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.run.jsonl import read_jsonl
from polythink.run.retry import CallError, RetryPolicy


@pytest.fixture(scope="module")
def lm():
    return tiny()


@pytest.fixture
def server(lm, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with completions_server(lm.model.config.vocab_size, lm.ends) as running:
        yield running


def rollouts(server, lm, n: int = 2, params=PARAMS, seed: int = 0, **changes):
    with client(server, lm, **changes) as backend:
        return backend.generate(wanted(lm, n), params, seed)


def chains(rollout):
    """Of each segment: what stands before it in the text that it reads, and itself."""
    before, at_fork = list(rollout.prompt), []
    for segment in rollout.segments:
        if segment.kind == "path":
            at_fork = at_fork or before
            yield at_fork, segment
            continue
        if segment.kind == "copy":
            before, at_fork = at_fork, []
        yield before, segment
        before = before + segment.tokens


# ---- what is drawn, and of which distribution ----


@pytest.mark.parametrize("owner", ["vllm", "llamacpp"])
def test_every_log_probability_is_that_of_the_servers_distribution(server, lm, owner):
    server.owner = owner
    found = rollouts(server, lm, 3)
    checked = 0
    for rollout in found:
        for before, segment in chains(rollout):
            for i, token in enumerate(segment.tokens):
                if segment.sampled[i]:
                    expected = logprobs_of(logits_after([*before, *segment.tokens[:i]], server.vocabulary))[token]
                    assert segment.logprobs[i] == pytest.approx(expected, abs=1e-9)
                    checked += 1
    assert checked > 30
    assert {"path", "copy", "summary"} <= {s.kind for r in found for s in r.segments}
    assert server.requests[-1]["top_p"] == 1.0
    assert server.requests[-1]["top_k"] == (0 if owner == "llamacpp" else -1)


def test_the_same_seed_gives_the_same_and_another_does_not(server, lm):
    first, again, other = (list(map(drawn, rollouts(server, lm, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


def test_a_server_that_ignores_stop_tokens_is_asked_in_chunks(server, lm):
    greedy = PARAMS.model_copy(update={"temperature": 0.0, "path_temperature": 0.0})
    expected = list(map(drawn, rollouts(server, lm, params=greedy)))
    server.stops = False
    with client(server, lm) as backend:
        assert not backend.abilities.stops
    server.requests.clear()
    assert list(map(drawn, rollouts(server, lm, params=greedy, chunk=2))) == expected
    assert {body["max_tokens"] for body in server.requests} <= {1, 2}


def test_tokens_of_the_same_text_are_told_apart(server, lm):
    """As bytes are, each of which is half a letter: vLLM names the likeliest tokens by their text unless it is told."""
    server.raw, server.cut, server.names = False, True, lambda token: "\N{REPLACEMENT CHARACTER}"
    with client(server, lm) as backend:
        assert backend.abilities == Abilities(stops=True, at_temperature=True, cut=True, greedy_at_one=True)


@pytest.mark.parametrize(
    ("raw", "cut", "changes", "refused"),
    [
        (True, False, {}, None),
        (True, False, {"temperature": 0.7}, "returns those at temperature 1"),
        (True, False, {"path_temperature": 0.7}, r"temperature 0.7 \(path\)"),
        (True, False, {"top_p": 0.9}, None),
        (True, False, {"temperature": 0.0, "path_temperature": 1.0}, None),
        (False, False, {"temperature": 0.7, "top_p": 0.9}, None),
        (False, True, {"temperature": 0.7}, None),
        (False, True, {"top_p": 0.9}, "cannot be trained on"),
        (False, True, {"top_k": 3}, "cannot be trained on"),
    ],
)
def test_what_its_log_probabilities_are_is_measured(server, lm, raw, cut, changes, refused):
    server.raw, server.cut = raw, cut
    params = PARAMS.model_copy(update=changes)
    with client(server, lm) as backend:
        if refused is None:
            backend.check(params)
        else:
            with pytest.raises(UserError, match=refused):
                backend.generate(wanted(lm, 1), params)
    with client(server, lm, logprobs="none") as backend:
        backend.check(params)


def test_without_log_probabilities_they_are_not_a_number(server, lm):
    server.logprobs = False
    with pytest.raises(UserError, match=r"no log-probability for each token.*logprobs: none"):
        client(server, lm)
    (rollout,) = rollouts(server, lm, 1, logprobs="none")
    for segment in rollout.segments:
        assert [math.isnan(x) for x in segment.logprobs] == segment.sampled


def test_what_a_server_lacks_is_said(server, lm):
    server.ids = False
    with pytest.raises(UserError, match="returns no token ids, and they cannot be told from its text"):
        client(server, lm)
    server.ids, server.text_only = True, True
    with pytest.raises(UserError, match=r"does not complete token ids .*prompt must be a string"):
        client(server, lm)
    server.text_only, server.models = False, ["m", "new"]
    with pytest.raises(UserError, match="has the models m, new; name one"):
        client(server, lm)
    with pytest.raises(UserError, match="has no model 'nwe'; did you mean 'new'"):
        client(server, lm, model="nwe")
    with client(server, lm, model="new") as backend:
        assert backend.served.model == "new"
    for status in (429, 500, 503):  # taken for a server of another kind, it would be asked wrongly
        server.models_status = status
        with pytest.raises(UserError, match=f"the server cannot be asked: http_{status}"):
            client(server, lm, model="new")
    server.models_status = 404
    with client(server, lm, model="new") as backend:
        assert backend.served.server.name == "the server"


def test_a_server_that_is_not_there(lm, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"cannot be asked: connection: .*\[Errno 111\] Connection refused"):
        HttpRollouts(RemoteConfig(url=url), lm)


def test_what_a_server_cannot_draw_is_refused(server, lm):
    with client(server, lm) as backend:
        with pytest.raises(UserError, match="mode=structured joins the paths' own keys and values"):
            backend.generate(wanted(lm, 1), SamplingParams())
        with pytest.raises(UserError, match="path_position_stride"):
            backend.generate(wanted(lm, 1), SamplingParams(mode="reread", path_position_stride="auto"))
        with pytest.raises(UserError, match="2 requests and 1 SamplingParams"):
            backend.generate(wanted(lm, 2), [PARAMS])
        server.context = 3
    with client(server, lm) as backend, pytest.raises(UserError, match="the model's context holds 3"):
        backend.generate([Request(tuple(lm.encode("a b c a")))], PARAMS)


def test_an_end_token_that_is_left_out_is_noticed(server, lm):
    server.ends = {lm.encode("a")[0]}  # as a server of another model would stop there
    with pytest.raises(UserError, match="is no end token of the model folder"):
        rollouts(server, lm, 4, SamplingParams(mode="sequential", max_main_tokens=30))


NONSENSE = [None, [], {}, {"choices": []}, {"choices": [3]}, {"choices": [{"logprobs": 3}]},
            {"error": {"message": "no"}}, {"choices": [{"logprobs": {"content": [1]}}]}]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_malformed(body):
    with pytest.raises(CallError, match="malformed"):
        read(body)


# ---- failures ----


def test_failures_change_nothing_that_is_drawn(server, lm):
    expected = list(map(drawn, rollouts(server, lm)))
    plan = {9: "status:503", 11: "drop", 12: "wait:0", 14: "status:500", 17: "drop"}
    before = len(server.requests)
    server.acts = lambda number, body: plan.get(number - before)
    patient = RetryPolicy(retries=len(plan), wait=0.01)  # all may fall on one request: which comes when is not fixed
    assert list(map(drawn, rollouts(server, lm, retry=patient))) == expected
    assert len(server.requests) - before == before + len(plan)


def test_it_waits_as_long_as_it_is_asked_to(server, lm):
    with client(server, lm) as backend:
        now = len(server.requests)
        server.acts = lambda number, body: "wait:0.3" if number == now + 1 else None
        backend.generate(wanted(lm, 1), PARAMS)
    first, second = server.times[str(list(lm.encode("a b")))][:2]
    assert second - first >= 0.3


def test_a_request_that_fails_for_good_is_one_sentence(server, lm):
    with client(server, lm) as backend:
        server.acts = lambda number, body: "status:503"
        with pytest.raises(UserError, match=r"/v1/completions failed \(4 times\): http_503: not now"):
            backend.generate(wanted(lm, 3), PARAMS)
        server.acts = lambda number, body: "status:400"
        with pytest.raises(UserError, match="failed: http_400: not now"):
            backend.generate(wanted(lm, 3), PARAMS)


@pytest.mark.parametrize("act", ["drip", "drip-head"])
def test_a_server_that_drips_does_not_hang_us(server, lm, act):
    once = RetryPolicy(retries=1, wait=0.01)
    with client(server, lm, time_limit=0.3, timeout=30, retry=once) as backend:
        server.acts = lambda number, body: act
        with pytest.raises(UserError, match=r"failed \(2 times\): timeout: not whole after 0.3 seconds"):
            backend.generate(wanted(lm, 1), PARAMS)


# ---- the journal ----


def test_a_killed_call_goes_on_where_it_was(server, lm, tmp_path):
    """kill -9 in the middle, and a torn last line: no rollout is lost, none is doubled, none is drawn again."""
    file, n = tmp_path / "rollouts.jsonl", 5
    expected = rollouts(server, lm, n, seed=5)
    server.acts = lambda number, body: time.sleep(0.01)

    def child() -> None:
        rollouts(server, lm, n, seed=5, journal=file)

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    while not file.exists() or len(file.read_bytes().splitlines()) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = file.read_bytes().count(b"\n")
    assert 2 <= kept < n
    with file.open("ab") as torn:
        torn.write(b'{"key": "abc", "rollo')
    server.acts = lambda number, body: None
    server.requests.clear()
    found = rollouts(server, lm, n, seed=5, journal=file)
    assert found == expected
    rows = read_jsonl(file)
    assert len(rows) == n == len({row["key"] for row in rows})
    # what the killed process was sending may arrive after it, without a whole body
    counts = Counter(tuple(body.get("prompt", ())) for body in server.requests)
    assert counts[tuple(lm.encode("a b"))] == n - kept  # main texts begun
    server.requests.clear()
    assert rollouts(server, lm, n, seed=5, journal=file) == expected
    assert len(server.requests) < 10  # those that measure
    assert rollouts(server, lm, 1, seed=6, journal=file)[0] != expected[0]


def test_two_processes_do_not_write_one_journal(server, lm, tmp_path):
    with client(server, lm, journal=tmp_path / "j"), pytest.raises(UserError, match="another process writes"):
        client(server, lm, journal=tmp_path / "j")


def test_events_and_a_failure_of_whoever_listens(server, lm, tmp_path):
    with client(server, lm, journal=tmp_path / "j") as backend:
        events = []
        (rollout,) = backend.generate(wanted(lm, 1), PARAMS, on_event=events.append)
        assert events[-1].kind == "done"
        assert events[-1].rollout is rollout
        assert Counter(e.kind for e in events)["token"] == sum(len(s.tokens) for s in rollout.segments if s.text)
        assert [e.request for e in events] == [0] * len(events)

        def fails(event):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            backend.generate(wanted(lm, 3), PARAMS, seed=9, on_event=fails)
        assert len(read_jsonl(tmp_path / "j")) == 1


# ---- weights ----


def test_weights_are_reloaded_as_the_documentation_says(server, lm, tmp_path):
    with client(server, lm) as backend:
        assert backend.generate(wanted(lm, 1), PARAMS)[0].weight_version == ""
        assert backend.reload(tmp_path) == "1"
        assert server.posted == [
            ("/pause?mode=wait", {}),
            ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(tmp_path)}}),
            ("/reset_prefix_cache", {}),
            ("/update_weight_version", {"new_version": "1"}),
            ("/resume", {}),
        ]
        assert backend.generate(wanted(lm, 1), PARAMS)[0].weight_version == "1"
        server.refuse["/collective_rpc"] = 404
        with pytest.raises(UserError, match=r"vLLM did not take the weights of .*: /collective_rpc: .*not now"):
            backend.reload(tmp_path)
        assert server.posted[-1][0] == "/resume"  # it is not left waiting
        assert backend.weight_version == "1"
        server.refuse["/collective_rpc"], server.posted = 503, []
        with pytest.raises(UserError, match="vLLM did not take the weights"):
            backend.reload(tmp_path)
        assert [path for path, _ in server.posted].count("/collective_rpc") == 1 + QUICK.retries
        server.refuse["/resume"] = DROPPED  # vLLM ends where its workers fail
        with pytest.raises(UserError, match=r"vLLM did not take the weights of .*: /collective_rpc: .*not now"):
            backend.reload(tmp_path)
    server.owner, server.posted = "sglang", []
    with client(server, lm) as backend:
        backend.reload(tmp_path)
        body = {"model_path": str(tmp_path), "weight_version": "1", "flush_cache": True}
        assert server.posted == [("/update_weights_from_disk", body)]
        server.version = "7"
        assert backend.generate(wanted(lm, 1), PARAMS)[0].weight_version == "7"
    server.owner = "somebody"
    with client(server, lm) as backend, pytest.raises(UserError, match="no documented way to take new weights"):
        backend.reload(tmp_path)


def test_a_vllm_that_was_started_again_is_noticed(server, lm, tmp_path):
    """It has its first weights again, and says so; one that is too old to say it is taken at its word."""
    with client(server, lm) as backend:
        backend.reload(tmp_path)
        assert backend.generate(wanted(lm, 1), PARAMS)[0].weight_version == "1"
        server.weight_version = "default"
        assert [r.weight_version for r in backend.generate(wanted(lm, 2), PARAMS)] == ["default", "default"]
        server.weight_version = None
        assert backend.reload(tmp_path) == "2"
        assert backend.generate(wanted(lm, 1), PARAMS)[0].weight_version == "2"
