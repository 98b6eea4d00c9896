"""A trace as clients show it that know one reasoning and one answer: whole paths one after another, then the content.

    reasoning                                        content
    main text before the last block                  main text after the last block; where the dialect answers in the
    Path 1:                                          summary, that of the last block comes first
    its text
    Path 2:
    its text (cut)                                   a path that was truncated or stopped
    Path 2.1: ..                                     a block in path 2; after it: `Path 2, continued:`
    Summary of path 2: ..
    Summary:
    its text

No tag is shown: it ends a stretch of text. White space around a stretch is left out; stretches of one text stand on
lines of their own, so the outlines of a plan are a list, and elements are set apart by an empty line. What a join reads
again (a copy) is not shown. A trace without a block is content as a whole; one that ends before its last block was
joined has none.

`Linear` says this piece by piece while the trace is drawn: the first path that has not ended is told as it grows, the
others when their turn comes. Nothing is reasoning once content has begun: text that may yet turn out to be followed by
a block is held until that is known. `finished.py` is the twin that reads a finished rollout.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from polythink.engine.params import Event, SamplingParams
from polythink.serve.growing import Block, Growing, Spelling, Text

CUT = "(cut)"
APART, BELOW, BESIDE = "\n\n", "\n", " "  # what stands between two stretches


def path_heading(name: str) -> str:
    return f"Path {name}:"


def summary_heading(name: str) -> str:
    """`name`: the path in which the block lies; "" for a block of main text."""
    return f"Summary of path {name}:" if name else "Summary:"


def continued(heading: str) -> str:
    """The heading of what follows a block in that element."""
    return f"{heading[:-1]}, continued:"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of what is shown. `gap` and `heading` come before it where it begins a stretch; content has no headings.

    `of`: the text that it lies in. In a `tail` it is content unless a block follows. `last`: nothing more comes of its
    element.
    """

    of: Text
    text: str = ""
    gap: str = ""
    heading: str = ""
    tail: bool = False
    last: bool = False
    events: tuple[Event, ...] = ()  # of sampled tokens: the text of the pieces is theirs

    @property
    def element(self) -> Text:
        """Main text, or the path or summary of a block of main text in which it lies."""
        return next(text for text in self.of.around if text.depth <= 1)

    def shown(self, follows: bool, heading: bool) -> str:
        """Its text with what comes before it, where it `follows` other text; content has no heading."""
        if not self.text:
            return ""
        return (self.gap if follows else "") + (f"{self.heading}\n" if heading and self.heading else "") + self.text


Kind = Literal["reasoning", "content"]
Pieces = Iterator[Piece | None]  # None: what comes next is not known yet


