"""`polythink eval --rollouts URL`: an evaluation whose responses a server draws, and what does not go with it."""

from __future__ import annotations

import json

import pytest

from helpers.completions_server import completions_server
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import load_vocabulary, save

SMALL = ("mode=reread", "max_main_tokens=12", "max_path_tokens=8", "max_summary_tokens=6")


@pytest.fixture(scope="module")
def lm():
    return from_config(ModelConfig(num_hidden_layers=1, tokenizer="bytes"), "parallel_r1")


@pytest.fixture(scope="module")
def folder(lm, tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("model")
    save(lm, place)
    return str(place)


def asking(folder: str, out, *more: str) -> list[str]:
    return ["eval", folder, "--problems", "countdown-mini", "--limit", "2", "-n", "2", "--out", str(out), *more]


def test_an_evaluation_is_drawn_by_a_server_and_resumed(polythink, lm, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with completions_server(lm.model.config.vocab_size, lm.ends) as server:
        given = asking(folder, tmp_path / "out", "--rollouts", server.base, *SMALL, "rollouts.concurrency=3")
        status, out, _ = polythink(*given)
        assert status == 0
        assert "mean@2" in out
        assert all(body.get("logprobs") is None for body in server.requests)  # an evaluation reads none
        result = json.loads((tmp_path / "out" / "eval.json").read_text())
        assert result["provenance"]["device"] == server.base
        rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == 4
        asked = len(server.requests)
        status, out, _ = polythink(*given, "--resume")
        assert status == 0
        assert len(server.requests) < asked + 8  # what is measured at the start, and nothing else
        status, _, err = polythink(*asking(folder, tmp_path / "new", "--rollouts", server.base))
        assert status == 2
        assert "mode=structured joins the paths' own keys and values" in err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["rollouts.concurrency=3"], "rollouts.concurrency=3 belongs to --rollouts, which was not given"),
        (["--rollouts", "http://h/v1", "rollouts.concurency=3"], "did you mean 'concurrency'?"),
        (["--rollouts", "http://h/v1", "--device", "cpu"], "--device is of a model in this process"),
        (["--rollouts", "http://h/v1", "--max-num-seqs", "3"], "--max-num-seqs is of a model in this process"),
        (["--rollouts", "http://h/v1", "--heads"], "--heads looks at attention inside the model"),
        (["--rollouts", "h/v1"], "the endpoint must be an address like"),
    ],
)
def test_what_does_not_go_with_it_is_one_sentence(polythink, folder, tmp_path, more, sentence):
    status, _, err = polythink(*asking(folder, tmp_path / "out", *more))
    assert status == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_is_that_of_the_model(lm, folder):
    found = load_vocabulary(folder)
    text = "9 8 5 -> 5 <Parallel> <Path>"
    assert found.encode(text) == lm.encode(text)
    assert found.encode_prompt("a") == lm.encode_prompt("a")
    assert (found.ends, found.tag_ids, found.context, found.settings) == (lm.ends, lm.tag_ids, lm.context, lm.settings)
