"""New weights for a running server: what is drawn before and after, versions, and folders that are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.served import served
from helpers.tiny import drawn, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.lm import save
from polythink.serve.errors import ApiError
from polythink.serve.weights import allowed

PARAMS = SamplingParams(
    mode="reread", paths=2, max_main_tokens=8, max_path_tokens=6, max_summary_tokens=5, max_trace_tokens=60
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Models that are allowed, and others beside them."""
    base = tmp_path_factory.mktemp("weights")
    save(tiny(seed=2), base / "allowed" / "second")
    save(tiny(seed=1), base / "allowed" / "first")
    save(tiny(num_hidden_layers=1), base / "allowed" / "shallow")
    save(tiny(seed=3), base / "outside")
    (base / "allowed" / "empty").mkdir()
    (base / "allowed" / "link").symlink_to(base / "outside")
    return base


@pytest.fixture(scope="module")
def server(root, tmp_path_factory):
    with served(tiny, tmp_path_factory.mktemp("served"), weights_root=str(root / "allowed")) as running:
        yield running


def test_what_is_drawn_after_a_reload_is_of_the_new_weights(server, root):
    lm, wanted = tiny(), requests(tiny(), 2)
    with HttpRollouts(RemoteConfig(url=f"{server.url}/v1"), lm) as backend:
        assert {rollout.weight_version for rollout in backend.generate(wanted, PARAMS, seed=4)} == {"0"}
        assert backend.reload(root / "allowed" / "second") == "1"
        found = backend.generate(wanted, PARAMS, seed=4)
        assert list(map(drawn, found)) == list(map(drawn, Engine(tiny(seed=2)).generate(wanted, PARAMS, seed=4)))
        assert {rollout.weight_version for rollout in found} == {"1"}
        with pytest.raises(UserError, match=r"polythink serve did not take the weights .*lies outside"):
            backend.reload(root / "outside")
        assert backend.weight_version == "1"


@pytest.mark.long
def test_what_runs_is_finished_with_the_weights_it_began_with(server):
    """Many requests while the weights change back and forth: each is of one version, and is what that version draws."""
    body = {"prompt": [3, 4, 5], "max_tokens": 60, "return_token_ids": True, "seed": 9}
    known: dict[str, list[int]] = {}
    for folder in ("second", "first"):
        with server.http() as http:
            assert http.post("/v1/weights", json={"folder": folder, "version": folder}).json() == {
                "weight_version": folder
            }
            known[folder] = http.post("/v1/completions", json=body).json()["choices"][0]["token_ids"]
    assert known["second"] != known["first"]

    def ask(_: int) -> tuple[str, list[int]]:
        with server.http() as http:
            answer = http.post("/v1/completions", json=body).json()
        return answer["weight_version"], answer["choices"][0]["token_ids"]

    with ThreadPoolExecutor(8) as pool, server.http() as http:
        asked = pool.map(ask, range(24))
        for folder in ("second", "first", "second"):
            assert http.post("/v1/weights", json={"folder": folder, "version": folder}).status_code == 200
        assert http.get("/v1/weights").json() == {"weight_version": "second"}
        for version, tokens in asked:
            assert tokens == known[version]
    server.wait_idle()


@pytest.mark.parametrize(
    ("folder", "status", "sentence"),
    [
        ("../outside", 403, "lies outside of the weights_root"),
        ("link", 403, "lies outside of the weights_root"),
        ("/etc", 403, "lies outside of the weights_root"),
        ("empty", 400, "holds no model"),
        ("nowhere", 400, "holds no model"),
        ("a\0b", 400, "a character that no path has"),
        ("", 400, "folder"),
        ("shallow", 400, "another shape than the one that is served"),
    ],
)
def test_other_folders_are_refused_and_change_nothing(server, folder, status, sentence):
    with server.http() as http:
        before = http.get("/v1/weights").json()
        answer = http.post("/v1/weights", json={"folder": folder})
        assert answer.status_code == status
        assert sentence in answer.json()["error"]["message"]
        assert http.get("/v1/weights").json() == before


def test_a_server_that_was_not_told_a_root_takes_none():
    with pytest.raises(ApiError, match="takes no new weights; start it with --weights-root") as refused:
        allowed("anywhere", None)
    assert refused.value.status == 404