class Walk:
    """The pieces of a growing trace in text order. `abreast`: the paths of a block of main text are told at once, each
    without its heading."""

    def __init__(self, answers: bool, abreast: bool = False) -> None:
        self.answers, self.abreast = answers, abreast

    def text(self, text: Text, name: str = "", title: str = "") -> Pieces:
        """`name`: the path in which the text lies, or which it is; `title`: its heading, of a path told before."""
        tail = all(not around.block or (self.answers and not around.path) for around in text.around)
        gap, heading = (BELOW, "") if text.path else (APART, title)
        i = 0
        while True:
            while i < len(text.parts):
                part = text.parts[i]
                if isinstance(part, Block):
                    yield Piece(text)  # what came before is no content
                    yield from self.block(part, name)
                    gap, heading = APART, continued(title) if title else ""
                else:
                    shown = yield from self._stretch(text, i, Piece(text, "", gap, heading, tail))
                    gap, heading = (BELOW, "") if shown else (gap, heading)
                i += 1
            if text.ended:
                break
            yield None
        if text.path and text.cut:
            yield Piece(text, CUT, gap if heading else BESIDE, heading)
        if text.depth <= 1:
            yield Piece(text, tail=tail, last=True)

    def _stretch(self, text: Text, i: int, first: Piece) -> Generator[Piece | None, None, bool]:
        """The pieces of a stretch, without white space around it; returns whether there were any."""
        pieces = text.parts[i].pieces
        shown, space, events, j = False, "", [], 0
        while True:
            while j < len(pieces):
                piece, event = pieces[j]
                j += 1
                events += [event] if event else []
                piece = space + piece if shown else piece.lstrip()
                visible = piece.rstrip()
                space = piece[len(visible) :]
                if visible:
                    before = {"gap": "", "heading": ""} if shown else {}
                    yield replace(first, text=visible, events=tuple(events), **before)
                    shown, events = True, []
            if text.ended or i + 1 < len(text.parts):
                break
            yield None
        if events:
            yield replace(first, gap="", heading="", events=tuple(events))
        return shown

    def block(self, block: Block, name: str) -> Pieces:
        """Its paths in their order, each from its heading on, and its summary."""
        told = self._abreast if self.abreast and block.text.depth == 0 else self._in_turn
        yield from told(block, name)
        if block.summary is not None:
            yield from self.text(block.summary, name, summary_heading(name))

    def _in_turn(self, block: Block, name: str) -> Pieces:
        i = 0
        while True:
            while i < len(block.paths):
                yield from self._path(block.paths[i], name)
                i += 1
            if block.joined:
                return
            yield None

    def _abreast(self, block: Block, name: str) -> Pieces:
        walks: list[Pieces] = []
        while True:
            walks += [self._path(path, name) for path in block.paths[len(walks) :]]
            for walk in walks:
                yield from takewhile(lambda piece: piece is not None, walk)
            if block.joined:
                return
            yield None

    def _path(self, path: Text, name: str) -> Pieces:
        name = f"{name}.{path.path}" if name else str(path.path)
        yield Piece(path) if self.abreast and path.depth == 1 else Piece(path, path_heading(name), APART)
        yield from self.text(path, name, path_heading(name))


@dataclass(frozen=True, slots=True)
class Delta:
    """What is to be appended to the reasoning or to the content, and the events of the sampled tokens in it."""

    kind: Kind
    text: str
    events: tuple[Event, ...] = ()


class Phases:
    """One trace as pieces of reasoning and then of content; `add` takes its events in order.

    What may turn out as either is held. An empty piece of reasoning says where its text stands.
    """

    def __init__(self, spelling: Spelling, params: SamplingParams, abreast: bool = False) -> None:
        self.growing = Growing(spelling, params)
        main, answers = self.growing.main, spelling.tags.dialect.answers_in_summary
        self._pieces = Walk(answers, abreast).text(main)
        self._held: list[Piece] = []
        self._answered = False

    def add(self, event: Event, text: str = "") -> list[tuple[Kind, list[Piece]]]:
        """What the event tells."""
        self.growing.add(event, text)
        told: list[tuple[Kind, list[Piece]]] = []
        for piece in takewhile(lambda piece: piece is not None, self._pieces):
            self._held.append(piece)
            if not piece.tail:
                assert not self._answered, "there is no reasoning after content"
                told.append(("reasoning", self._take()))
        if self._held and not any(map(self.growing.may_open, self._held[-1].of.around)):
            self._answered = True
            told.append(("content", self._take()))
        return told

    def _take(self) -> list[Piece]:
        taken, self._held = self._held, []
        return taken


class Linear:
    """One trace as two texts, reasoning and content; `add` takes its events in order and returns what they tell."""

    def __init__(self, spelling: Spelling, params: SamplingParams) -> None:
        self._phases = Phases(spelling, params)
        self._told: dict[Kind, bool] = {"reasoning": False, "content": False}

    def add(self, event: Event, text: str = "") -> list[Delta]:
        found = [self._tell(kind, pieces) for kind, pieces in self._phases.add(event, text)]
        return [delta for delta in found if delta.text or delta.events]

    def _tell(self, kind: Kind, pieces: Sequence[Piece]) -> Delta:
        shown, events = "", ()
        for piece in pieces:
            shown += piece.shown(self._told[kind], kind == "reasoning")
            self._told[kind] |= bool(piece.text)
            events += piece.events
        return Delta(kind, shown, events)
