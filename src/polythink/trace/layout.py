"""The layout of a tokenised trace: one table from which masks, positions, losses and cache reads all follow.

A trace is a list of pieces in text order. `wire` decides what each piece follows; everything else is derived:
`sees` is the closure of `follows`, a segment starts one position after the latest end among those it follows, and a
token's predecessor is the one before it in its chain. Modes differ only in the wiring of the pieces, and in whether the
paths stand there a second time, as the flat text that a join reads again (`arrange`).

Two more rules change no wiring: `path_position_stride` sets the paths of a block apart in position (the "flattened"
positions that ParaThinker rejects, arXiv 2509.04475), and `trained_paths` scales attention after a join of more paths
than in training.

Axis legend: T tokens of the flat trace, S segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Any

import numpy as np

from polythink.trace.modes import Mode, get_mode

KINDS = ("prompt", "main", "path", "copy", "summary")
SHORT = 256  # tokens: shapes of longer traces hardly ever come again


@dataclass(frozen=True)
class Piece:
    """A run of tokens with the same visibility, in text order: what a segment is made of.

    The pair (`block`, `path`) names the chain that the piece continues: (-1, 0) for the prompt and the outermost text,
    (b, 1..P) for the paths of block b, (b, 0) for its summary. Blocks are numbered from 0 as they open. A piece ends
    with what stands before a block's paths (its opening tag, its plan); a path owns both its tags; the summary begins
    with what the runtime writes after the paths. `label` is the number in a path's tags (dialects with numbered paths),
    which need not be its place among the paths. A `copy` is the flat text of a block's paths, read again.
    """

    kind: str
    tokens: tuple[int, ...]
    sampled: tuple[bool, ...]
    block: int = -1
    path: int = 0
    label: int = 0

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert len(self.tokens) == len(self.sampled)
        assert self.tokens, "a piece holds at least one token"

    @property
    def chain(self) -> tuple[int, int]:
        return (self.block, self.path)


@dataclass(frozen=True)
class Layout:
    """Per-token and per-segment facts of one trace. Arrays are read-only by convention."""

    tokens: np.ndarray  # (T,) int64
    segment: np.ndarray  # (T,) int32: the segment of each token; segments are numbered in text order
    position: np.ndarray  # (T,) int32: what rotary embedding sees
    previous: np.ndarray  # (T,) int32: flat index of the predecessor in the chain, -1 for the first token
    sampled: np.ndarray  # (T,) bool: drawn from the model (True), or prompt or forced by the runtime (False)
    kinds: tuple[str, ...]  # (S,)
    paths: tuple[int, ...]  # (S,) number of the path within its block, 0 elsewhere
    labels: tuple[int, ...]  # (S,) the number in a path's tags, 0 elsewhere
    scales: tuple[float, ...]  # (S,) factor on the attention scores of a segment's queries
    follows: tuple[tuple[int, ...], ...]  # (S,)
    sees: np.ndarray  # (S, S) bool: sees[q, k]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def shown(self) -> np.ndarray:
        """(T,) bool: part of the text, and not of a copy that the join reads again."""
        return np.array([kind != "copy" for kind in self.kinds])[self.segment]

    def may_attend(self) -> np.ndarray:
        """(T, T) bool: query token may attend key token iff its segment sees the key's and the key is not after it."""
        not_after = np.tri(len(self), dtype=bool)
        return self.sees[self.segment[:, None], self.segment[None, :]] & not_after


def arrange(pieces: Sequence[Piece], mode: Mode) -> list[Piece]:
    """The pieces as the mode reads them: where the join reads again, a copy of each block's paths before its summary.

    The copy holds what the text shows between the opening of the block and its summary, blocks in paths included, once.
    """
    shown = [piece for piece in pieces if piece.kind != "copy"]
    if not mode.rereads:
        return shown
    arranged: list[Piece] = []
    start: dict[int, int] = {}  # block -> index of its first piece
    joined: set[int] = set()
    for i, piece in enumerate(shown):
        begin = start.setdefault(piece.block, i)
        if piece.block >= 0 and piece.path == 0 and piece.block not in joined:
            joined.add(piece.block)
            tokens = tuple(token for before in shown[begin:i] for token in before.tokens)
            if tokens:
                arranged.append(Piece("copy", tokens, (False,) * len(tokens), piece.block))
        arranged.append(piece)
    return arranged


