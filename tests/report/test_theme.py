"""Light and dark: every colour pair can be read, and charts and page follow the reader's system."""

from __future__ import annotations

import re

import pytest

from polythink.report.page import page
from polythink.report.plots import Line, Panel, chart
from polythink.report.theme import BADGES, COLOURS, GROUNDS, SERIES, TEXT, theme_css, var


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2: 1 for equal colours, 21 for black on white."""

    def luminance(colour: str) -> float:
        channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_can_be_read(theme: int) -> None:
    colours = {name: pair[theme] for name, pair in COLOURS.items()}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in TEXT:
        for ground in GROUNDS:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in BADGES:
        assert contrast(colours[name], colours[f"{name}-ground"]) >= 4.5, name
    for name in colours:
        if name.startswith("series"):
            assert contrast(colours[name], colours["ground"]) >= 3, name


def test_both_themes_define_every_colour_and_the_style_sheet_uses_no_other() -> None:
    light, dark = theme_css().split("@media screen and (prefers-color-scheme: dark)")
    for name, pair in COLOURS.items():
        assert f"--{name}: {pair[0]};" in light
        assert f"--{name}: {pair[1]};" in dark
    style = re.search("<style>(.*)</style>", page("t", []), re.DOTALL)[1].removeprefix(theme_css())
    assert not re.search(r"#[0-9a-f]{3,6}\b|: *(white|black)\b", style)
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) <= COLOURS.keys()


def test_charts_follow_the_theme_and_stand_alone() -> None:
    svg = chart([Line("a", SERIES[0], [1, 2], [0.1, 0.4])], Panel("A & B (nats)", ("a", "b")))
    bare = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
    assert set(re.findall(r"#[0-9a-f]{6}", bare)) == set(), "no colour of a chart is fixed"
    assert f"var(--series-1, {SERIES[0]})" in svg
    assert 'aria-label="A &amp; B (nats)"' in svg
    assert var("#123456") == "#123456"
