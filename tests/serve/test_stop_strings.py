"""Where a text ends that is stopped by a string: text of any pieces, with tags that are whole or not there."""

from __future__ import annotations

import random

from polythink.serve.following import StopStrings

TAGS = ("<ab>", "</ab>", "<b>")


def told(pieces: list[tuple[str, str]], stops: tuple[str, ...], between: bool = False) -> tuple[list[str], bool]:
    """What is given of (text, tag) pieces one by one."""
    found, stop = [], StopStrings(stops, between)
    for text, tag in pieces:
        found.append(stop.add(text, tag))
        if stop.hit:
            return found, True
    return [*found, stop.end()], False


def expected(pieces: list[tuple[str, str]], stops: tuple[str, ...], between: bool = False) -> str:
    """The text up to the piece in which a stop string is complete, cut before that string or its tag."""
    text, tags, own = "", [], []
    if between:  # each stretch between tags by itself
        for piece, tag in pieces:
            own.append((piece.removesuffix(tag), ""))
            if tag:
                cut = expected(own, stops)
                if cut != "".join(piece for piece, _ in own):
                    return text + cut
                text, own = text + cut + tag, []
        return text + expected(own, stops)
    for piece, tag in pieces:
        tags += [(len(text) + len(piece) - len(tag), len(text) + len(piece))] if tag else []
        text += piece
        if found := [at for at in map(text.find, stops) if at >= 0]:
            at = min(found)
            return text[: next((begin for begin, end in tags if begin < at < end), at)]
    return text


def test_random_pieces_with_tags():
    rng, seen = random.Random(0), [0, 0]
    for i in range(2000):
        pieces = []
        for _ in range(rng.randint(1, 12)):
            tag = rng.choice(TAGS) if rng.random() < 0.3 else ""
            pieces.append(("".join(rng.choices("ab<>/", k=rng.randint(0, 2))) + tag, tag))
        stops = tuple("".join(rng.choices("ab<>/", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3)))
        found, _ = told(pieces, stops, between=i % 2 == 1)
        assert "".join(found) == expected(pieces, stops, between=i % 2 == 1), (pieces, stops)
        seen[i % 2] += "".join(found) != "".join(text for text, _ in pieces)
    assert min(seen) > 150


def test_between_tags_a_tag_gives_all_that_was_held():
    assert told([("x<a", ""), ("</ab>", "</ab>"), ("b>", "")], ("<ab>", "b>c"), True) == (
        ["x", "<a</ab>", "", "b>"],
        False,
    )


def test_a_tag_is_held_back_as_a_whole():
    assert told([("x", ""), ("</ab>", "</ab>"), ("c", "")], ("ab>bb",)) == (["x", "", "</ab>c", ""], False)
    assert told([("x", ""), ("</ab>", "</ab>"), ("bb", "")], ("ab>bb",)) == (["x", "", ""], True)
    assert told([("x", ""), ("</ab>", ""), ("bb", "")], ("ab>bb",)) == (["x", "</", ""], True)  # what only spells one
    assert told([("x</ab>", "</ab>"), ("bb", "")], ("</ab>bb",)) == (["x", ""], True)
