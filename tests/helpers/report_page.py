"""A page of a report as its tests read it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from polythink.report import plots
from polythink.report.filters import POLICY

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags match, and collects headings, all text, tag counts and attributes that could load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.heads: list[str] = []
        self.pieces: list[str] = []
        self.links: list[str] = []
        self.policies = 0
        self.feed(html)
        self.text = "".join(self.pieces)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.policies += ("http-equiv", "Content-Security-Policy") in attrs
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.pieces.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.heads.append(data)


def outline(path) -> Outline:
    html = path.read_text(encoding="utf-8")
    found = Outline(html)
    files = [link for link in found.links if not link.startswith("#")]
    assert all((path.parent / unquote(link)).is_file() for link in files), files  # beside the page
    assert not {"link", "img", "iframe", "base", "form", "object"} & set(found.counts)
    assert found.counts.get("script", 0) <= 1
    assert POLICY in html
    assert found.policies == 1
    assert re.findall(r"https?://[^\"'<\s]+", html.replace("http://www.w3.org/2000/svg", "")) == []
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")
    return found


@pytest.fixture
def no_charts(monkeypatch):
    """Matplotlib takes most of a report's time."""
    monkeypatch.setattr(plots, "chart", lambda lines, panel, **more: "<svg></svg>")
