"""When a block's summary begins before all of its paths have ended, in drawing and in training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from polythink.trace.layout import Piece

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
