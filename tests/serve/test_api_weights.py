"""Other weights for a server that runs: what is drawn before and after, what waits, and what is refused."""

from __future__ import annotations

import threading

import httpx
import pytest

from helpers.served import served
from helpers.tiny import tiny
from polythink.models.lm import save

ASKED = {"prompt": "a b", "max_tokens": 12, "seed": 1, "n": 3, "return_token_ids": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save(tiny(seed=2), root / "step2")
    save(tiny(hidden_size=32, num_hidden_layers=1), root / "other")
    (root / "link").symlink_to("/etc")
    (root / "circle").symlink_to(root / "circle")
    (root / "empty").mkdir()
    with served(tiny, tmp_path_factory.mktemp("served"), weights_folder=str(root), max_num_seqs=4) as running:
        yield running
        assert running.stderr.read_text() == ""


def drawn(http: httpx.Client) -> list[list[int]]:
    return [choice["token_ids"] for choice in http.post("/v1/completions", json=ASKED).json()["choices"]]


def test_weights_are_changed_between_traces_and_what_waits_is_drawn_with_the_new_ones(server, tmp_path):
    with served(lambda: tiny(seed=2), tmp_path) as other, other.http() as http:
        of_new = drawn(http)
    with server.http() as http:
        first = http.post("/v1/completions", json=ASKED).json()
        assert "weight_version" not in first
        before = [choice["token_ids"] for choice in first["choices"]]
        assert before != of_new
        answers: list[dict] = []
        asks = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(6)]
        for ask_ in asks:
            ask_.start()
        changed = http.post("/v1/weights", json={"folder": "step2", "version": "2"})
        assert changed.json() == {"success": True, "weight_version": "2"}
        for ask_ in asks:
            ask_.join()
        for answer in answers:  # each is of one version, and says so
            tokens = [choice["token_ids"] for choice in answer["choices"]]
            assert tokens == (of_new if answer.get("weight_version") == "2" else before)
        assert drawn(http) == of_new


def ask(server) -> dict:
    with server.http() as http:
        return http.post("/v1/completions", json=ASKED).json()


REFUSED = {
    "other": (400, "the model in"),
    "empty": (400, "no config.json"),
    "nothing": (403, "none below"),
    "..": (403, "none below"),
    "/etc": (403, "none below"),
    "link": (403, "none below"),
    "circle": (400, "no path of a folder"),
    "a\0b": (400, "no path of a folder"),
}


def test_what_is_not_the_same_model_below_the_folder_is_refused_and_nothing_changes(server):
    with server.http() as http:
        before = drawn(http)
        for folder, (status, sentence) in REFUSED.items():
            answer = http.post("/v1/weights", json={"folder": folder})
            assert (answer.status_code, sentence in answer.text) == (status, True), (folder, answer.text)
        assert drawn(http) == before


def test_without_a_folder_no_weights_are_loaded(tmp_path):
    with served(tiny, tmp_path) as running, running.http() as http:
        answer = http.post("/v1/weights", json={"folder": "/tmp"})
    assert answer.status_code == 403
    assert "--weights-folder" in answer.json()["error"]["message"]
