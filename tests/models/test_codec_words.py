"""Texts of a closed vocabulary are read by their words: as the tokenizer reads them, and by it where in doubt."""

from __future__ import annotations

import random

import pytest

from helpers.real_tokenizers import byte_level, model_of
from helpers.tiny import tiny
from polythink.errors import UserError

SPACED = ("a  b", " a", "a ", "", "  ")
DOUBTFUL = ("<Path>9", "9\n8", "9\t8", "9\u00a08", "9\x1c8", "zebra", "<|end|>", "9 <|pad|> 8")


def slow(codec):
    """The same codec with all that it reads and writes given to its tokenizer."""
    twin = object.__new__(type(codec))
    twin.__dict__ = {**codec.__dict__, "_words": {}, "_texts": {}}
    return twin


def outcome(function, *given):
    try:
        return function(*given)
    except UserError as error:
        return str(error)


def test_random_texts_are_read_and_written_as_by_the_tokenizer():
    codec, rng = tiny().codec, random.Random(0)
    words = [*codec._words, *SPACED, *DOUBTFUL]
    assert len(codec._words) > 5
    assert "<Path>" in codec._words
    assert "<|end|>" not in codec._words
    plain = 0
    for _ in range(500):
        among = words if rng.random() < 0.5 else list(codec._words)
        text = rng.choice((" ", " ", "  ")).join(rng.choices(among, k=rng.randrange(1, 9)))
        plain += codec._by_words(text) is not None
        for name in ("encode", "encode_prompt"):
            assert outcome(getattr(codec, name), text) == outcome(getattr(slow(codec), name), text), repr(text)
        ids = rng.choices(range(len(codec.tokenizer)), k=rng.randrange(6))
        assert codec.decode(ids) == slow(codec).decode(ids)
    assert 100 < plain < 450, "both ways are taken"


@pytest.mark.parametrize("text", DOUBTFUL)
def test_what_is_not_known_words_and_spaces_goes_to_the_tokenizer(text):
    codec = tiny().codec
    assert codec._by_words(text) is None
    assert outcome(codec.encode_prompt, text) == outcome(slow(codec).encode_prompt, text)


@pytest.mark.parametrize("text", SPACED)
def test_any_number_of_spaces_is_read_without_the_tokenizer(text):
    codec = tiny().codec
    assert codec._by_words(text) == slow(codec).encode(text)


def test_open_vocabularies_have_no_words_of_their_own():
    codec = model_of(byte_level()).codec
    assert not codec._words
    assert not codec._texts
