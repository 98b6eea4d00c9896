"""From a parsed trace to pieces: tags and text become tokens, and each token is marked as sampled or forced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
    """The pieces of prompt + response, in text order; the same that the engine records when it draws that response.

    `encode` turns text into token ids without special tokens; `end` is appended to the outermost text (the end token).
    In `structured` mode the runtime writes `<Path>`, `</Parallel>`, the gap and `<Summary>`: these are forced, and so
    is the `opening` with which a summary begins, where it does begin with it, and an element's own opening tag in its
    text, which stands for a stray that the runtime replaced. In `sequential` mode the model writes everything. The
    prompt is never parsed and never sampled.
    """
    writer = _Writer(dialect, encode, forced_tags=mode != "sequential", opening=opening)
    if prompt:
        writer.pieces.append(Piece("prompt", tuple(prompt), (False,) * len(prompt)))
    writer.walk(trace)
    writer.put(end)
    writer.close()
    return writer.pieces


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
        """Write a trace's text into the open piece; each block in it closes the piece and opens a new one behind.

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
        """Write a text, with the tags in it that stand for strays."""
        first, *rest = text.split(own) if own and self.dialect.misplaced_tags == "replace" else [text]
        self.put(self.encode(first))
        for behind in rest:
            self.put(self.encode(own), self.forced_tags)
            self.put(self.encode(behind))

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
        """What is left to write of a summary behind the forced opening."""
        first, *rest = summary.parts or ("",)
        if not (self.opening and isinstance(first, str) and first.startswith(self.opening)):
            return summary
        self.put(self.encode(self.opening), self.forced_tags)
        return Trace(tuple(part for part in (first[len(self.opening) :], *rest) if part))


JOIN_WHEN = ("first", "half", "all")


def paths_needed(join_when: str, paths: int) -> int:
    """How many paths of a block must be through before its summary begins."""
    return {"first": 1, "half": (paths + 1) // 2, "all": paths}[join_when]


def truncate_paths(pieces: Sequence[Piece], join_when: str, close: Callable[[int], int]) -> list[Piece]:
    """The pieces as they would be had the `first` path to be through, or `half` of them, ended the block's paths.

    The others keep as many tokens as the one that was through, and are closed by a forced tag, `close(label)`. Reading
    paths that were cut is learned from such traces. No block may stand inside a path, which then has several pieces.
    """
    paths = [piece for piece in pieces if piece.kind == "path"]
    assert len({piece.chain for piece in paths}) == len(paths), "a block inside a path"
    lengths: dict[int, list[int]] = {}
    for piece in paths:
        lengths.setdefault(piece.block, []).append(len(piece.tokens))
    most = {block: sorted(found)[paths_needed(join_when, len(found)) - 1] for block, found in lengths.items()}
    return [_cut(p, most[p.block], close(p.label)) if p.kind == "path" else p for p in pieces]


def _cut(piece: Piece, length: int, close: int) -> Piece:
    """A path's first `length` tokens and its closing tag, forced; a path that is no longer stays as it is."""
    if len(piece.tokens) <= length:
        return piece
    return replace(piece, tokens=(*piece.tokens[:length], close), sampled=(*piece.sampled[:length], False))
