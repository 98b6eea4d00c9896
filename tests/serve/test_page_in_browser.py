"""The page in a real browser, before a real server: a generation as it is drawn, stopped, refused; a file replayed."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from helpers.browser import BROWSER, NEEDED, Page, browser
from helpers.served import Served, served
from helpers.tiny import lean_towards, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Event, Request, SamplingParams
from polythink.models.lm import LanguageModel
from polythink.serve.detokenise import Decoding, Detokeniser
from polythink.serve.generation import Update
from polythink.serve.told import told_event
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.rollout import Rollout
from polythink.trace.scan import scan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=NEEDED)]
PROMPT, SEED, KEY = "a b c", 7, "a-key-for-the-page"
MANY = 1_000_000
DECODING = {"fork_at": 2, "paths": 2, "max_blocks": 1, "max_main_tokens": 8, "max_path_tokens": 20,
            "max_summary_tokens": 6, "max_trace_tokens": 200}  # fmt: skip
LANES = """[...document.querySelectorAll(".lane")].map((lane) => ({
  text: lane.querySelector("pre")?.textContent ?? "", running: lane.classList.contains("running"),
  state: lane.querySelector(".state").textContent, box: lane.getBoundingClientRect().toJSON() }))"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Gate:
    """Lets the engine of a server make so many steps and no more: what a reader sees does not depend on the machine."""

    def __init__(self) -> None:
        forked = multiprocessing.get_context("fork")
        self.left, self.changed = forked.Value("i", MANY), forked.Condition()

    def let(self, steps: int = MANY) -> None:
        """Allow so many steps from here on, those that were allowed and not made included."""
        with self.changed:
            self.left.value = steps
            self.changed.notify_all()

    def pass_through(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.left.value > 0)
            self.left.value -= 1


def model() -> LanguageModel:
    """Its paths are of different lengths, and none is short."""
    lm = lean_towards(tiny(), {"</Path>": -3.0, "<Parallel>": -9.0, "</Summary>": -1.0})
    lm.settings = replace(lm.settings, decoding=DECODING)
    return lm


@dataclass
class Site:
    """A server and a browser before it."""

    server: Served
    gate: Gate
    page: Page

    def open(self, width: int = 1280) -> None:
        self.page.open(f"{self.server.url}/", width, 860 if width > 500 else 844, phone=width < 500)
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
def site(tmp_path_factory) -> Iterator[Site]:
    """One server and one browser for all these tests."""
    gate = Gate()

    def gated() -> LanguageModel:  # in the server's process
        step = Engine.step
        Engine.step = lambda engine: gate.pass_through() or step(engine)
        return model()

    folder = tmp_path_factory.mktemp("site")
    with served(gated, folder) as server, browser(folder) as page:
        yield Site(server, gate, page)


@cache
def engine() -> Engine:
    return Engine(model())


@cache
def expected(paths: int) -> Rollout:
    """What the engine draws for the prompt of these tests."""
    lm = engine().lm
    params = SamplingParams(**{**DECODING, "mode": lm.settings.mode, "paths": paths})
    (rollout,) = engine().generate([Request(tuple(lm.encode_prompt(PROMPT)))], params, seed=SEED)
    return rollout


def plain(text: str) -> str:
    """Without tags."""
    return "".join(token.text for token in scan(text, PARALLEL_R1) if token.kind == "text").strip()


@pytest.fixture(autouse=True)
def nothing_amiss(site: Site) -> Iterator[None]:
    """No error in the console, no request to anyone else; the engine runs on."""
    site.page.problems.clear()
    site.page.requested.clear()
    yield
    site.gate.let()
    assert site.page.problems == []
    assert [url for url in site.page.requested if not url.startswith(site.server.url)] == []


