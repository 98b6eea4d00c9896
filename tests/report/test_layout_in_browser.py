"""A report in a real browser: every path of a wide block is in sight on a phone and on a desktop."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from helpers.prose_runs import prose_rows, write_evaluation
from polythink.report.filters import POLICY
from polythink.report.fork_drawing import Card, Fork
from polythink.report.fork_html import COLUMNS, LANE, MOST_ABREAST, TRACE_CSS, trace_html
from polythink.report.page import page
from polythink.report.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NUMBERS = (1, 3, 8, 9, 10, 16, 33)
WIDTHS = (390, 1280)
MEASURE = """<script>
const box = (of) => { const r = of.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
const found = [...document.querySelectorAll(".sample")].map((sample) => ({
  frame: box(sample), scrolls: sample.querySelector(".trace").scrollWidth - sample.querySelector(".trace").clientWidth,
  paths: [...sample.querySelectorAll(".card.path")].map(box),
  names: [...sample.querySelectorAll(".card.path .badges b:first-child")].map((b) => b.textContent),
  columns: [...sample.querySelectorAll(".lanes")].map((lanes) => [lanes.clientWidth, lanes.scrollWidth]),
  hints: [...sample.querySelectorAll(".hint")].filter((hint) => hint.checkVisibility()).length,
}));
const page = document.documentElement;
const said = { name: document.title, width: innerWidth, found: found, beyond: page.scrollWidth - page.clientWidth };
parent.postMessage(said, "*");
</script>"""
USE = """<script>
const output = document.querySelector(".find output"), search = document.querySelector(".find input");
const samples = [...document.querySelectorAll(".sample")];
const shown = () => [output.textContent, samples.filter((sample) => sample.checkVisibility()).length];
const press = (element, kind) => { element.dispatchEvent(new Event(kind, { bubbles: true })); return shown(); };
const fold = document.querySelector(".fold"), words = fold.querySelector(".words");
const heights = [words.clientHeight];
fold.querySelector(".open").click();
heights.push(words.clientHeight);
const steps = { all: shown() };
const chosen = document.querySelector(".find select");
chosen.value = "1"; steps.problem = press(chosen, "change");
chosen.value = ""; press(chosen, "change");
const wrong = document.querySelector("input.only-is-wrong");
wrong.checked = true; steps.wrong = press(wrong, "change");
search.value = "  QUITE Alone "; steps.both = press(search, "input");
wrong.parentElement.querySelector("input").checked = true; steps.search = press(wrong, "change");
steps.marked = CSS.highlights.get("found").size;
steps.opened = [...document.querySelectorAll(".fold .open")].filter((open) => open.checked).length;
search.value = "<script>alert"; steps.none = press(search, "input");
steps.folded = [...document.querySelectorAll(".fold .open")].filter((open) => open.checked).length;
parent.postMessage({ name: "use " + document.title, width: innerWidth, steps: steps, heights: heights }, "*");
</script>"""
HARM = """<script>parent.postMessage({ name: "harm" }, "*")</script><img src="x" onerror="parent.postMessage(1, '*')">
<p style="color: red">text</p>"""
HARNESS = """<body><script>
const heard = [];
addEventListener("message", (event) => {{
  heard.push(event.data);
  document.getElementById("out").textContent = JSON.stringify(heard);
}});
</script><pre id="out"></pre>{frames}</body>"""


def block(paths: int, text: str = "9 + 7 = 16 - 5 = 11 - 9 = 2 no") -> list[Card | Fork]:
    lanes = [[Card("path", text, number, number % 2 == 0)] for number in range(1, paths + 1)]
    return [Card("problem", "9 7 5 9 -> 19"), Fork(lanes, [Card("summary", "\\boxed{ 9 }")])]


def nested() -> list[Card | Fork]:
    inner = Fork([[Card("path", "left " * 9, 1)], [Card("path", "right " * 9, 2)]], [Card("summary", "joined")])
    return [Fork([[Card("path", "one", 1), inner], [Card("path", "two", 2)], [Card("path", "x" * 300, 3)]], [])]


def prose(paths: int, words: int) -> list[Card | Fork]:
    text = "a path of prose with $x^2$ in it " * (words // 8) + "and a " + "long" * 60 + "word"
    return [Card("problem", text), Fork([[Card("path", text, number)] for number in range(1, paths + 1)], [])]


def pages(folder: Path) -> dict[str, str]:
    """Name of a page -> its HTML, with the scripts that measure it."""

    def drawn(name: str, flows: list[list[Card | Fork]]) -> str:
        return page(name, [f'<article class="sample">{trace_html(flow)}</article>' for flow in flows])

    def reported(name: str, rows: list[dict]) -> str:
        return write_report(write_evaluation(folder / name, rows, len({row["problem"] for row in rows}), 1)).read_text()

    rows = prose_rows(3, 5, 3, 120)
    rows[4]["segments"][1]["text"] += " this stands quite alone in it"
    made = {
        "wide": drawn("wide", [*map(block, NUMBERS), nested()]),
        "columns": drawn("columns", [prose(n, 120) for n in (1, 2, 5, 8)]),
        "prose": reported("prose", rows),
        "hostile": reported("hostile", prose_rows(1, 2, 8, 200, hostile=True)),
    }
    made = {name: html.replace(POLICY, "").replace("</body>", f"{MEASURE}</body>") for name, html in made.items()}
    made["prose"] = made["prose"].replace("</body>", f"{USE}</body>")
    return {**made, "harm": page("harm", [HARM])}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[tuple[str, int], dict]:
    """By page and width of the window, what the pages said; of "harm", which has a policy, nothing should be heard."""
    folder = tmp_path_factory.mktemp("browser")
    made = pages(folder)
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    frames = "".join(
        f'<iframe src="{name}.html" width="{width}" height="800"></iframe>' for name in made for width in WIDTHS
    )
    (folder / "all.html").write_text(HARNESS.format(frames=frames))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=10000",
               "--dump-dom", (folder / "all.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    heard = json.loads(unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert all(isinstance(one, dict) for one in heard), "a script ran that stood in the text"
    return {(one["name"], one.get("width")): one for one in heard}


needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install -y chromium")


@pytest.mark.slow
@needs_browser
def test_no_path_is_out_of_sight(measured) -> None:
    for width in WIDTHS:
        samples = measured["wide", width]["found"]
        for number, sample in zip([*NUMBERS, 5], samples, strict=True):
            assert len(sample["paths"]) == number
            assert sample["scrolls"] <= 0
            left, right, *_ = sample["frame"]
            assert 0 <= left < right <= width
            for path in sample["paths"]:
                assert left <= path[0] < path[1] <= right, (width, number)
        for number, sample in zip(NUMBERS, samples, strict=False):
            assert sample["names"] == [f"path {n}" for n in range(1, number + 1)]
            places = [(path[2], path[0]) for path in sample["paths"]]
            assert places == sorted(places), "rows are read from left to right"
            rows = len({path[2] for path in sample["paths"]})
            assert rows > 1 if number > MOST_ABREAST or (width == 390 and number > 2) else rows == 1


@pytest.mark.slow
@needs_browser
def test_paths_of_prose_stand_side_by_side_and_scroll_within_their_block(measured) -> None:
    for width in WIDTHS:
        assert measured["columns", width]["beyond"] <= 0, "the page itself does not scroll sideways"
        for number, sample in zip((1, 2, 5, 8), measured["columns", width]["found"], strict=True):
            assert len({path[2] for path in sample["paths"]}) == 1, "one row"
            assert all(path[1] - path[0] >= 180 for path in sample["paths"]), "and every path can be read"
            ((room, needed),) = sample["columns"]
            fits = number == 1 or (width == 1280 and number <= COLUMNS)
            assert (needed <= room) == fits, (width, number)
            assert sample["hints"] == (not fits), (width, number)
            left, right, *_ = sample["paths"][0]
            assert sample["frame"][0] <= left < right <= sample["frame"][1], "the first path is in sight"


@pytest.mark.slow
@needs_browser
def test_a_report_of_prose_folds_filters_and_finds(measured) -> None:
    for width in WIDTHS:
        folded, opened = measured["use prose", width]["heights"]
        assert 100 < folded < 250
        assert opened > folded + 50
        steps = measured["use prose", width]["steps"]
        assert steps["all"] == ["15 of 15 shown", 15]
        assert steps["problem"] == ["5 of 15 shown", 5]
        assert steps["wrong"][1] < 15
        assert steps["both"][1] <= steps["search"][1] == 1
        assert steps["marked"] == 1
        assert steps["opened"] == 2, "the fold that was opened by hand, and that of what was found"
        assert steps["none"] == ["0 of 15 shown", 0]
        assert steps["folded"] == 1, "what a search opened, the next one folds"


@pytest.mark.slow
@needs_browser
def test_hostile_text_is_text(measured) -> None:
    for width in WIDTHS:
        found = measured["hostile", width]
        assert found["beyond"] <= 0
        assert [len(sample["paths"]) for sample in found["found"]] == [8, 8], "nothing closed the page early"
    assert not any(name == "harm" for name, _ in measured), "and a script that is no text does not run either"


def test_a_block_wraps_unless_the_page_has_room_for_all_its_paths() -> None:
    """What the browser is told: by default a grid of rows; side by side only from that width on; nothing is centred
    beyond its own left edge."""
    plain, _, queries = TRACE_CSS.partition("@container")
    assert re.search(r"\.lanes \{[^}]*grid-template-columns: repeat\(auto-fill, minmax\(min\(100%", plain)
    assert "justify-content: center" not in plain
    widths = {int(n): int(width) for width, n in re.findall(r"\(min-width: (\d+)px\) \{\s+\.n(\d+) >", queries)}
    assert widths == {n: n * LANE for n in range(1, MOST_ABREAST + 1)}
    for number in NUMBERS:
        html = trace_html(block(number))
        assert f'<div class="fork n{number}">' in html
        assert html.count('class="lane"') == number
