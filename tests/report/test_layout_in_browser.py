"""A report in a real browser: every path of a wide block is in sight on a phone and on a desktop."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from polythink.report.fork_drawing import Card, Fork
from polythink.report.fork_html import LANE, MOST_ABREAST, TRACE_CSS, trace_html
from polythink.report.page import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NUMBERS = (1, 3, 8, 9, 10, 16, 33)
WIDTHS = (390, 1280)
MEASURE = """<script>
const box = (of) => { const r = of.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
const found = [...document.querySelectorAll(".sample")].map((sample) => ({
  frame: box(sample), scrolls: sample.querySelector(".trace").scrollWidth - sample.querySelector(".trace").clientWidth,
  paths: [...sample.querySelectorAll(".card.path")].map(box),
  names: [...sample.querySelectorAll(".card.path .badges b:first-child")].map((b) => b.textContent),
}));
parent.postMessage({ width: innerWidth, found: found }, "*");
</script>"""
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


def measure(tmp_path: Path, flows: list[list[Card | Fork]]) -> dict[int, list[dict]]:
    """By width of the window: for each flow the frame of its sample, and the place of each of its paths."""
    samples = "".join(f'<article class="sample">{trace_html(flow)}</article>' for flow in flows)
    (tmp_path / "page.html").write_text(page("wide blocks", [samples]).replace("</body>", f"{MEASURE}</body>"))
    frames = "".join(f'<iframe src="page.html" width="{width}" height="800"></iframe>' for width in WIDTHS)
    (tmp_path / "all.html").write_text(HARNESS.format(frames=frames))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=10000",
               "--dump-dom", (tmp_path / "all.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    heard = json.loads(unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    return {one["width"]: one["found"] for one in heard}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install -y chromium")
def test_no_path_is_out_of_sight(tmp_path: Path) -> None:
    flows = [*map(block, NUMBERS), nested()]
    measured = measure(tmp_path, flows)
    assert sorted(measured) == sorted(WIDTHS)
    for width, samples in measured.items():
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
