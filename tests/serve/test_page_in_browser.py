"""The page in a real browser, before a real server: a generation as it is drawn, stopped, refused; a file replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from helpers.browser import BROWSER, NEEDED, Page, browser
from helpers.served import Gate, served
from helpers.tiny import lean_towards, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.serve.app import build_app
from polythink.serve.config import ServeConfig
from polythink.serve.service import Service
from polythink.trace.scan import scan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=NEEDED)]
PROMPT, SEED, KEY = "a b c", 7, "a-key-for-the-page"
DECODING = {"fork_at": 2, "paths": 2, "max_blocks": 1, "max_main_tokens": 8, "max_path_tokens": 20,
            "max_summary_tokens": 6, "max_trace_tokens": 200}  # fmt: skip
LANES = """[...document.querySelectorAll(".lane")].map((lane) => ({
  text: lane.querySelector("pre")?.textContent ?? "", running: lane.classList.contains("running"),
  state: lane.querySelector(".state").textContent, box: lane.getBoundingClientRect().toJSON() }))"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Server:
    url: str
    service: Service
    gate: Gate
    page: Page

    def expected(self, paths: int):
        """What the engine draws for the prompt of these tests."""
        lm = self.service.lm
        params = SamplingParams(**{**lm.settings.decoding, "mode": lm.settings.mode, "paths": paths})
        prompt = tuple(lm.encode_prompt(PROMPT))
        (rollout,) = Engine(lm).generate([Request(prompt)], params, seed=SEED)
        return rollout

    def open(self, width: int = 1280) -> None:
        self.page.open(self.url, width, 860 if width > 500 else 844, phone=width < 500)
        self.page.until("document.documentElement?.dataset.ready === 'true'")

    def ask(self, paths: int = 4, **fields) -> None:
        for name, value in {"paths": paths, "seed": SEED, **fields}.items():
            self.page.js(f"document.getElementById('{name}').value = {json.dumps(value)}")
        self.page.js("document.getElementById('prompt').focus()")
        self.page.type(PROMPT)
        self.page.press("Enter")

    def ended(self) -> None:
        self.page.until("document.getElementById('stop').hidden")

    def figure(self, name: str) -> str:
        return self.page.js(f"document.getElementById('{name}').textContent")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """One server and one browser for all these tests; the model's paths are of different lengths."""
    lm = lean_towards(tiny(), {"</Path>": -3.0, "<Parallel>": -9.0, "</Summary>": -1.0})
    lm.settings = replace(lm.settings, decoding=DECODING)
    config = ServeConfig()
    service = Service(Engine(lm), config, "tiny")
    gate = Gate(service.engine)
    with served(build_app(service, config), service) as url, browser(tmp_path_factory.mktemp("browser")) as page:
        yield Server(url, service, gate, page)
        gate.open()


@pytest.fixture(autouse=True)
def nothing_amiss(server: Server) -> Iterator[None]:
    """No error in the console, no request to anyone else; the engine runs on."""
    server.page.problems.clear()
    server.page.requested.clear()
    yield
    server.gate.open()
    assert server.page.problems == []
    assert [url for url in server.page.requested if not url.startswith(server.url)] == []


def plain(server: Server, text: str) -> str:
    return "".join(t.text for t in scan(text, server.service.lm.dialect) if t.kind == "text").strip()


