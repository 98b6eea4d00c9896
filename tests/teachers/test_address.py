"""Addresses of endpoints, passwords in them, and the proxies of the environment."""

from __future__ import annotations

import base64
import json
import re
import socket

import pytest

from helpers.coldstart import QUICK, ask, record
from polythink.errors import UserError
from polythink.problems.prompts import get_prompt
from polythink.run.address import read_address, without_password
from polythink.run.config import dump_yaml
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint, EndpointConfig

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
ADDRESSES = {
    "http://h": "http://h/chat/completions",
    "http://h/v1": "http://h/v1/chat/completions",
    "http://h:1/v1//": "http://h:1/v1/chat/completions",
    " \thttp://h/v1 \n": "http://h/v1/chat/completions",
    "HTTP://H/v1": "http://h/v1/chat/completions",
    "http://h/v1#a": "http://h/v1/chat/completions",
    "http://h/v1/?#": "http://h/v1/chat/completions?",
    "http://h/v1/chat/completions": "http://h/v1/chat/completions",
    "http://h/v1/chat/completions/": "http://h/v1/chat/completions",
    "http://h/v1/chat/completions?a=b#c": "http://h/v1/chat/completions?a=b",
    "http://h/openai/deployments/x?api-version=2024-02-01": "http://h/openai/deployments/x/chat/completions?api-version=2024-02-01",
    "http://h/x/?a=%2F/&b=c?d": "http://h/x/chat/completions?a=%2F/&b=c?d",
    "https://h/a%20b%2Fc": "https://h/a%20b%2Fc/chat/completions",
    "http://[::1]:8000/v1": "http://[::1]:8000/v1/chat/completions",
    "http://u:p@h:1/v1": "http://h:1/v1/chat/completions",
    "http://h/@m": "http://h/@m/chat/completions",
}  # fmt: skip


@pytest.mark.parametrize(("given", "posted"), ADDRESSES.items())
def test_addresses(given, posted):
    assert read_address(given).url == posted


BAD = ["localhost:8000/v1", "ftp://host/v1", "", " ", "http://", "http://[::1", "/v1", "http://h/v 1", "http://a b/v1",
       "http://h:99999/v1", "http://h:x/v1", "http://a..b/v1", "http://xn--/v1", "http://h/\x00",
       "http://h/\ud83d"]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_a_bad_address_is_refused(url):
    with pytest.raises(UserError, match="must be an address like") as refused:
        read_address(url)
    assert "\n" not in str(refused.value)


def test_the_query_is_sent_and_not_shown(server, tmp_path):
    (problem,) = record(server, 1)
    url = server.base.replace("/v1", "/openai/deployments/x?api-version=2024-02-01&key=sk-q#end")
    with Endpoint(EndpointConfig(url=url, model="m")) as endpoint:
        assert endpoint(problem, problem.question, 0) == server.recorded[problem.question]
        server.acts = lambda number, request: "status:401"
        with pytest.raises(UserError, match="/openai/deployments/x/chat/completions answers 401") as refused:
            endpoint(problem, problem.question, 0)
    assert server.requests[0]["path"] == "/openai/deployments/x/chat/completions?api-version=2024-02-01&key=sk-q"
    assert "sk-q" not in str(refused.value)


# ---- user and password ----


@pytest.mark.parametrize("user", ["user:pa%20ss%40w", "user:", "tok-en", ":0nly", "a:b:c"])
def test_a_password_in_the_address_is_sent_and_neither_printed_nor_written(server, tmp_path, user):
    chosen = record(server, 12)
    url = server.base.replace("http://", f"http://{user}@")
    config = EndpointConfig(url=url, model="m")
    name, _, password = user.replace("%20", " ").replace("%40", "@").partition(":")
    sent = base64.b64encode(f"{name}:{password}".encode()).decode()
    server.plan[chosen[0].question] = ["status:400"]  # this server repeats what it was sent
    with Endpoint(config) as teacher:
        run_coldstart(chosen[:4], teacher, get_prompt("none"), "strict", tmp_path, retry=QUICK, concurrency=1,
                      about_teacher=teacher.about)  # fmt: skip
        server.acts = lambda number, request: f"error:401:no user {sent} or {user} with {name}:{password}"
        with pytest.raises(UserError, match="answers 401") as refused:
            teacher(chosen[0], "q", 0)
    assert {request["key"] for request in server.requests} == {f"Basic {sent}"}
    assert "status 400 for Bearer Basic ***" in (tmp_path / "all.jsonl").read_text()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    shown = str(refused.value) + repr(config) + dump_yaml(config.model_dump(mode="json")) + written
    for secret in (sent, user, f"{name}:{password}", password or name):
        assert secret not in shown
    assert config.model_dump()["url"] == server.base.replace("http://", "http://***@")


