"""Traces in the terminal: finished ones, and one that is still being sampled."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from polythink.engine.params import Event
from polythink.report.fork_drawing import Card, Fork
from polythink.report.terminal import LiveTrace, draw
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.parse import parse

WORDS = ("</Path>", "first", "left", "right", "both", "then", "\x1b[31m")
TEXT = "first\n<Parallel>\n<Path>left</Path>\n<Path>right</Path>\n</Parallel>\n<Summary>both</Summary>\nthen"


def shown(content: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(content)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def decode(tokens: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def live(*segments: tuple[int, int, Sequence[int]]) -> LiveTrace:
    """A trace after the events of these segments: (block, path, tokens) in order of opening."""
    trace = LiveTrace(decode)
    for segment, (block, path, tokens) in enumerate(segments, start=1):
        trace.on_event(Event("fork" if path else "join", 0, segment, block, path, label=path and path + 4))
        for token in tokens:
            trace.on_event(Event("token", 0, segment, block, path, token, label=path and path + 4))
    return trace


WHOLE = ((-1, 0, (1, 0)), (0, 1, (0, 2, 0)), (0, 2, (0, 3, 0)), (0, 0, (0, 4, 0)), (-1, 0, (5,)))


def test_a_live_trace_looks_like_the_finished_one() -> None:
    trace = live(*WHOLE)
    trace.on_event(Event("done", 0, 0, -1, 0))
    expected = shown(draw(parse(TEXT, PARALLEL_R1)))
    assert shown(trace) == [line.replace("path 1", "path 5").replace("path 2", "path 6") for line in expected]
    assert [line for line in expected if "left" in line and "right" in line], "paths are side by side"


def test_an_open_block_has_its_paths_and_no_summary_yet() -> None:
    trace = live(*WHOLE[:3])
    first, fork = trace.flow()
    assert (first, fork.summary) == (Card("main", "first"), [])
    assert [path[0].text for path in fork.paths] == ["left", "right"]
    assert any("summary" in line for line in shown(trace))
    assert live().flow() == []


def test_two_blocks_in_a_row_are_two_forks() -> None:
    blocks = [(-1, 0, (1,)), (0, 1, (2,)), (0, 2, (3,)), (0, 0, (4,)), (-1, 0, ()), (1, 1, (2,)), (1, 2, (3,))]
    assert [type(node) for node in live(*blocks).flow()] == [Card, Fork, Fork]


def test_paths_are_stacked_where_the_terminal_is_narrow() -> None:
    lines = shown(draw(parse(TEXT, PARALLEL_R1)), width=40)
    assert not any("left" in line and "right" in line for line in lines)
    assert max(map(len, lines)) <= 40


def test_control_characters_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in "".join(shown(live((-1, 0, (6,)))))


def test_a_block_inside_a_path_stands_in_it_although_it_opens_after_the_others() -> None:
    """Path 1 forks while path 2 goes on; it ends after the inner block."""
    events = ((1, -1, 0, 1), (2, 0, 1, 2), (3, 0, 2, 3), (2, 0, 1, 2), (4, 1, 1, 1), (5, 1, 2, 1), (3, 0, 2, 3),
              (6, 1, 0, 4), (7, 0, 1, 5), (8, 0, 0, 4))  # fmt: skip
    trace, seen = LiveTrace(decode), set()
    for segment, block, path, token in events:
        for kind in ("token",) if segment in seen else ("fork", "token"):
            trace.on_event(Event(kind, 0, segment, block, path, token))
        seen.add(segment)
    first, fork = trace.flow()
    assert first == Card("main", "first")
    before, inner, after = fork.paths[0]
    assert (before.text, after.text) == ("left left", "then")
    assert [path[0].text for path in inner.paths] == ["first", "first"]
    assert (inner.summary[0].text, fork.summary[0].text) == ("both", "both")
    assert fork.paths[1][0].text == "right right"
