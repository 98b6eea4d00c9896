"""Where blocks open (side by side, at the very start, without a path), against definitions that know no table."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from polythink.trace.dialect import PARATHINKER
from polythink.trace.layout import Layout, Piece, lay_out, wire
from polythink.trace.modes import STRUCTURED
from polythink.trace.parse import parse
from polythink.trace.tokens import pieces_of

WORD = re.compile(r"</?(?:think\d+|summary)>|[^\s<]+")


def laid_out(text: str, prompt: str = "", mode: str = "structured") -> tuple[Layout, list[str]]:
    """The layout of prompt + response, and its tokens as words."""
    words: list[str] = []

    def encode(text: str) -> list[int]:
        found = WORD.findall(text)
        words.extend(word for word in found if word not in words)
        return [words.index(word) for word in found]

    table = lay_out(pieces_of(encode(prompt), parse(text, PARATHINKER), PARATHINKER, encode, mode), mode)
    return table, [words[t] for t in table.tokens]


def path_of(words: list[str], start: int) -> list[tuple[int, int]]:
    """Of each word the number of its block and of its path within it; (-1, 0) outside paths."""
    found, block, path, inside = [], 0, 0, False
    for i, word in enumerate(words):
        if i >= start and re.fullmatch(r"<think\d+>", word):
            path, inside = path + 1, True
        found.append((block, path) if inside else (-1, 0))
        if i >= start and re.fullmatch(r"</think\d+>", word):
            inside = False
        if i >= start and word == "</summary>":
            block, path = block + 1, 0
    return found


def check(table: Layout, words: list[str], start: int) -> None:
    """The table says what follows from one sentence: a word is hidden from other paths of its block, and only there."""
    place = path_of(words, start)
    hidden = [[a[0] == b[0] >= 0 and a[1] != b[1] for a in place] for b in place]
    mask = np.tri(len(words), dtype=bool) & ~np.array(hidden)
    assert np.array_equal(table.may_attend(), mask)
    position = np.zeros(len(words), int)
    for t in range(len(words)):
        position[t] = 1 + max((position[k] for k in range(t) if mask[t, k]), default=-1)
    assert table.position.tolist() == position.tolist()
    for t, before in enumerate(table.previous):
        assert position[t] == (position[before] + 1 if before >= 0 else 0)
        assert before < 0 or mask[t, before]


def random_blocks(rng: random.Random) -> str:
    """Text and blocks; often nothing lies between two blocks, before the first or after the last."""
    text = ""
    for _ in range(rng.randrange(1, 5)):
        text += " ".join(rng.choices("abc", k=rng.choice((0, 0, 0, 1, 3))))
        for number in rng.sample(range(1, 17), rng.randrange(1, 5)):
            text += f"<think{number}>{' '.join(rng.choices('de', k=rng.randrange(4)))}</think{number}>"
        text += f"<summary>{' '.join(rng.choices('fg', k=rng.randrange(3)))}</summary>"
    return text + " ".join(rng.choices("abc", k=rng.choice((0, 0, 2))))


@pytest.mark.parametrize("seed", range(100))
def test_blocks_side_by_side_equal_their_definition(seed: int):
    rng = random.Random(seed)
    prompt = " ".join(rng.choices("pq", k=rng.randrange(3)))
    table, words = laid_out(random_blocks(rng), prompt)
    check(table, words, start=len(prompt.split()))


def test_a_second_block_and_the_text_after_it_see_the_first_summary():
    text = "<think1>a</think1><summary>b</summary><think2>c d</think2><think1>e</think1><summary>f</summary>g"
    table, words = laid_out(text, "p")
    check(table, words, start=1)
    assert table.kinds == ("prompt", "path", "summary", "path", "path", "summary", "main")
    assert table.follows == ((), (0,), (1,), (2,), (2,), (3, 4), (5,))
    assert table.sees[6].all()


def test_two_blocks_inside_one_summary_stand_in_it():
    """The other reading of a block that opens right after a summary's piece: the summary goes on later."""
    kinds = ["prompt", "path", "path", "summary", "path", "summary", "path", "summary", "summary", "main"]
    chains = [(-1, 0), (0, 1), (0, 2), (0, 0), (1, 1), (1, 0), (2, 1), (2, 0), (0, 0), (-1, 0)]
    pieces = [Piece(kind, (1,), (True,), *chain) for kind, chain in zip(kinds, chains, strict=True)]
    assert wire(pieces, STRUCTURED) == ((), (0,), (0,), (1, 2), (3,), (4,), (5,), (6,), (7,), (8,))
    for cut in range(1, len(pieces)):  # and so in every unfinished trace
        assert wire(pieces[:cut], STRUCTURED) == wire(pieces, STRUCTURED)[:cut]


@pytest.mark.parametrize("between", [True, False])
def test_a_block_without_a_path_hides_nothing(between: bool):
    """As a model can write it in sequential mode: <Parallel></Parallel><Summary>..</Summary>."""
    pieces = [Piece("prompt", (1, 2), (False, False)), Piece("main", (3, 4), (True, True))]
    pieces += [Piece("summary", (5, 6, 7), (True,) * 3, block=0), Piece("main", (8,), (True,))] * between
    number = 1 if between else 0
    pieces += [Piece("summary", (9,), (True,), block=number), Piece("main", (10, 11), (True, True))]
    table, flat = lay_out(pieces, STRUCTURED), lay_out(pieces, "sequential")
    assert np.array_equal(table.may_attend(), flat.may_attend())
    assert np.array_equal(table.position, flat.position)
    assert np.array_equal(table.previous, flat.previous)


def test_a_block_may_be_the_very_first_thing():
    table, words = laid_out(
        "<think4>a</think4><think2>b c</think2><summary>d</summary><think1>e</think1><summary>f</summary>"
    )
    check(table, words, start=0)
    assert table.follows[:2] == ((), ())
    assert table.position[0] == 0