def test_an_address_that_was_read_back_from_a_folder_says_what_is_missing(monkeypatch, server, tmp_path):
    (problem,) = record(server, 1)
    config = EndpointConfig(url=server.base.replace("http://", "http://u:p@"), model="m")
    config = EndpointConfig(**config.model_dump(mode="json"))
    with pytest.raises(UserError, match=r"has lost its user and password, which are written to no file.* key_env"):
        Endpoint(config)
    monkeypatch.setenv("TEACHER_KEY", "Basic " + base64.b64encode(b"u:p").decode())
    with Endpoint(EndpointConfig(url=server.base, model="m", key_env="TEACHER_KEY")) as endpoint:
        endpoint(problem, problem.question, 0)
    assert server.requests[0]["key"] == "Basic dTpw"


@pytest.mark.parametrize(
    "url", ["u:secret@h/v1", "ftp://u:secret@h/v1", "http://u:se#cret@h/v1", "http://u:secret@h:x/"]
)
def test_a_bad_address_is_told_without_its_password(url):
    with pytest.raises(UserError, match="must be an address like") as refused:
        read_address(url)
    assert "cret" not in str(refused.value)
    assert without_password("http://h/@x?y=a@b") == "http://h/@x?y=a@b"


def test_a_password_and_a_key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk")
    with pytest.raises(UserError, match="give one of them"):
        Endpoint(EndpointConfig(url="http://u:p@h", model="m", key_env="TEACHER_KEY"))


def test_a_key_in_a_header_of_its_own(server, monkeypatch):
    (problem,) = record(server, 1)
    monkeypatch.setenv("TEACHER_KEY", "sk-azure")
    with Endpoint(EndpointConfig(url=server.base, model="m", key_env="TEACHER_KEY", key_header="api-key")) as endpoint:
        endpoint(problem, problem.question, 0)
    assert server.headers[0]["api-key"] == "sk-azure"
    assert "authorization" not in server.headers[0]


# ---- proxies ----

UNUSABLE = [
    ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY=socks5://127.0.0.1:1"),
    ({"HTTPS_PROXY": "foo://x"}, "HTTPS_PROXY=foo://x"),
    ({"http_proxy": "socks4://u:pw9@h:1"}, "http_proxy=socks4://***@h:1"),
    ({"HTTP_PROXY": "http://h:99999"}, "HTTP_PROXY=http://h:99999"),
    ({"HTTP_PROXY": "http://a..b:1"}, "HTTP_PROXY=http://a..b:1"),
    ({"HTTP_PROXY": "http://u:p/pw9@h:1"}, "HTTP_PROXY"),
    ({"NO_PROXY": "localhost,::1/128"}, "NO_PROXY=localhost,::1/128"),
    ({"NO_PROXY": "localhost,[::1]"}, "NO_PROXY=localhost,[::1]"),
    ({"no_proxy": "fe80::/10"}, "no_proxy=fe80::/10"),
    ({"SSL_CERT_FILE": "/no/such/file"}, "SSL_CERT_FILE=/no/such/file"),
]


def clear(monkeypatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("environment", "named"), UNUSABLE)
def test_settings_that_cannot_be_used_are_named(monkeypatch, environment, named):
    clear(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="settings for connections cannot be used") as refused:
        Endpoint(EndpointConfig(url="http://127.0.0.1:1/v1", model="m"))
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "pw9" not in str(refused.value)


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_dead_proxy_is_named_without_its_password(server, tmp_path, monkeypatch):
    clear(monkeypatch)
    dead = unused_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://u:secret@127.0.0.1:{dead}")
    chosen = record(server, 8)
    where = f"{read_address(server.base).url} through the proxy http://***@127.0.0.1:{dead}: "
    with pytest.raises(UserError, match=re.escape(f"the last time with connection: {where}")) as stopped:
        ask(server, chosen, tmp_path)
    assert "secret" not in str(stopped.value) + (tmp_path / "all.jsonl").read_text()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert ask(server, chosen, tmp_path)[0]["kept"] == 8


def test_a_proxy_that_refuses_is_named(server, tmp_path, monkeypatch):
    clear(monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", server.base)  # answers in the other's place
    server.acts = lambda number, request: f"error:407:{json.dumps('Proxy Authentication Required')}"
    with Endpoint(EndpointConfig(url="http://teacher.invalid/v1", model="m")) as endpoint:
        (problem,) = record(server, 1)
        with pytest.raises(UserError, match=r"through the proxy http.* answers 407 .*: the proxy wants a name"):
            endpoint(problem, problem.question, 0)
