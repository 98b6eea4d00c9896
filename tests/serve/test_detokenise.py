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
