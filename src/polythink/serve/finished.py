"""A finished rollout as clients show it: the slow twin of `linear.py`, which has the rules.

It reads the segments in text order, when all is known, where `linear.py` follows events. Answers that are not streamed
are written from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from polythink.serve.growing import Spelling
from polythink.serve.linear import APART, BELOW, BESIDE, CUT, continued, path_heading, summary_heading
from polythink.trace.rollout import TRUNCATIONS, Rollout, Segment

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Element:
    """A stretch of main text before the last join, a path of a block of it, or a summary; with all that lies in it."""

    kind: Literal["main", "path", "summary"]
    text: str
    path: int = 0
    label: int = 0
    cut: str = ""  # why it was truncated, if it was


@dataclass(frozen=True)
class Shown:
    """A trace as reasoning and content. `elements` are the parts of the reasoning, for clients that show them apart."""

    reasoning: str
    content: str
    elements: tuple[Element, ...]


def shown(rollout: Rollout, spelling: Spelling) -> Shown:
    """What a client is shown of a rollout whose texts are filled in."""
    reader = _Reader(spelling)
    segments = [segment for segment in rollout.segments if segment.kind != "copy"]
    runs = _runs(segments, (-1, 0))
    last = max((i for i, (own, _) in enumerate(runs) if not own), default=-1)
    content = reader.tail(segments, (-1, 0))
    reasoning: list[str] = []
    elements: list[Element] = []
    for i, (own, run) in enumerate(runs[: last + 1]):
        text = reader.own(run) if own else reader.block(run, "", answers=i == last)
        reasoning.append(text)
        elements += ([Element("main", text)] if text else []) if own else reader.elements(run, answers=i == last)
    return Shown(APART.join(filter(None, reasoning)), content, tuple(elements))


def _runs(segments: Sequence[Segment], own: tuple[int, int]) -> list[tuple[bool, list[Segment]]]:
    """The segments of a text by turns: its own, and those of a block in it."""
    return [(is_own, list(run)) for is_own, run in groupby(segments, key=lambda s: (s.block, s.path) == own)]


def _children(run: Sequence[Segment]) -> dict[int, list[Segment]]:
    """The segments of each path of a block, and of its summary (0), with the blocks in them."""
    block, place, found = run[0].block, run[0].path, {}
    for segment in run:
        place = segment.path if segment.block == block else place
        found.setdefault(place, []).append(segment)
    return found


class _Reader:
    def __init__(self, spelling: Spelling) -> None:
        self.spelling, self.decode = spelling, spelling.tags.decode
        self.answers = spelling.tags.dialect.answers_in_summary

    def stretches(self, segment: Segment) -> list[str]:
        """The text of a segment between its tags. What spells a tag without being one is text."""
        found, done = [], 0
        for i, token in enumerate(segment.tokens):
            if (tag := self.spelling.texts.get(token)) is not None:
                at = segment.text.find(tag, len(self.decode(segment.tokens[:i])))
                if at < 0:
                    break  # it comes after a stop string
                found.append(segment.text[done:at])
                done = at + len(tag)
        return [text for part in (*found, segment.text[done:]) if (text := part.strip())]

    def own(self, run: Sequence[Segment]) -> str:
        return BELOW.join(text for segment in run for text in self.stretches(segment))

    def text(self, segments: Sequence[Segment], own: tuple[int, int], name: str = "", title: str = "") -> str:
        """A text with the blocks in it. `title`: its heading, which a summary has not yet shown."""
        runs = _runs(segments, own)
        path, told = own[1], ""
        for i, (is_own, run) in enumerate(runs):
            part = self.own(run) if is_own else self.block(run, name)
            if is_own and title and part and (i or not path):
                part = f"{continued(title) if i else title}{BELOW}{part}"
            told += (APART if told else "") + part if part else ""
        return told

    def block(self, run: Sequence[Segment], name: str, answers: bool = False) -> str:
        """A block's paths and summary, each with its heading; of one that answers, what is no content."""
        parts, block = [], run[0].block
        for place, own in sorted(_children(run).items(), key=lambda item: item[0] or len(run) + 1):
            if place:
                parts.append(self.path(own, (block, place), f"{name}.{place}" if name else str(place), heading=True))
            elif answers and self.answers:
                parts.append(self.head(own, (block, 0), name))
            else:
                parts.append(self.text(own, (block, 0), name, summary_heading(name)))
        return APART.join(filter(None, parts))

    def path(self, segments: Sequence[Segment], own: tuple[int, int], name: str, heading: bool = False) -> str:
        title = path_heading(name)
        text = self.text(segments, own, name, title)
        first = (segments[0].block, segments[0].path) == own and self.own(_runs(segments, own)[0][1])
        told = f"{title}{BELOW if first else APART}{text}" if heading and text else title * heading + text
        last = [segment for segment in segments if (segment.block, segment.path) == own][-1]
        if last.finish_reason in TRUNCATIONS:
            inner = [is_own for is_own, run in _runs(segments, own) if not is_own or self.own(run)][-1:] == [False]
            told += f"{APART}{continued(title)}{BELOW}{CUT}" if inner else (BESIDE if told else "") + CUT
        return told

    # --- the last block

    def head(self, segments: Sequence[Segment], own: tuple[int, int], name: str) -> str:
        """Of a summary that answers, all up to its own last block, which is no content."""
        runs = _runs(segments, own)
        last = max((i for i, (is_own, _) in enumerate(runs) if not is_own), default=-1)
        if last < 0:
            return ""
        inner = self.block(runs[last][1], name, answers=True)
        before = [segment for _, run in runs[:last] for segment in run]
        told = self.text(before, own, name, summary_heading(name)) if before else ""
        return APART.join(filter(None, (told, inner)))

    def tail(self, segments: Sequence[Segment], own: tuple[int, int]) -> str:
        """What of a text is content."""
        runs = _runs(segments, own)
        text = self.own(runs[-1][1]) if runs and runs[-1][0] else ""
        blocks = [run for is_own, run in runs if not is_own]
        if self.answers and blocks and (summary := _children(blocks[-1]).get(0)):
            text = APART.join(filter(None, (self.tail(summary, (blocks[-1][0].block, 0)), text)))
        return text

    def elements(self, run: Sequence[Segment], answers: bool) -> list[Element]:
        """The paths of a block of main text, and its summary where that is reasoning."""
        found, block = [], run[0].block
        for place, own in sorted(_children(run).items(), key=lambda item: item[0] or len(run) + 1):
            if place:
                last = [segment for segment in own if segment.path == place and segment.block == block][-1]
                text = self.path(own, (block, place), str(place))
                reason = last.finish_reason if last.finish_reason in TRUNCATIONS else ""
                found.append(Element("path", text, place, last.label, reason))
                continue
            title = summary_heading("")
            text = self.head(own, (block, 0), "") if answers and self.answers else self.text(own, (block, 0), "", title)
            text = text.removeprefix(f"{title}{BELOW}")  # it stands apart
            found += [Element("summary", text)] if text else []
        return found
