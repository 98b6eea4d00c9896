"""The page's files, what it is told of the model, and the server that replays the samples of a run."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from helpers.tiny import tiny
from polythink.errors import UserError
from polythink.report.theme import COLOURS
from polythink.serve.config import ServeConfig
from polythink.serve.page import ASSETS, HEADERS, MOST_ROW_BYTES, _asset, about
from polythink.serve.show import build_show, sample_files

ROW = {"question": "q", "text": "a", "segments": [{"kind": "main", "text": "a b", "finish_reason": "eos"}]}


def asked(app, *requests: tuple[str, str, dict]) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.request(method, path, **more) for method, path, more in requests]

    return asyncio.run(ask())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("rl/samples.jsonl", "final/samples-easy.jsonl", "final/metrics.jsonl", "final/greedy-easy.jsonl"):
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**ROW, "problem": name}) + "\n")
    return tmp_path / "run"


def test_files_of_the_page(run: Path) -> None:
    app = build_show(sample_files(run), run)
    paths = ["/", *(f"/page/{name}" for name in ASSETS if name != "index.html")]
    for path, answer in zip(paths, asked(app, *(("GET", path, {}) for path in paths)), strict=True):
        assert answer.status_code == 200, path
        assert HEADERS.items() <= {**answer.headers, **{k: answer.headers[k] for k in HEADERS}}.items()
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy


ODD = ("/page/../page.py", "/page/%2e%2e/page.py", "/page//etc/passwd", "/page/", "/page/index.html",
       "/files/../page.py", "/files/99", "/files/-1", "/files/x")  # fmt: skip


@pytest.mark.parametrize("path", ODD)
def test_nothing_else_is_served(run: Path, path: str) -> None:
    (answer,) = asked(build_show(sample_files(run), run), ("GET", path, {}))
    assert answer.status_code in (400, 404)
    assert set(answer.json()) == {"error"}


def test_the_page_asks_no_other_site() -> None:
    for name in ASSETS:
        text = _asset(name).decode()
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in text
        assert not re.search(r"\bon\w+=|style=\"", text) or name.endswith(".js"), "no inline handlers, no inline styles"
        assert all(len(line) <= 120 for line in text.splitlines()), name


def test_colours_are_those_of_reports() -> None:
    css = _asset("page.css").decode()
    light, dark = re.findall(r":root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", css, re.DOTALL)[:2]
    for index, block in enumerate((light, dark)):
        given = dict(re.findall(r"--([\w-]+): (#\w+);", block))
        assert given == {name: COLOURS[name][index] for name in given}
    used = set(re.findall(r"var\(--([\w-]+)\)", css)) - {"state"}
    assert used == set(re.findall(r"--([\w-]+): #", light))


def test_every_element_that_a_script_names_exists() -> None:
    page = _asset("index.html").decode()
    ids = re.findall(r'id="([\w-]+)"', page)
    assert len(ids) == len(set(ids))
    for name in ASSETS:
        if name.endswith(".js"):
            assert set(re.findall(r'byId\("([\w-]+)"\)', _asset(name).decode())) <= set(ids), name


def test_what_the_page_knows_of_a_model() -> None:
    lm = tiny()
    lm.settings.decoding["paths"] = 5
    known = about(SimpleNamespace(lm=lm, config=ServeConfig(api_keys=("secret-key",)), name="small"))
    assert known["model"] == "small"
    assert known["decoding"]["paths"] == 5
    assert known["needs_key"] is True
    assert known["tags"]["</Path>"] == "path_close"
    assert {mode["name"]: mode["isolated"] for mode in known["modes"]}["sequential"] is False
    assert "secret-key" not in json.dumps(known)


def test_a_row_is_turned_into_events(run: Path) -> None:
    app = build_show(sample_files(run), run)
    large = json.dumps({"text": "x" * MOST_ROW_BYTES})
    kind = {"Content-Type": "application/json"}
    fine, broken, too_large, plain = asked(
        app,
        ("POST", "/replay", {"json": ROW}),
        ("POST", "/replay", {"content": b'{"text": ', "headers": kind}),
        ("POST", "/replay", {"content": large, "headers": kind}),
        ("POST", "/replay", {"content": json.dumps(ROW), "headers": {"Content-Type": "text/plain"}}),
    )
    assert [event["text"] for step in fine.json()["steps"] for event in step] == ["a", " b"]
    assert [answer.status_code for answer in (fine, broken, too_large, plain)] == [200, 400, 413, 415]
    assert str(MOST_ROW_BYTES) in too_large.json()["error"]["message"]


def test_the_files_of_a_run(run: Path) -> None:
    files = sample_files(run)
    assert {file.name for file in files} == {"samples.jsonl", "samples-easy.jsonl", "greedy-easy.jsonl"}
    app = build_show(files, run.resolve())
    known, first = asked(app, ("GET", "/page/about", {}), ("GET", "/files/0", {}))
    assert known.json()["live"] is False
    assert set(known.json()["files"]) == {"rl/samples.jsonl", "final/samples-easy.jsonl", "final/greedy-easy.jsonl"}
    assert first.text == files[0].read_text()
    assert sample_files(files[0]) == [files[0]]


def test_another_host_is_refused(run: Path) -> None:
    app = build_show(sample_files(run), run)
    (answer,) = asked(app, ("GET", "/files/0", {"headers": {"Host": "attacker.example"}}))
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("nowhere", "no run folder and no file"), ("empty", "holds no samples.jsonl"), ("note.txt", "is no .jsonl file")],
)
def test_what_cannot_be_shown(tmp_path: Path, given: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(UserError, match=sentence):
        sample_files(tmp_path / given)


@pytest.mark.long
def test_polythink_show_serves_and_ends(run: Path) -> None:
    command = [sys.executable, "-m", "polythink", "show", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            said = running.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
            assert said.startswith("3 files of samples in ")
            transport = httpx.HTTPTransport(retries=20)  # it listens a moment after it has said where
            with httpx.Client(transport=transport, base_url=address, timeout=60, trust_env=False) as client:
                assert "<title>polythink</title>" in client.get("/").text
                assert client.post("/replay", json=ROW).status_code == 200
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0
        finally:
            running.kill()
        assert "Traceback" not in running.stderr.read()
