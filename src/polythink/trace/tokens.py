"""From a parsed trace to pieces: tags and text become tokens, each marked as sampled or forced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from polythink.trace.layout import Piece
from polythink.trace.modes import Mode, get_mode
from polythink.trace.production import Dialect, Tag
from polythink.trace.tree import Block, Plan, Trace

Encode = Callable[[str], Sequence[int]]


def pieces_of(
    prompt: Sequence[int],
    trace: Trace,
    dialect: Dialect,
    encode: Encode,
    mode: str | Mode,
    end: Sequence[int] = (),
    opening: str = "",
) -> list[Piece]:
    """The pieces of prompt + response in text order: those that the engine records when it draws that response.

    `encode` turns text into token ids without special tokens; `end` (the end token) is appended to the outermost text.
    Where paths are isolated, the runtime writes what opens a path (with the heading that its outline gives it), what
    stands between the paths and the summary, and what opens the summary: these are forced. So are the `opening` of a
    summary that begins with it, and an element's own opening tag within its text, which stands for a misplaced tag that
    the runtime replaced. In a mode of one flat text the model writes everything. The prompt is never parsed and never
    sampled.
    """
    mode = get_mode(mode) if isinstance(mode, str) else mode
    writer = _Writer(dialect, encode, forced_tags=mode.isolated, opening=opening)
    if prompt:
        writer.pieces.append(Piece("prompt", tuple(prompt), (False,) * len(prompt)))
    writer.walk(trace)
    writer.put(end)
    writer.close()
    return writer.pieces


def headings_of(block: Block, dialect: Dialect) -> tuple[str, ...]:
    """The text that is forced after the opening tag of each path; "" in dialects without headings."""
    outlines = block.plan.outlines if block.plan else ()
    return tuple(dialect.heading(i + 1, outlines[i] if i < len(outlines) else "") for i in range(len(block.paths)))


def opening_end(element: Trace, opening: str, encode: Encode) -> int | None:
    """Where an element's text goes on after its forced opening; None if it does not begin with it.

    A tokenizer that has no tokens for white space decodes a forced `a b` as ` a b `: for such a tokenizer the spaces
    around words do not matter, and the tokens must begin with those of the opening.
    """
    first = next(iter(element.parts), "")
    if not isinstance(first, str):
        return None
    wanted = list(encode(opening))
    if not opening.strip() or list(encode(f" {opening} ")) != wanted:
        return len(opening) if first.startswith(opening) else None
    begins = re.match(r"\s*" + r"\s+".join(map(re.escape, opening.split())), first)
    return begins.end() if begins and list(encode(first))[: len(wanted)] == wanted else None


class _Writer:
    def __init__(self, dialect: Dialect, encode: Encode, forced_tags: bool, opening: str) -> None:
        self.dialect, self.encode, self.forced_tags, self.opening = dialect, encode, forced_tags, opening
        self.pieces: list[Piece] = []
        self.blocks = 0
        self.open("main", -1, 0)

    def open(self, kind: str, block: int, path: int, label: int = 0) -> None:
        self.head = (kind, block, path, label)
        self.tokens: list[int] = []
        self.sampled: list[bool] = []

    def put(self, tokens: Sequence[int], forced: bool = False) -> None:
        self.tokens += tokens
        self.sampled += [not forced] * len(tokens)

    def close(self) -> None:
        if self.tokens:
            kind, *place = self.head
            self.pieces.append(Piece(kind, tuple(self.tokens), tuple(self.sampled), *place))
        self.tokens, self.sampled = [], []

    def walk(self, trace: Trace, own: str = "") -> None:
        """Write a trace's text into the open piece; each block in it closes the piece and opens a new one after it.

        `own` is the opening tag of the element that the trace fills.
        """
        head = self.head
        for part in trace.parts:
            if isinstance(part, Block):
                left = self.block(part)
                self.open(*head)
                for tag in left:
                    self.tag(tag)
            else:
                self.text(part, own)

    def text(self, text: str, own: str) -> None:
        """Write a text, forcing the tags in it that stand for misplaced ones."""
        first, *rest = text.split(own) if own and self.dialect.misplaced_tags == "replace" else [text]
        self.put(self.encode(first))
        for part in rest:
            self.put(self.encode(own), self.forced_tags)
            self.put(self.encode(part))

    def tag(self, tag: Tag) -> None:
        self.put([*self.encode(tag.gap), *self.encode(tag.text)], self.forced_tags and tag.by == "runtime")

    def opens(self, gap: str, tag: str) -> None:
        """The tag that opens a path or summary, which the runtime writes."""
        self.put([*self.encode(gap), *self.encode(tag)], self.forced_tags)

    def block(self, block: Block) -> tuple[Tag, ...]:
        """Write a block; returns the tags that close it and that the model writes, in the text after it."""
        d, encode = self.dialect, self.encode
        number, self.blocks = self.blocks, self.blocks + 1
        if d.opening:
            self.tag(d.opening)
        if d.plan:
            self.plan(block.plan or Plan())
        self.close()
        for i, ((label, path), heading) in enumerate(
            zip(block.numbered(), headings_of(block, d), strict=True), start=1
        ):
            opened, closed = d.path_tags(label)
            self.open("path", number, i, label)
            self.opens(d.paths.gap, opened)
            self.walk(self.begun(path, heading), opened)
            self.put(encode(closed))
            self.close()
        self.open("summary", number, 0)
        for tag in d.joining:
            self.tag(tag)
        if d.summary:
            self.opens(d.summary.gap, d.summary.open)
            self.walk(self.begun(block.summary, self.opening), d.summary.open)
            self.put(encode(d.summary.close))
        for tag in d.closing[: d.forced_closing]:
            self.tag(tag)
        self.close()
        return d.closing[d.forced_closing :]

    def plan(self, plan: Plan) -> None:
        """Outlines are written by the model before the fork: in the open piece."""
        tags, encode = self.dialect.plan, self.encode
        opened, closed = tags.item
        self.put([*encode(self.dialect.plan_gap), *encode(tags.open)])
        self.put(encode(plan.goal))
        for outline in plan.outlines:
            self.put([*encode(tags.gap), *encode(opened)])
            self.put([*encode(outline), *encode(closed)])
        self.put([*encode(tags.gap), *encode(tags.close)])

    def begun(self, element: Trace, opening: str) -> Trace:
        """Write the text that a path or summary is forced to begin with; what is left of the element to write."""
        end = opening_end(element, opening, self.encode) if opening else None
        if end is None:
            return element
        self.put(self.encode(opening), self.forced_tags)
        first, *rest = element.parts
        return Trace(tuple(part for part in (first[end:], *rest) if part))
