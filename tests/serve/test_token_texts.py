"""Tokens of prompts and answers as the API lists them: their texts, one by one and as they go on."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from helpers.real_tokenizers import CHAT, EOS, byte_level, model_of, sentencepiece
from helpers.served import served
from polythink.models.lm import LanguageModel
from polythink.serve.detokenise import ALPHABET
from polythink.serve.prompts import Prompt, Spelling

TOKENIZERS = {
    "bytes": lambda: byte_level(chat=CHAT),
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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(lambda: lm_of("bytes"), tmp_path_factory.mktemp("served"), max_num_seqs=4) as running:
        yield running


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


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_bytes_of_tokens_are_those_of_their_text(name):
    """Characters of two to four tokens, and the character that stands for broken ones."""
    spelling, text = spelling_of(name), "aé 漢😀 \ufffd."
    own = [bytes(spelling.bytes_of(id)) for id in lm_of(name).codec.encode(text)]
    assert b"".join(own) == text.encode()
    assert b"\xc3" in own, "a part of a character has its own byte"


def test_the_alphabet_of_bytes_is_the_tokenizers():
    assert set(ALPHABET) == set(ByteLevel.alphabet())
    assert [ALPHABET[char] for char in "AĠĊé"] == [ord("A"), ord(" "), ord("\n"), 0xE9]


def test_a_part_of_a_character_has_bytes_in_both_apis(server):
    """A random model over bytes draws few whole characters."""
    usual = {"seed": 1, "mode": "sequential", "top_logprobs": 2}
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 24, "logprobs": True}
    response = {"input": "a", "max_output_tokens": 24, "include": ["message.output_text.logprobs"]}
    with server.http() as http:
        choice = http.post("/v1/chat/completions", json=usual | chat).json()["choices"][0]
        output = http.post("/v1/responses", json=usual | response).json()["output"]
    for told in (choice["logprobs"]["content"], output[-1]["content"][0]["logprobs"]):
        broken = [token for token in told if token["token"] == "\ufffd"]
        assert broken
        assert all(len(token["bytes"]) == 1 and token["bytes"][0] >= 0x80 for token in broken)
        assert all(top["bytes"] for token in told for top in token["top_logprobs"])


# ---- as they go on ----

ECHOED = {
    ("bytes", "a b"): ["", "a", " ", "b"],
    ("bytes", " a"): ["", " ", "a"],
    ("bytes", "é<eos>b"): ["", "", "é", "<eos>", "b"],
    ("bytes", "<bos>a"): ["<bos>", "a"],
    ("sentencepiece first", "a b"): ["", "a", " b"],
    ("sentencepiece first", " a"): ["", " a"],
    ("sentencepiece first", "A<eos>b"): ["", "", "A", "<eos>", "b"],
    ("sentencepiece always", "a b"): ["", "a", " b"],
    ("sentencepiece prepend", "a b"): ["", "a", " b"],
    ("sentencepiece prepend", " a"): ["", "", " a"],
    ("sentencepiece prepend", "<bos>a"): ["<bos>", "a"],
    ("sentencepiece prepend", "<eos> a<bos>b"): ["", "<eos>", "", " a", "<bos>", "b"],
}


@pytest.mark.parametrize(("name", "text"), ECHOED)
def test_the_tokens_of_a_text_are_laid_over_it(name, text):
    """BOS and a space that the tokenizer puts in front take no room in it."""
    ids = lm_of(name).codec.encode_raw(text, bos=True)
    assert [token.text for token in Prompt(tuple(ids), text).tokens(spelling_of(name))] == ECHOED[name, text]


def test_an_echo_has_its_offsets_and_what_follows_begins_after_it(server):
    body = {"prompt": "a é b", "max_tokens": 3, "echo": True, "logprobs": 1, "seed": 1}
    with server.http() as http:
        choice = http.post("/v1/completions", json=body).json()["choices"][0]
        ids = {"prompt": lm_of("bytes").codec.encode_raw("a é b", bos=True)}
        by_ids = http.post("/v1/completions", json=body | ids).json()["choices"][0]
    assert choice["text"].startswith("a é b")
    assert choice["logprobs"]["tokens"][:2] == ["<bos>", "a"]
    assert choice["logprobs"]["text_offset"][:8] == [0, 0, 1, 2, 2, 3, 4, 5]
    assert by_ids["text"].startswith("<bos>a é b"), "of ids, the text is theirs"
    assert by_ids["logprobs"]["text_offset"][:8] == [0, 5, 6, 7, 7, 8, 9, 10]
