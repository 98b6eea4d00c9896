"""What a request is over HTTP is what it is to the engine; and the names of versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from helpers.completions_server import completions_server
from helpers.remote import PARAMS, client, wanted
from helpers.tiny import tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Continuation, Request, SamplingParams
from polythink.errors import UserError
from polythink.models.lm import with_settings
from polythink.models.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def lm():
    return tiny()


@pytest.fixture
def server(lm, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with completions_server(lm.model.config.vocab_size, lm.ends) as running:
        yield running


@pytest.mark.parametrize("changes", [{}, {"length_scaling_above": 1}, {"length_scaling_above": 0}])
def test_trained_paths_are_those_that_the_engine_records(server, lm, tmp_path, changes):
    """Training lays a published mode out with its scales, wherever the tokens were drawn."""
    params = SamplingParams(**{**PARAMS.model_dump(), "mode": "unseen_published", **changes})
    trained = with_settings(lm, trained_paths=2)
    with client(server, trained, tmp_path / "j") as backend:
        (rollout,) = backend.generate(wanted(lm, 1), params)
    (own,) = Engine(trained).generate(wanted(lm, 1), params)
    assert rollout.trained_paths == own.trained_paths == changes.get("length_scaling_above", 2)
    with client(server, with_settings(lm, trained_paths=3), tmp_path / "j") as backend:  # what is kept is of another
        (rollout,) = backend.generate(wanted(lm, 1), params)
    assert rollout.trained_paths == changes.get("length_scaling_above", 3)


def test_a_plain_request_is_one_text_without_blocks(server, lm):
    plain = Request(tuple(lm.encode("a b")), "p", plain=Continuation())
    with client(server, lm) as backend:
        server.requests.clear()
        (rollout,) = backend.generate([plain], PARAMS)
    assert [segment.kind for segment in rollout.segments] == ["main"]
    assert {tuple(body["stop_token_ids"]) for body in server.requests} == {tuple(sorted(lm.ends))}


def test_a_model_without_tags_cannot_fork_and_no_token_that_it_lacks_is_sent(server, lm):
    words = {"<pad>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4, "<unk>": 5}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    untagged = Vocabulary(lm.model, fast, replace(lm.settings, mode="sequential"))
    with client(server, untagged) as backend:
        server.requests.clear()
        with pytest.raises(UserError, match="can neither fork nor learn them"):
            backend.generate([Request((2, 3))], PARAMS)
        with pytest.raises(UserError, match="token id -1 is not in the model's vocabulary"):
            backend.generate([Request((2, -1))], SamplingParams(mode="sequential"))
        assert not server.requests


def test_a_version_may_have_any_name(server, lm, tmp_path):
    with client(server, lm) as backend:
        names = ("", "step-3", "", "7", "")
        assert [backend.reload(tmp_path, name) for name in names] == ["1", "step-3", "2", "7", "8"]
