"""Text that comes bit by bit: the pieces of a segment are its text, whatever tokens it has."""

from __future__ import annotations

from random import Random

import pytest

from helpers.real_tokenizers import byte_level, sentencepiece
from polythink.models.codec import Codec
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.serve.detokenise import Decoding, Detokeniser
from polythink.trace.dialect import PARALLEL_R1

TOKENIZERS = {
    "bytes": lambda: byte_level(),
    "words": lambda: word_tokenizer(("a", "bc", "d", ","), PARALLEL_R1),
    "bytes and tags": lambda: byte_tokenizer(PARALLEL_R1),
    "sentencepiece first": lambda: sentencepiece("first"),
    "sentencepiece always": lambda: sentencepiece("always"),
    "sentencepiece prepend": lambda: sentencepiece("prepend"),
}


def codec_of(name: str) -> Codec:
    tokenizer = TOKENIZERS[name]()
    return Codec(tokenizer, (), (tokenizer.eos_token_id,))


def pieces(decoding: Decoding, tokens: list[int]) -> list[str]:
    segment = Detokeniser(decoding)
    return [segment.add(token) for token in tokens] + [segment.end()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_pieces_are_the_text_of_the_whole(name):
    codec = codec_of(name)
    decoding, rng, size = Decoding(codec), Random(1), len(codec.tokenizer)
    assert decoding.bit_by_bit
    streamed = 0
    for _ in range(300):
        tokens = [rng.randrange(size) for _ in range(rng.choice((1, 2, 5, 40)))]
        found = pieces(decoding, tokens)
        assert "".join(found) == codec.decode(tokens)
        streamed += found[-1] == ""
    assert streamed > 50, "everything is held back to the end"


def test_text_costs_as_much_at_the_end_of_a_segment_as_at_its_beginning():
    """Counted in tokens that are decoded, for bytes that are never a character too."""
    codec = codec_of("bytes")
    decoding, counted = Decoding(codec), []
    decode = decoding.decode
    decoding.decode = lambda tokens: (counted.append(len(tokens)), decode(tokens))[1]
    bad = next(i for i in range(len(codec.tokenizer)) if decode([i]) == "\ufffd")
    for tokens in ([bad] * 2000, codec.encode("a é 漢 😀 " * 200)):
        segment = Detokeniser(decoding)
        counted.clear()
        assert "".join([segment.add(t) for t in tokens] + [segment.end()]) == decode(tokens)
        assert sum(counted) < 60 * len(tokens)


def test_an_unknown_kind_of_text_comes_whole_at_the_end_of_its_segment(caplog):
    """A decoder that turns the text round: nothing can be told before all is known."""
    codec = codec_of("words")
    plain = codec.decode
    codec.decode = lambda ids: plain(ids)[::-1]
    decoding = Decoding(codec)
    assert not decoding.bit_by_bit
    assert "whole segments" in caplog.text
    tokens = codec.encode("a bc d a")
    assert pieces(decoding, tokens) == ["", "", "", "", codec.decode(tokens)]


def test_characters_come_when_they_are_whole():
    codec = codec_of("bytes")
    tokens = codec.encode("é😀a")
    assert pieces(Decoding(codec), tokens) == ["", "é", "", "", "", "😀", "a", ""]
