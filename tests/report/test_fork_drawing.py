"""Drawings of traces: the structure of forks and joins, and well-formed SVG and HTML made from it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from polythink.report.fork_drawing import Card, Fork, flow_of_row, flow_of_segments, flow_of_trace, trace_svg
from polythink.report.fork_html import trace_html
from polythink.report.prose import text_html
from polythink.trace.dialect import DIALECTS, PARALLEL_R1, get_dialect
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.tree import Block, Trace


def segment(kind: str, block: int, path: int, text: str, **more) -> dict:
    return {"kind": kind, "block": block, "path": path, "text": text, **more}


NESTED = {
    "question": "1 < 2 & 3?",
    "segments": [
        segment("main", -1, 0, "Hm. <Parallel>"),
        segment("path", 0, 1, "<Path>two ways <Parallel>"),
        segment("path", 1, 1, "<Path>left</Path>", right=True),
        segment("path", 1, 2, "<Path>right</Path>", right=False, finish_reason="length"),
        segment("summary", 1, 0, "</Parallel>\n<Summary>left it is</Summary>"),
        segment("path", 0, 1, " so 5</Path>", right=True),
        segment("path", 0, 2, "<Path></Path>", finish_reason="eos"),
        segment("summary", 0, 0, "</Parallel>\n<Summary>5</Summary>"),
        segment("main", -1, 0, "Again <Parallel>"),
        segment("path", 2, 1, "<Path>x</Path>"),
        segment("path", 2, 2, "<Path>y</Path>"),
        segment("summary", 2, 0, "</Parallel>\n<Summary>z</Summary>"),
        segment("main", -1, 0, " \\boxed{5}"),
    ],
}


def shape(nodes) -> list:
    """Texts of cards; a fork as its paths and its summary."""
    return [n.text if isinstance(n, Card) else ([shape(p) for p in n.paths], shape(n.summary)) for n in nodes]


def test_flow_follows_forks_joins_and_nesting():
    inner = ([["left"], ["right"]], ["left it is"])
    assert shape(flow_of_row(NESTED)) == [
        "1 < 2 & 3?",
        "Hm.",
        ([["two ways", inner, "so 5"], [""]], ["5"]),
        "Again",
        ([["x"], ["y"]], ["z"]),
        "\\boxed{5}",
    ]


def test_badges_say_what_happened():
    fork = next(node for node in flow_of_row(NESTED) if isinstance(node, Fork))
    nested = next(node for node in fork.paths[0] if isinstance(node, Fork))
    assert nested.paths[0][0].badges == ["path 1", "✓ right"]
    assert nested.paths[1][0].badges == ["path 2", "✗ wrong"]
    assert nested.paths[1][0].warnings == ["truncated: length"]
    assert fork.paths[1][0].badges == ["path 2"]
    assert fork.paths[1][0].warnings == ["closed by force"]
    stopped = replace(fork.paths[1][0], finish_reason="agreed")
    assert stopped.warnings == ["stopped: the controller found that the paths agree"]


def test_a_row_without_segments_is_one_card():
    assert shape(flow_of_row({"text": "just text"})) == ["just text"]
    assert shape(flow_of_row({"text": ""})) == []


def test_svg_is_one_standalone_picture():
    for row in (NESTED, {"text": "just text"}, {"segments": [segment("summary", 0, 0, "cut off")]}):
        root = ElementTree.fromstring(trace_svg(flow_of_row(row)))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.get("width")) > 20
        assert float(root.get("height")) > 20
    texts = [element.text for element in ElementTree.fromstring(trace_svg(flow_of_row(NESTED))).findall(".//{*}text")]
    assert {"1 < 2 & 3?", "left", "path 2 · ✗ wrong · truncated: length", "\\boxed{5}"} <= set(texts)


def test_svg_holds_whatever_a_model_writes():
    root = ElementTree.fromstring(trace_svg(flow_of_row({"text": "a\x00b\x1b[0m \ud800 \ufffe"})))
    assert [element.text for element in root.findall(".//{*}text")] == ["a\ufffdb\ufffd[0m \ufffd \ufffd"]


def test_svg_wraps_long_text_and_stays_in_its_frame():
    words = "word " * 60
    root = ElementTree.fromstring(trace_svg(flow_of_row({"text": words}), columns=30))
    lines = root.findall(".//{*}text")
    assert len(lines) == 10
    assert all(len(line.text) <= 30 for line in lines)
    assert max(float(line.get("y")) for line in lines) < float(root.get("height"))


def test_html_escapes_text_and_marks_paths():
    html = trace_html(flow_of_row(NESTED))
    ElementTree.fromstring(html.replace("&nbsp;", " "))  # balanced
    assert "1 &lt; 2 &amp; 3?" in html
    assert html.count('class="lane"') == 6
    assert html.count('class="card path right"') == 2  # `left`, and the path it stands in
    assert html.count('class="card path wrong"') == 1


def test_a_parsed_trace_has_the_structure_of_its_row():
    text = "".join(part["text"] for part in NESTED["segments"])
    nodes = flow_of_trace(parse(text, PARALLEL_R1))
    assert shape(nodes) == shape(flow_of_row(NESTED))[1:]
    fork = next(node for node in nodes if isinstance(node, Fork))
    assert [path[0].badges for path in fork.paths] == [["path 1"], ["path 2"]]


def test_a_path_that_begins_with_a_block_still_has_its_name():
    inner = "<Parallel>\n<Path>a</Path>\n<Path>b</Path>\n</Parallel>\n<Summary>c</Summary>"
    text = f"<Parallel>\n<Path>{inner}</Path>\n<Path>d</Path>\n</Parallel>\n<Summary>e</Summary>"
    (fork,) = flow_of_trace(parse(text, PARALLEL_R1))
    assert [path[0].badges for path in fork.paths] == [["path 1"], ["path 2"]]
    assert shape(fork.paths[0]) == ["", ([["a"], ["b"]], ["c"])]


def test_numbered_paths_keep_their_numbers():
    dialect = get_dialect("parathinker")
    text = render(Trace((Block((Trace(("x",)), Trace(("y",))), Trace(("z",)), (7, 3)),)), dialect)
    (fork,) = flow_of_trace(parse(text, dialect))
    assert [path[0].path for path in fork.paths] == [7, 3]


COUNTDOWN = {
    "question": "7 8 7 -> 8",
    "segments": [
        segment("main", -1, 0, "<Parallel>"),
        segment("path", 0, 1, "<Path>7 + 8 = 56 - 7 = 34 ok</Path>", right=True),
        segment("path", 0, 2, "<Path>7 - 8 = 3 no</Path>", right=False, finish_reason="length"),
        segment("path", 0, 3, "<Path>7 + 8 = 15 - 7 = 8 ok</Path>", right=True),
        segment("summary", 0, 0, "</Parallel>\n<Summary>+ -</Summary>"),
        segment("main", -1, 0, " \\boxed{ 7 + 8 - 7 }"),
    ],
}


def test_a_countdown_path_is_right_by_its_operators_and_false_equations_are_counted() -> None:
    fork = next(node for node in flow_of_row(COUNTDOWN) if isinstance(node, Fork))
    first, second, third = (path[0] for path in fork.paths)
    assert (first.badges, first.warnings) == (["path 1", "✓ operators right"], ["2 false equations"])
    assert (second.badges, second.warnings) == (
        ["path 2", "✗ operators wrong"],
        ["1 false equation", "truncated: length"],
    )
    assert (third.badges, third.warnings) == (["path 3", "✓ operators right"], [])
    html = trace_html(flow_of_row(COUNTDOWN))
    assert "7 + 8 = <s>56</s> - 7 = <s>34</s> ok" in html
    assert '<span class="boxed">7 + 8 - 7</span>' in html
    assert "2 false equations" in html, "in words, not by colour alone"
    assert "false" not in trace_html(flow_of_row({**COUNTDOWN, "question": "Another task?"}))


def test_boxed_answers_are_drawn_as_boxes() -> None:
    assert text_html(r"so \boxed{\frac{1}{2}}, a < b") == (r'so <span class="boxed">\frac{1}{2}</span>, a &lt; b')
    assert text_html(r"\boxed{ \{1, 2\} } \boxed {x}").count('class="boxed"') == 2
    assert text_html(r"cut \boxed{ 7 + ") == r"cut \boxed{ 7 + "
    assert text_html("\\boxed{ 1 + 1 = 3 }", [(17, 18)]) == '<span class="boxed">1 + 1 = 3</span>'


PLANNED = {
    "multiverse": "go <Parallel>\n<Goal>two ways\n<Outline>1: sum</Outline>\n<Outline>2: product</Outline>\n</Goal>",
    "npr": "<guideline>two ways\n<plan>1: sum</plan>\n<plan>2: product</plan>\n</guideline>",
    "threadweaver": "go <Parallel>\n<Outlines>two ways\n<Outline>1: sum</Outline>\n<Outline>2: product</Outline>"
    "\n</Outlines>",
}


def planned_segments(name: str) -> list[dict]:
    """A response of that dialect as its segments are stored, a copy that the join reads among them."""
    d = DIALECTS[name]
    paths = [
        {"kind": "path", "block": 0, "path": i, "text": f"{d.paths.gap}{d.paths.open}\n{i}: way {d.paths.close}"}
        for i in (1, 2)
    ]
    joins = "".join(tag.text for tag in d.joining)
    told = f"{d.summary.open} both {d.summary.close}" if d.summary else ""
    return [
        {"kind": "main", "text": PLANNED[name], "bounded": True}, *paths,
        {"kind": "copy", "block": 0, "path": 0, "text": "", "tokens": 14},
        {"kind": "summary", "block": 0, "path": 0, "text": f"{joins}\n{told}"},
        {"kind": "main", "text": "".join(tag.text for tag in d.closing) + " so 7"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_is_a_card_and_what_is_read_again_is_a_line(name: str) -> None:
    *before, plan, fork, after = flow_of_segments(planned_segments(name))
    assert [card.text for card in before] == ([] if name == "npr" else ["go"])
    assert (plan.kind, plan.text, plan.badges) == ("plan", "two ways\n1: sum\n2: product", ["plan"])
    assert plan.warnings == ["more paths were declared than are allowed"]
    assert [path[0].text for path in fork.paths] == ["1: way", "2: way"]
    assert fork.summary[0].note == "14 tokens read again"
    told = [card.text for card in fork.summary[1:]]
    assert told == ([] if fork.joined_by_text else ["both"])
    assert fork.joined_by_text == (name == "threadweaver")
    assert (after.kind, after.text) == ("main", "so 7")


@pytest.mark.parametrize("name", PLANNED)
def test_the_same_trace_as_text_has_the_same_structure(name: str) -> None:
    text = "".join(s["text"] for s in planned_segments(name))
    found = [type(node) for node in flow_of_trace(parse(text, DIALECTS[name]))]
    assert found == [type(node) for node in flow_of_segments(planned_segments(name))]


def test_pictures_say_what_is_read_again_and_show_no_copy() -> None:
    flow = flow_of_segments(planned_segments("multiverse"))
    for picture in (trace_svg(flow), trace_html(flow)):
        assert picture.count("14 tokens read again") == 1
        assert picture.count("1: way") == 1
