"""Tokens of prompts and answers as the API lists them: their texts, one by one and as they go on."""

from __future__ import annotations

from functools import cache

import pytest

from helpers.real_tokenizers import EOS, byte_level, model_of, sentencepiece
from polythink.models.lm import LanguageModel
from polythink.serve.prompts import Spelling

TOKENIZERS = {
    "bytes": byte_level,
    "sentencepiece first": lambda: sentencepiece("first"),
    "sentencepiece always": lambda: sentencepiece("always"),
    "sentencepiece prepend": lambda: sentencepiece("prepend"),
}


@cache
def lm_of(name: str) -> LanguageModel:
    return model_of(TOKENIZERS[name](), bos=True)


@cache
def spelling_of(name: str) -> Spelling:
    return Spelling(lm_of(name))


# ---- one by one ----


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_that_differ_have_texts_that_differ(name):
    """But for parts of characters, and for bytes that are also a letter of their own."""
    spelling, vocabulary = spelling_of(name), lm_of(name).tokenizer.get_vocab()
    texts = {piece: spelling.of(id) for piece, id in vocabulary.items() if not piece.startswith("<0x")}
    whole = [text for text in texts.values() if "\ufffd" not in text]
    assert len(set(whole)) == len(whole)
    assert "" not in whole
    assert texts[EOS] == EOS


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "bytes"])
def test_a_token_keeps_the_space_that_it_begins_with(name):
    spelling, id_of = spelling_of(name), lm_of(name).tokenizer.convert_tokens_to_ids
    assert [spelling.of(id_of(piece)) for piece in ("▁a", "a", "▁")] == [" a", "a", " "]
