"""When a block's summary begins before all of its paths have ended: a rule of decoding, and of training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from polythink.trace.layout import Piece

JOIN_WHEN = ("first", "half", "all")


def paths_needed(join_when: str, paths: int) -> int:
    """Number of paths of a block that must have finished before its summary begins."""
    return {"first": 1, "half": (paths + 1) // 2, "all": paths}[join_when]


def truncate_paths(pieces: Sequence[Piece], join_when: str, close: Callable[[int], int]) -> list[Piece]:
    """Truncate all paths to the length at which the block would have ended under `join_when` ("first" or "half"), and
    close them with a forced tag.

    `close(label)` is that tag's token. Training on such traces teaches the summary to read truncated paths. Paths
    must not contain blocks: each has to be one piece.
    """
    paths = [piece for piece in pieces if piece.kind == "path"]
    assert len({piece.chain for piece in paths}) == len(paths), "a block inside a path"
    lengths: dict[int, list[int]] = {}
    for piece in paths:
        lengths.setdefault(piece.block, []).append(len(piece.tokens))
    longest = {block: sorted(found)[paths_needed(join_when, len(found)) - 1] for block, found in lengths.items()}
    return [_truncate(p, longest[p.block], close(p.label)) if p.kind == "path" else p for p in pieces]


def _truncate(piece: Piece, length: int, close: int) -> Piece:
    """A path's first `length` tokens and its forced closing tag; a path that is no longer than that stays as it is."""
    if len(piece.tokens) <= length:
        return piece
    return replace(piece, tokens=(*piece.tokens[:length], close), sampled=(*piece.sampled[:length], False))