def test_four_columns_grow_before_any_is_complete(site: Site) -> None:
    rollout = expected(4)
    site.open()
    site.gate.let(4)  # the shortest path ends at the eighth step
    site.ask()
    site.page.until("document.querySelectorAll('.lane.running pre').length === 4")
    site.page.until("[...document.querySelectorAll('.lane pre')].every((pre) => pre.textContent.trim())")
    steps, first = int(site.figure("steps")), site.page.js(LANES)
    site.gate.let(3)
    site.page.until(f"Number(document.getElementById('steps').textContent) >= {steps + 3}")
    then = site.page.js(LANES)
    assert all(lane["running"] for lane in first + then), "none is complete"
    assert all(len(b["text"]) > len(a["text"]) > 0 for a, b in zip(first, then, strict=True)), "all of them grow"
    assert {lane["box"]["top"] for lane in then} == {then[0]["box"]["top"]}, "side by side"
    assert int(site.figure("tokens")) > int(site.figure("steps")), "and steps are saved while they do"
    site.gate.let()
    site.ended()

    paths = [s for s in rollout.segments if s.kind == "path"]
    lanes = site.page.js(LANES)
    assert [lane["text"] for lane in lanes] == [plain(s.text) for s in paths]
    cut = [s.finish_reason == "length" for s in paths]
    assert ["cut" in lane["state"] for lane in lanes] == cut
    assert len(set(cut)) == 2, "one of each, or the test shows little"
    summary = next(s for s in rollout.segments if s.kind == "summary")
    shown = site.page.js("document.querySelector('.card.summary pre').textContent")
    assert shown == plain(summary.text)
    outside = site.page.js("[...document.querySelectorAll('.card.main pre')].map((pre) => pre.textContent).join(' ')")
    main = " ".join(plain(s.text) for s in rollout.segments if s.kind == "main")
    assert " ".join(outside.split()) == " ".join(main.split())
    assert site.figure("tokens") == str(rollout.tokens)
    assert site.figure("steps") == str(rollout.critical_path)
    assert site.figure("status").startswith(f"Finished: {rollout.tokens} tokens in {rollout.critical_path} steps")
    counted = (
        "(({ drawing }) => { drawing.totals = null; return [drawing.steps, drawing.drawn]; })(globalThis.polythink)"
    )
    assert site.page.js(counted) == [rollout.critical_path, rollout.tokens], "without what the last event says, too"


def test_escape_stops_the_engine(site: Site) -> None:
    site.open()
    before = site.server.counters()
    site.gate.let(4)  # as above: all four run however late the page is looked at
    site.ask()
    site.page.until("document.querySelectorAll('.lane.running pre').length === 4")
    site.page.press("Escape")
    site.ended()
    assert site.figure("status") == "Stopped"
    assert {lane["state"] for lane in site.page.js(LANES)} == {"stopped"}
    site.gate.let()
    after = site.server.wait_idle()
    assert after["request_aborted_total"] == before["request_aborted_total"] + 1
    site.page.js("document.getElementById('prompt').value = ''")
    site.ask(2)  # and the page goes on
    site.ended()
    assert site.figure("status").startswith("Finished")


def test_an_error_is_said_in_words(site: Site) -> None:
    site.open()
    site.page.js("document.getElementById('paths').max = ''")
    site.ask(paths=5000)
    error = site.page.until("document.getElementById('error').textContent")
    assert "5000" in error or "1024" in error
    assert "{" not in error
    site.page.problems[:] = [p for p in site.page.problems if "400" not in p]  # the browser's own line


@pytest.mark.long
def test_a_key_is_asked_for_and_kept_in_the_session_alone(site: Site, tmp_path: Path) -> None:
    with served(model, tmp_path, api_keys=(KEY,)) as server:
        own = replace(site, server=server)
        own.open()
        own.ask(2)
        assert "key" in own.page.until("document.getElementById('error').textContent")
        assert own.page.js("document.activeElement.id") == "key"
        own.page.type(KEY)
        own.page.js("document.getElementById('key').dispatchEvent(new Event('change'))")
        own.page.js("document.getElementById('live').requestSubmit()")
        own.page.until("document.getElementById('status').textContent.startsWith('Finished')")
        assert own.page.js("sessionStorage.getItem('polythink-key')") == KEY
        assert KEY not in own.page.js("JSON.stringify(localStorage) + document.cookie")
        own.page.js("sessionStorage.clear()")
    own.page.problems[:] = [line for line in own.page.problems if "401" not in line]
    own.page.requested[:] = [url for url in own.page.requested if not url.startswith(server.url)]


@pytest.fixture(scope="module")
def written() -> list[dict]:
    """Rows as runs write them, of 2, 4 and 9 paths."""
    found = []
    for paths in (2, 4, 9):
        rollout = expected(paths)
        segments = [
            {"kind": s.kind, "block": s.block, "path": s.path, "label": s.label, "text": s.text,
             "finish_reason": s.finish_reason, "right": s.path == 1 if s.kind == "path" else None}
            for s in rollout.segments
        ]  # fmt: skip
        cost = {"tokens": rollout.tokens, "critical_path": rollout.critical_path}
        verdict = "right" if paths > 2 else "wrong"
        found.append({"question": f"{paths} ways", "verdict": verdict, **cost, "segments": segments})
    return found


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.long)])
def test_a_file_is_replayed(site: Site, written: list[dict], tmp_path: Path, width: int) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in written) + '{"torn')
    page = site.page
    site.open(width)
    page.js("document.getElementById('tab-replay').click()")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    page.until("document.querySelectorAll('.lane').length === 2")
    assert site.figure("count") == "4 of 4 lines"
    assert page.js("document.activeElement.id") == "rows"
    for row, count in zip(written, (2, 4, 9), strict=True):
        page.until(f"document.querySelectorAll('.lane').length === {count}")
        lanes = page.js(LANES)
        paths = [s for s in row["segments"] if s["kind"] == "path"]
        assert [lane["text"] for lane in lanes] == [plain(s["text"]) for s in paths]
        assert site.figure("tokens") == str(row["tokens"])
        assert site.figure("verdict")[2:] == row["verdict"]
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
    assert site.figure("count") == "1 of 4 lines"
    page.js("document.getElementById('at').value = 6; document.getElementById('at').dispatchEvent(new Event('input'))")
    assert [lane["running"] for lane in page.js(LANES)] == [True, True], "in the middle of its paths"
    page.js("document.getElementById('speed').value = 80; document.getElementById('play').click()")
    page.until("document.getElementById('play').textContent === 'Play'")
    assert [lane["text"] for lane in page.js(LANES)] == [
        plain(s["text"]) for s in written[0]["segments"] if s["kind"] == "path"
    ]


