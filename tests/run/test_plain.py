"""What differs between two pieces of plain data, and a value in short."""

from __future__ import annotations

from polythink.run.plain import NOT_SET, changes, short


def test_changes_are_named_by_dotted_keys():
    assert changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 2}}) == {"a.d": (NOT_SET, 2), "a.c": (2, NOT_SET)}
    assert changes({"a": 1}, {"a": {"b": 1}}) == {"a": (1, {"b": 1})}
    assert changes({"a": [1], "b": {}}, {"a": [1], "b": {}}) == {}
    assert changes({"a": None}, {}) == {"a": (None, NOT_SET)}


def test_a_value_in_short():
    assert short(NOT_SET) == f"{NOT_SET}" == "not set"
    assert short({"a": [1, None]}) == '{"a": [1, null]}'
    assert short("x" * 99, 10) == '"xxxxxx...'
