"""`polythink serve`: from the command line to an answer, and its mistakes."""

from __future__ import annotations

import socket

import pytest

from helpers.program import invoke
from helpers.served import start
from helpers.tiny import tiny
from polythink.cli import serve
from polythink.cli.app import app
from polythink.errors import UserError
from polythink.models.lm import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "little"
    save(tiny(), place)
    return place


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)


def test_a_model_folder_is_served_as_the_command_says(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(serve.KEY_VARIABLE, "a-secret")
    arguments = ["serve", str(folder), "--port", "0", "--max-num-seqs", "3", "max_trace_tokens=5", "mode=sequential"]
    server = start(lambda: app(arguments, standalone_mode=False), tmp_path)
    with server.client("a-secret") as client:
        (model,) = client.models.list().data
        assert (model.id, model.polythink["mode"]) == ("little", "sequential")
        answer = client.completions.create(model="little", prompt="a", extra_body={"max_blocks": 0, "seed": 1})
        assert 0 < answer.usage.completion_tokens <= 5
    assert server.stop() == 0
    assert server.stderr.read_text() == ""
    with server.http() as http, pytest.raises(Exception, match="refused"):
        http.get("/health")


MISTAKES = {
    "an API key is needed": ["--host", "0.0.0.0"],
    "did you mean 'paths'": ["pathz=2"],
    "is no origin": ["--cors-origin", "example.org/"],
    "no address of this machine": ["--host", "nowhere.invalid", "--api-key", "x"],
    "printable ASCII": ["--api-key", "two words"],
    "holds no API key": ["--api-key-file", "EMPTY"],
    "both give API keys": ["--api-key", "x", "--api-key-file", "EMPTY"],
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_known_before_the_model_is_loaded(folder, tmp_path, monkeypatch, sentence):
    empty = tmp_path / "keys"
    empty.write_text("\n")
    monkeypatch.setattr(serve, "open_engine", None)
    arguments = [str(empty) if argument == "EMPTY" else argument for argument in MISTAKES[sentence]]
    with pytest.raises(UserError, match=sentence):
        invoke(app, "serve", folder, *arguments)


def test_a_port_in_use_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(serve, "open_engine", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use; take another with --port"):
            invoke(app, "serve", folder, "--port", port)


def test_without_the_extra_the_command_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs fastapi, uvicorn, prometheus_client; `pip install -e '.\[serve\]'`"):
        invoke(app, "serve", folder)


def test_keys_from_a_file_are_those_of_its_lines(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert serve.read_keys(None, file) == ("one", "two")


@pytest.mark.parametrize(("most", "said"), [("5", "--max-tokens 5 bounds every response"), ("5000", ""), (None, "")])
def test_a_bound_below_the_models_own_is_said_at_the_start(folder, monkeypatch, most, said):
    monkeypatch.setattr(serve, "serve_model", lambda *given: None)
    err = invoke(app, "serve", folder, *([] if most is None else ["--max-tokens", most])).stderr
    assert said in err if said else not err
