"""Bodies as bytes: what is JSON here and what is not, and what the server may be told."""

from __future__ import annotations

import json

import pytest

from polythink.errors import UserError
from polythink.run.config import parse_config
from polythink.serve.body import DEEPEST, parse
from polythink.serve.config import ServeConfig
from polythink.serve.errors import ApiError

VALID = [
    '{"a": [1, 2.5e3, -0, "\\ud83d\\ude42 \\u00e9", null, true]}',
    '{"a": "[[[{{{\\"\\\\"}',
    " [ ] ",
    '"é"',
    "9223372036854775807",
]
DEEP = [
    ("[" * DEEPEST + "]" * DEEPEST),
    '{"a": "' + "[" * 99 + '"}',
    json.dumps([[i] for i in range(99)]),
    '["\\\\", "[[' + "[" * 60 + '"]',
]
WRONG = {
    "is empty": b" ",
    "not UTF-8: byte 7 is 0xff": b'{"a": \xff}',
    "not valid JSON": b'{"a": 1,}',
    "at line 2, column 1": b'{"a": 1\n',
    "NaN is no JSON number": b'{"a": NaN}',
    "-Infinity is no JSON number": b'{"a": -Infinity}',
    "whole numbers go up to 9223372036854775807": b'{"a": 9223372036854775808}',
    "the number 99999999999999999999... is too large": b"9" * 5000,
    "numbers have 64 bits": b'{"a": 1e999}',
    "the field \"a\" twice": b'{"a": 1, "b": {"a": 2, "a": 3}}',
    "half of a surrogate pair": b'{"a": "\\ud83d"}',
    "deeper than 32 levels": b"[" * 33 + b"]" * 33,
    "nests lists and objects deeper": b'["\\"", ' + b'{"a":' * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("text", VALID + DEEP)
def test_json_is_read_as_json(text):
    assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_no_json_is_refused_in_words(sentence):
    with pytest.raises(ApiError) as caught:
        parse(WRONG[sentence])
    assert caught.value.status == 400
    assert sentence in caught.value.message


def test_a_body_that_makes_a_scanner_try_again_is_read_once():
    hard = b'["' + b'\\"' * 1_000_000 + b"[" * 40  # a text that never ends, of quotes that are escaped
    with pytest.raises(ApiError, match="not valid JSON"):
        parse(hard)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_a_host_that_others_reach_needs_a_key(host):
    with pytest.raises(UserError, match="an API key is needed"):
        parse_config(ServeConfig, {"host": host}, "serve")
    assert not parse_config(ServeConfig, {"host": host, "api_keys": ("x",)}, "serve").loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_host_of_this_machine_needs_none(host):
    assert ServeConfig(host=host).loopback


def test_keys_are_not_shown():
    assert "secret" not in repr(ServeConfig(api_keys=("secret",)))
