"""From a parsed trace to pieces: tags and text become tokens, and each token is marked as sampled or forced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polythink.trace.dialect import Dialect
from polythink.trace.layout import Piece
from polythink.trace.tree import Block, Trace

Encode = Callable[[str], Sequence[int]]


def pieces_of(
    prompt: Sequence[int], trace: Trace, dialect: Dialect, encode: Encode, mode: str, end: Sequence[int] = ()
) -> list[Piece]:
    """The pieces of prompt + response, in text order; the same that the engine records when it draws that response.

    `encode` turns text into token ids without special tokens; `end` is appended to the outermost text (the end token).
    In `structured` mode the runtime writes `<Path>`, `</Parallel>`, the gap and `<Summary>`: these are forced. In
    `sequential` mode the model writes everything. The prompt is never parsed and never sampled.
    """
    writer = _Writer(dialect, encode, forced_tags=mode != "sequential")
    if prompt:
        writer.pieces.append(Piece("prompt", tuple(prompt), (False,) * len(prompt)))
    writer.walk(trace, "main", -1, 0)
    writer.put(end)
    writer.close()
    return writer.pieces


class _Writer:
    def __init__(self, dialect: Dialect, encode: Encode, forced_tags: bool) -> None:
        self.dialect, self.encode, self.forced_tags = dialect, encode, forced_tags
        self.pieces: list[Piece] = []
        self.blocks = 0
        self.open("main", -1, 0)

    def open(self, kind: str, block: int, path: int) -> None:
        self.head = (kind, block, path)
        self.tokens: list[int] = []
        self.sampled: list[bool] = []

    def put(self, tokens: Sequence[int], forced: bool = False) -> None:
        self.tokens += tokens
        self.sampled += [not forced] * len(tokens)

    def close(self) -> None:
        if self.tokens:
            kind, block, path = self.head
            self.pieces.append(Piece(kind, tuple(self.tokens), tuple(self.sampled), block, path))
        self.tokens, self.sampled = [], []

    def walk(self, trace: Trace, kind: str, block: int, path: int) -> None:
        """Write a trace's text into the open piece; each block in it closes the piece and opens a new one behind."""
        for part in trace.parts:
            if isinstance(part, Block):
                self.block(part)
                self.open(kind, block, path)
            else:
                self.put(self.encode(part))

    def block(self, block: Block) -> None:
        d, encode, forced = self.dialect, self.encode, self.forced_tags
        number, self.blocks = self.blocks, self.blocks + 1
        self.put(encode(d.block_open))
        self.close()
        for i, path in enumerate(block.paths, start=1):
            self.open("path", number, i)
            self.put(encode(d.path_open), forced)
            self.walk(path, "path", number, i)
            self.put(encode(d.path_close))
            self.close()
        self.open("summary", number, 0)
        self.put(encode(d.block_close), forced)
        self.put(encode(d.gap), forced)
        self.put(encode(d.summary_open), forced)
        self.walk(block.summary, "summary", number, 0)
        self.put(encode(d.summary_close))
        self.close()
