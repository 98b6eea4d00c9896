"""From a parsed trace to pieces: tags and text become tokens, each marked as sampled or forced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from polythink.trace.dialect import Dialect
from polythink.trace.layout import Piece
from polythink.trace.tree import Block, Trace

Encode = Callable[[str], Sequence[int]]


def pieces_of(
    prompt: Sequence[int],
    trace: Trace,
    dialect: Dialect,
    encode: Encode,
    mode: str,
    end: Sequence[int] = (),
    opening: str = "",
) -> list[Piece]:
    """The pieces of prompt + response in text order: those that the engine records when it draws that response.

    `encode` turns text into token ids without special tokens; `end` (the end token) is appended to the outermost text.
    In `structured` mode the runtime writes `<Path>`, `</Parallel>`, the gap and `<Summary>`: these are forced. So are
    the `opening` of a summary that begins with it, and an element's own opening tag within its text, which stands for a
    misplaced tag that the runtime replaced. In `sequential` mode the model writes everything. The prompt is never
    parsed and never sampled.
    """
    writer = _Writer(dialect, encode, forced_tags=mode != "sequential", opening=opening)
    if prompt:
        writer.pieces.append(Piece("prompt", tuple(prompt), (False,) * len(prompt)))
    writer.walk(trace)
    writer.put(end)
    writer.close()
    return writer.pieces


def opening_end(summary: Trace, opening: str, encode: Encode) -> int | None:
    """Where a summary's text goes on after the forced opening; None if it does not begin with it.

    A tokenizer that has no tokens for white space decodes a forced `a b` as ` a b `: for such a tokenizer the spaces
    around words do not matter, and the tokens must begin with those of the opening.
    """
    first = next(iter(summary.parts), "")
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
                self.block(part)
                self.open(*head)
            else:
                self.text(part, own)

    def text(self, text: str, own: str) -> None:
        """Write a text, forcing the tags in it that stand for misplaced ones."""
        first, *rest = text.split(own) if own and self.dialect.misplaced_tags == "replace" else [text]
        self.put(self.encode(first))
        for part in rest:
            self.put(self.encode(own), self.forced_tags)
            self.put(self.encode(part))

    def block(self, block: Block) -> None:
        d, encode, forced = self.dialect, self.encode, self.forced_tags
        number, self.blocks = self.blocks, self.blocks + 1
        self.put(encode(d.block_open))
        self.close()
        for i, (label, path) in enumerate(block.numbered(), start=1):
            opened, closed = d.path_tags(label)
            self.open("path", number, i, label)
            self.put(encode(opened), forced)
            self.walk(path, opened)
            self.put(encode(closed))
            self.close()
        self.open("summary", number, 0)
        for text in (d.block_close, d.gap, d.summary_open):
            self.put(encode(text), forced)
        self.walk(self.opened(block.summary), d.summary_open)
        self.put(encode(d.summary_close))
        self.close()

    def opened(self, summary: Trace) -> Trace:
        """Write the forced opening of a summary; what is left of the summary to write."""
        first, *rest = summary.parts or ("",)
        end = opening_end(summary, self.opening, self.encode) if self.opening else None
        if end is None:
            return summary
        self.put(self.encode(self.opening), self.forced_tags)
        return Trace(tuple(part for part in (first[end:], *rest) if part))
