"""The five modes: their records, and the layout of a join that reads its paths again, against plain lists of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from polythink.errors import UserError
from polythink.trace.layout import Piece, lay_out
from polythink.trace.modes import MODES, SEQUENTIAL, STRUCTURED, get_mode


def piece(kind: str, tokens: list[int], block: int = -1, path: int = 0) -> Piece:
    return Piece(kind, tuple(tokens), (kind != "prompt",) * len(tokens), block, path)


# prompt 0 1, main 2 3, block 0: path 1 (4, with a block of its own 5 | 6 | 7, then 8), path 2 (9 10), summary, main
NESTED = [
    piece("prompt", [0, 1]),
    piece("main", [2, 3]),
    piece("path", [4], 0, 1),
    piece("path", [5], 1, 1),
    piece("path", [6, 6], 1, 2),
    piece("summary", [7], 1),
    piece("path", [8], 0, 1),
    piece("path", [9, 10], 0, 2),
    piece("summary", [11], 0),
    piece("main", [12]),
]


def context_of(layout, index: int) -> list[int]:
    """The tokens that the token at that index attends to, itself included, in text order."""
    return [int(t) for t in layout.tokens[layout.may_attend()[index]]]


def test_rereading_joins_see_each_path_once_as_flat_text():
    table = lay_out(NESTED, "reread")
    kinds = dict(zip(table.kinds, range(len(table.kinds)), strict=True))
    assert [k for k in table.kinds if k == "copy"] == ["copy", "copy"]
    last = len(table) - 1
    assert context_of(table, last) == [*list(range(6)), 6, 6, 7, 8, 9, 10, 11, 12]
    assert table.position[last] == 13  # its place in the flat text
    inner = int(np.flatnonzero(table.tokens == 7)[0])
    assert table.kinds[table.segment[inner]] == "summary"
    assert context_of(table, inner) == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    second = int(np.flatnonzero((table.tokens == 10) & table.shown)[0])
    assert context_of(table, second) == [0, 1, 2, 3, 9, 10]
    assert table.position[second] == 5
    assert all(len(before) <= 1 for before in table.follows)  # a forest: what models without a union of caches need
    assert kinds["main"] == len(table.kinds) - 1


def test_copies_are_forced_and_belong_to_no_text():
    table = lay_out(NESTED, "reread")
    assert table.shown.sum() == sum(len(p.tokens) for p in NESTED)
    assert not table.sampled[~table.shown].any()
    assert list(table.tokens[table.shown]) == [t for p in NESTED for t in p.tokens]


@pytest.mark.parametrize("mode", MODES)
def test_a_layout_in_another_mode_takes_copies_out_or_puts_them_in(mode: str):
    drawn = lay_out(NESTED, "reread")
    again = []
    begin = 0
    for s, kind in enumerate(drawn.kinds):
        n = int((drawn.segment == s).sum())
        block = next(
            (p.block for p in NESTED if p.kind == kind and list(p.tokens) == list(drawn.tokens[begin : begin + n])), 0
        )
        path = drawn.paths[s]
        again.append(
            Piece(kind, tuple(drawn.tokens[begin : begin + n]), tuple(drawn.sampled[begin : begin + n]), block, path)
        )
        begin += n
    for p, q in zip([x for x in again if x.kind != "copy"], NESTED, strict=True):
        assert p.chain == q.chain
    one, two = lay_out(again, mode), lay_out(NESTED, mode)
    assert one.follows == two.follows
    assert (one.tokens == two.tokens).all()
    assert (one.position == two.position).all()


def test_records():
    assert [m.exact for m in MODES.values()] == [True, True, True, False, False]
    assert get_mode("seen_published").trained is SEQUENTIAL
    assert get_mode("unseen_published").trained is STRUCTURED
    assert [m.joins_caches for m in MODES.values()] == [True, False, False, False, True]
    with pytest.raises(UserError, match="did you mean 'reread'"):
        get_mode("rereed")