def test_four_columns_grow_before_any_is_complete(server: Server) -> None:
    rollout = server.expected(4)
    server.open()
    server.gate.let(8)
    server.ask()
    server.page.until("document.querySelectorAll('.lane.running pre').length === 4")
    server.page.until("[...document.querySelectorAll('.lane pre')].every((pre) => pre.textContent.trim())")
    first = server.page.js(LANES)
    server.gate.let(2)
    server.page.until(f"document.getElementById('steps').textContent > {server.figure('steps')}")
    then = server.page.js(LANES)
    assert all(lane["running"] for lane in first + then), "none is complete"
    assert all(len(b["text"]) > len(a["text"]) > 0 for a, b in zip(first, then, strict=True)), "all of them grow"
    assert {lane["box"]["top"] for lane in then} == {then[0]["box"]["top"]}, "side by side"
    assert int(server.figure("tokens")) > int(server.figure("steps")), "and steps are saved while they do"
    server.gate.open()
    server.ended()

    paths = [s for s in rollout.segments if s.kind == "path"]
    lanes = server.page.js(LANES)
    assert [lane["text"] for lane in lanes] == [plain(server, s.text) for s in paths]
    cut = [s.finish_reason == "length" for s in paths]
    assert ["cut" in lane["state"] for lane in lanes] == cut
    assert len(set(cut)) == 2, "one of each, or the test shows little"
    summary = next(s for s in rollout.segments if s.kind == "summary")
    shown = server.page.js("document.querySelector('.card.summary pre').textContent")
    assert shown == plain(server, summary.text)
    outside = server.page.js("[...document.querySelectorAll('.card.main pre')].map((pre) => pre.textContent).join(' ')")
    main = " ".join(plain(server, s.text) for s in rollout.segments if s.kind == "main")
    assert " ".join(outside.split()) == " ".join(main.split())
    assert server.figure("tokens") == str(rollout.tokens)
    assert server.figure("steps") == str(rollout.critical_path)
    assert server.figure("status").startswith(f"Finished: {rollout.tokens} tokens in {rollout.critical_path} steps")


def test_steps_are_counted_as_the_engine_counts_them(server: Server) -> None:
    """Live, without what the last event says."""
    server.open()
    for paths in (1, 3):
        rollout = server.expected(paths)
        server.ask(paths)
        server.ended()
        counted = server.page.js(
            "(({ drawing }) => { drawing.totals = null; return [drawing.steps, drawing.drawn]; })(globalThis.polythink)"
        )
        assert counted == [rollout.critical_path, rollout.tokens]
        server.open()


def test_escape_stops_the_engine(server: Server) -> None:
    server.open()
    before = server.service.counters()["aborted"]
    server.gate.let(8)
    server.ask()
    server.page.until("document.querySelectorAll('.lane.running pre').length === 4")
    server.page.press("Escape")
    server.ended()
    assert server.figure("status") == "Stopped"
    assert {lane["state"] for lane in server.page.js(LANES)} == {"stopped"}
    server.gate.let(4)  # far fewer than the trace would need: the server itself has given it up
    server.page.until("document.getElementById('send').offsetParent !== null")
    for _ in range(500):
        if server.service.counters()["aborted"] > before:
            break
        server.page.js("new Promise((resolve) => setTimeout(resolve, 20))")
    assert server.service.counters()["aborted"] == before + 1
    assert server.service.counters()["running"] == 0
    server.gate.open()
    server.page.js("document.getElementById('prompt').value = ''")
    server.ask(2)  # and the page goes on
    server.ended()
    assert server.figure("status").startswith("Finished")


def test_an_error_is_said_in_words(server: Server) -> None:
    server.open()
    server.page.js("document.getElementById('paths').max = ''")
    server.ask(paths=5000)
    error = server.page.until("document.getElementById('error').textContent")
    assert "5000" in error or "1024" in error
    assert "{" not in error
    server.page.problems[:] = [p for p in server.page.problems if "400" not in p]  # the browser's own line


def test_a_key_is_asked_for_and_kept_in_the_session_alone(server: Server, tmp_path: Path) -> None:
    config = ServeConfig(api_keys=(KEY,))
    service = Service(Engine(server.service.lm), config, "tiny")
    with served(build_app(service, config), service) as url:
        own = replace(server, url=url, service=service)
        own.open()
        own.ask(2)
        assert "key" in own.page.until("document.getElementById('error').textContent")
        assert own.page.js("document.activeElement.id") == "key"
        own.page.type(KEY)
        own.page.js("document.getElementById('key').dispatchEvent(new Event('change'))")
        own.page.js("document.getElementById('live').requestSubmit()")
        own.page.until("document.getElementById('status').textContent.startsWith('Finished')")
        assert own.page.js("sessionStorage.getItem('polythink-key')") == KEY
        assert own.page.js("JSON.stringify(localStorage) + document.cookie").find(KEY) == -1
        own.page.js("sessionStorage.clear()")
    server.page.problems[:] = [p for p in server.page.problems if "401" not in p]
    server.page.requested[:] = [u for u in server.page.requested if not u.startswith(url)]