def standing(chains: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """For each block the chain in which it stands, given the chain (`Piece.chain`) of every piece in text order.

    Where the piece before the block belongs to a path or summary which goes on later, the block stands inside it; where
    that one has ended, the block stands after it, in the text of its own block: in a dialect without tags for blocks,
    nothing need lie between two of them.
    """
    last = {chain: i for i, chain in enumerate(chains)}
    text: dict[int, tuple[int, int]] = {}
    for i, (block, _) in enumerate(chains):
        if block >= 0 and block not in text:
            before = chains[i - 1] if i else (-1, 0)
            ended = before[0] >= 0 and last[before] < i
            text[block] = text[before[0]] if ended else before
    return text


def wire(pieces: Sequence[Piece], mode: Mode) -> tuple[tuple[int, ...], ...]:
    """For each piece, the pieces it follows (indices into `pieces`): the only place where modes differ.

    Isolated paths of a block all follow the fork point. Its summary follows the ends of all its paths (the fork point
    if it has none), or their copy, which follows the fork point too. The text in which the block stands goes on after
    the summary. In a mode of one flat text each piece follows the one before it, as in an ordinary language model.

    The fork point is the piece before the block; `standing` says in which text the block stands.
    """
    if not mode.isolated:
        return tuple((i - 1,) if i else () for i in range(len(pieces)))
    follows: list[tuple[int, ...]] = []
    tail: dict[int, dict[int, int]] = {-1: {}}  # block -> path -> its last piece, a summary counting for its text
    fork: dict[int, tuple[int, ...]] = {}  # block -> the piece before it, () at the very start
    text = standing([piece.chain for piece in pieces if piece.kind != "copy"])
    copy: dict[int, tuple[int, ...]] = {}  # block -> what its summary reads in place of the paths
    for i, piece in enumerate(pieces):
        block, path = piece.chain
        if block >= 0 and block not in fork:
            fork[block] = (i - 1,) if i else ()
        if piece.kind == "copy":
            follows.append(fork[block])
            copy[block] = (i,)
            continue
        own = tail.setdefault(block, {})
        if path in own:
            follows.append((own[path],))
        elif block < 0:
            follows.append(())
        else:
            ends = copy.get(block, tuple(end for number, end in own.items() if number > 0))
            follows.append((ends if path == 0 else ()) or fork[block])
        own[path] = i
        if block >= 0 and path == 0:
            outer, number = text[block]
            tail[outer][number] = i
    return tuple(follows)


def closure(follows: Sequence[Sequence[int]]) -> np.ndarray:
    """`sees` (S, S) bool: a segment sees itself and everything that the segments it follows see."""
    sets: list[set[int]] = []
    for s, before in enumerate(follows):
        sets.append({s}.union(*(sets[f] for f in before)))
    return np.array([[k in seen for k in range(len(sets))] for seen in sets], bool).reshape(len(sets), len(sets))


def join_scale(seen: int, of_paths: int, paths: int, trained_paths: int) -> float:
    """Factor on the attention scores after a join of more paths than the model was trained with: ln n / ln n_trained.

    A softmax over more keys is flatter; the factor makes up for it. `seen` keys are visible at the join, `of_paths` of
    them belong to its `paths` paths; n_trained is the number that would be visible with `trained_paths` paths of that
    length. 1.0 where `trained_paths` is 0 or not exceeded.
    """
    if not 0 < trained_paths < paths:
        return 1.0
    return log(seen) / log(seen - of_paths * (1 - trained_paths / paths))


def attention_scales(
    pieces: Sequence[Piece], follows: Sequence[Sequence[int]], sees: np.ndarray, trained_paths: int
) -> tuple[float, ...]:
    """(S,) `join_scale` of each summary; the segments after it keep it, since they read the same keys."""
    if not trained_paths:
        return (1.0,) * len(pieces)
    lengths = np.array([len(p.tokens) for p in pieces])
    scales: list[float] = []
    for s, piece in enumerate(pieces):
        scales.append(max((scales[f] for f in follows[s]), default=1.0))
        before = follows[s]
        if piece.kind == "summary" and before and pieces[before[0]].kind == "path":
            own = [i for i, p in enumerate(pieces[:s]) if p.block == piece.block and p.path > 0]
            seen = int(lengths[:s][sees[s, :s]].sum())
            scales[s] = max(scales[s], join_scale(seen, int(lengths[own].sum()), len(before), trained_paths))
    return tuple(scales)


def lay_out(pieces: Sequence[Piece], mode: str | Mode, path_position_stride: int = 0, trained_paths: int = 0) -> Layout:
    """The layout of a finished trace. `pieces` are in text order and begin with the prompt (or the first main text).

    `mode` is that in which the trace is drawn; copies among the pieces are taken out or put in as it needs them. Where
    paths are isolated, path p of a block starts (p - 1) * `path_position_stride` positions after the fork: with 0 all
    start together. `trained_paths` is the largest number of paths that the model was trained with, beyond which the
    attention of a join to several paths is scaled (0: never). `UserError` for an unknown mode.
    """
    mode = get_mode(mode) if isinstance(mode, str) else mode
    pieces = arrange(pieces, mode)
    if not mode.isolated:
        path_position_stride = trained_paths = 0
    tokens = np.array([t for p in pieces for t in p.tokens], np.int64)
    frames = tuple((p.kind, len(p.tokens), p.block, p.path, p.label) for p in pieces)
    frame_of = _known_frame if len(tokens) <= SHORT else _frame
    frame = frame_of(frames, mode, path_position_stride, trained_paths)
    return Layout(tokens=tokens, sampled=np.array([f for p in pieces for f in p.sampled], bool), **frame)


def _frame(
    frames: tuple[tuple[str, int, int, int, int], ...], mode: Mode, path_position_stride: int, trained_paths: int
) -> Mapping[str, Any]:
    """What of a layout depends on the shape of its pieces alone: (kind, tokens, block, path, label) of each."""
    pieces = [Piece(kind, (0,) * n, (False,) * n, *place) for kind, n, *place in frames]
    follows = wire(pieces, mode)
    sees = closure(follows)
    segment, position, previous = ([] for _ in range(3))
    end: list[tuple[int, int]] = []  # (S,) position and flat index of each segment's last token
    begun: set[tuple[int, int]] = set()  # chains
    for s, piece in enumerate(pieces):
        # a join resumes after the longest of its paths: its first token's predecessor is that path's last token
        last_position, last_index = max((end[f] for f in follows[s]), default=(-1, -1), key=lambda e: e[0])
        if piece.kind == "path" and piece.chain not in begun:
            last_position += (piece.path - 1) * path_position_stride
        begun.add(piece.chain)
        n, index = len(piece.tokens), len(segment)
        segment += [s] * n
        position += range(last_position + 1, last_position + 1 + n)
        previous += [last_index, *range(index, index + n - 1)]
        end.append((last_position + n, index + n - 1))
    found = dict(
        segment=np.array(segment, np.int32),
        position=np.array(position, np.int32),
        previous=np.array(previous, np.int32),
        kinds=tuple(p.kind for p in pieces),
        paths=tuple(p.path for p in pieces),
        labels=tuple(p.label for p in pieces),
        scales=attention_scales(pieces, follows, sees, trained_paths),
        follows=follows,
        sees=sees,
    )
    for array in (found[name] for name in ("segment", "position", "previous", "sees")):
        array.flags.writeable = False  # they stand in many layouts
    return found


_known_frame = lru_cache(maxsize=1 << 12)(_frame)  # traces of one shape share their arrays