DRAW = """async (traces) => {
  const { Drawing } = await import("/page/trace.js");
  const known = await (await fetch("/page/about")).json();
  return traces.map(({ isolated, events }) => {
    const drawing = new Drawing(document.createElement("div"));
    drawing.clear({ tags: known.tags, reasons: known.reasons, isolated });
    events.forEach((event) => drawing.apply(event));
    const texts = [...drawing.root.querySelectorAll("pre")].map((pre) => pre.textContent);
    const open = drawing.root.querySelectorAll(".running").length;
    return { text: texts.join(" "), steps: drawing.steps, tokens: drawing.drawn, open,
             lanes: drawing.root.querySelectorAll(".lane").length };
  });
}"""


@pytest.mark.long
def test_any_trace_is_drawn_as_it_was(site: Site) -> None:
    """In every mode, blocks in blocks too: the page's text, steps and tokens are those of the finished rollout."""
    lm = lean_towards(tiny(), {"<Parallel>": 1.0, "<Path>": 2.0, "</Path>": 1.0, "</Parallel>": 1.0})
    decoding, events = Decoding(lm.codec), []
    budgets = {"max_main_tokens": 12, "max_path_tokens": 14, "max_summary_tokens": 8, "max_trace_tokens": 220}
    params = [
        SamplingParams(mode=mode, paths=3, max_blocks=3, max_depth=depth, **budgets)
        for mode, depth in (("structured", 1), ("structured", 3), ("reread", 3), ("sequential", 2))
    ]
    streams: dict[tuple[int, int], Detokeniser] = {}

    def follow(event: Event) -> None:
        stream = streams.setdefault((event.request, event.segment), Detokeniser(decoding))
        text = stream.add(event.token) if event.kind == "token" else ""
        told = {**told_event(Update(0, event, text)), "critical_path": None}  # the page counts for itself
        events[event.request].append({key: value for key, value in told.items() if value is not None})

    each = [one for one in params for _ in range(5)]
    events += [[] for _ in each]
    asked = [Request(tuple(lm.encode("a b c")), "p", i % 5) for i in range(len(each))]
    rollouts = Engine(lm).generate(asked, each, seed=4, on_event=follow)
    traces = [{"isolated": p.rules.isolated, "events": own} for p, own in zip(each, events, strict=True)]
    site.open()
    drawn = site.page.js(f"({DRAW})({json.dumps(traces)})")
    for rollout, found in zip(rollouts, drawn, strict=True):
        assert found["text"].split() == plain(rollout.text).split()
        assert found["steps"] == rollout.critical_path, rollout.mode
        assert found["tokens"] == rollout.tokens - sum(len(s.tokens) for s in rollout.segments if s.kind == "copy")
        assert found["lanes"] == len({(s.block, s.path) for s in rollout.segments if s.kind == "path"})
        assert found["open"] == 0
    forked = {rollout.mode for rollout, found in zip(rollouts, drawn, strict=True) if found["lanes"]}
    assert forked == {one.mode for one in params}
    assert max(found["lanes"] for found in drawn) > 6


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.long)])
def test_a_live_trace_keeps_to_the_page(site: Site, width: int) -> None:
    site.open(width)
    assert site.page.js(OVERFLOW) == 0
    site.ask(4)
    site.ended()
    assert site.page.js(OVERFLOW) == 0
    boxes = "[...document.querySelectorAll('.lanes, .card.summary')].map((e) => e.getBoundingClientRect().toJSON())"
    fork, join = site.page.js(boxes)
    assert fork["bottom"] < join["top"]
    middle = (fork["left"] + fork["right"]) / 2
    assert abs(middle - (join["left"] + join["right"]) / 2) < 1, "the join stands below the middle of its fork"


def test_themes(site: Site) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in (("dark", "rgb(20, 24, 29)"), ("light", "rgb(255, 255, 255)")):
        site.page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        site.open()
        assert site.page.js(ground) == colour
    site.page.js("document.getElementById('theme').click(); document.getElementById('theme').click()")
    assert site.page.js(ground) == "rgb(20, 24, 29)"
    site.open()
    assert site.page.js(ground) == "rgb(20, 24, 29)", "the choice is kept"
    site.page.js("localStorage.clear()")
    site.page.prefer()