@pytest.fixture(scope="module")
def written(server: Server) -> list[dict]:
    """Rows as runs write them, of 2, 4 and 9 paths."""
    found = []
    for paths in (2, 4, 9):
        rollout = server.expected(paths)
        segments = [
            {"kind": s.kind, "block": s.block, "path": s.path, "label": s.label, "text": s.text,
             "finish_reason": s.finish_reason, "right": s.path == 1 if s.kind == "path" else None}
            for s in rollout.segments
        ]  # fmt: skip
        cost = {"tokens": rollout.tokens, "critical_path": rollout.critical_path}
        verdict = "right" if paths > 2 else "wrong"
        found.append({"question": f"{paths} ways", "verdict": verdict, **cost, "segments": segments})
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_a_file_is_replayed(server: Server, written: list[dict], tmp_path: Path, width: int) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in written) + '{"torn')
    page = server.page
    server.open(width)
    page.js("document.getElementById('tab-replay').click()")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    page.until("document.querySelectorAll('.lane').length === 2")
    assert server.figure("count") == "4 of 4 lines"
    assert page.js("document.activeElement.id") == "rows"
    for row, count in zip(written, (2, 4, 9), strict=True):
        page.until(f"document.querySelectorAll('.lane').length === {count}")
        lanes = page.js(LANES)
        paths = [s for s in row["segments"] if s["kind"] == "path"]
        assert [lane["text"] for lane in lanes] == [plain(server, s["text"]) for s in paths]
        assert server.figure("tokens") == str(row["tokens"])
        assert server.figure("verdict")[2:] == row["verdict"]
        assert page.js(OVERFLOW) == 0
        for lane in lanes:
            assert 0 <= lane["box"]["left"] < lane["box"]["right"] <= width
            assert lane["box"]["width"] >= 140
        tops = len({lane["box"]["top"] for lane in lanes})
        assert tops == (1 if count == 2 or (width == 1280 and count == 4) else -(-count // (2 if width == 390 else 5)))
        assert page.js("document.querySelectorAll('.lane.right').length") == 1
        page.press("ArrowDown")
    page.until("document.querySelectorAll('.lane').length === 0")  # the torn line
    page.js("const s = document.getElementById('search'); s.value = 'wrong'; s.dispatchEvent(new Event('input'))")
    page.until("document.querySelectorAll('.lane').length === 2")
    assert server.figure("count") == "1 of 4 lines"
    page.js("document.getElementById('at').value = 6; document.getElementById('at').dispatchEvent(new Event('input'))")
    assert [lane["running"] for lane in page.js(LANES)] == [True, True], "in the middle of its paths"
    page.js("document.getElementById('speed').value = 80; document.getElementById('play').click()")
    page.until("document.getElementById('play').textContent === 'Play'")
    assert [lane["text"] for lane in page.js(LANES)] == [
        plain(server, s["text"]) for s in written[0]["segments"] if s["kind"] == "path"
    ]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_live_trace_keeps_to_the_page(server: Server, width: int) -> None:
    server.open(width)
    assert server.page.js(OVERFLOW) == 0
    server.ask(4)
    server.ended()
    assert server.page.js(OVERFLOW) == 0
    boxes = "[...document.querySelectorAll('.lanes, .card.summary')].map((e) => e.getBoundingClientRect().toJSON())"
    fork, join = server.page.js(boxes)
    assert fork["bottom"] < join["top"]
    middle = (fork["left"] + fork["right"]) / 2
    assert abs(middle - (join["left"] + join["right"]) / 2) < 1, "the join stands below the middle of its fork"


def test_themes(server: Server) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in (("dark", "rgb(20, 24, 29)"), ("light", "rgb(255, 255, 255)")):
        server.page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        server.open()
        assert server.page.js(ground) == colour
    server.page.js("document.getElementById('theme').click(); document.getElementById('theme').click()")
    assert server.page.js(ground) == "rgb(20, 24, 29)"
    server.open()
    assert server.page.js(ground) == "rgb(20, 24, 29)", "the choice is kept"
    server.page.js("localStorage.clear()")
    server.page.prefer()
