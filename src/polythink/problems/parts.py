"""An answer as its parts: a list, a set, a pair, an interval as their items, an equation as its sides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from polythink.problems.quantity import read

_AND = re.compile(r" ?\\text ?\{ ?,? ?(?:and|or) ?,? ?\} ?| (?:and|or) |\\(?:lor|land|vee|wedge)(?![A-Za-z])")
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Parts:
    """An answer as its parts. `brackets`: "" for a list or a set, whose order does not count, else as in `[)`."""

    brackets: str
    items: tuple[str, ...]


@lru_cache(maxsize=16384)
def parts_of(s: str) -> Parts:
    """A list `a, b`, a set, a pair, an interval as its items; anything else is one item."""
    inside, brackets = within(s)
    if brackets == "{}" and re.search(r"[:|]|\\mid", inside):  # a set that is described
        return Parts("", (s,))
    if not brackets and (read(s).number or "\\begin" in s):
        return Parts("", (s,))
    items = [item for item in split(inside) if item]
    if brackets not in ("", "{}") and len(items) < 2:
        return Parts("", (inside,) if brackets == "()" else (s,))
    if brackets in ("", "{}"):
        items = [sign for item in items for sign in signs(item)] if len(items) < 50 else items
        return Parts("", tuple(items) or (s,))
    return Parts(brackets, tuple(items))


def within(s: str) -> tuple[str, str]:
    """What one pair of brackets around all of `s` holds, and the pair; `s` and "" if there is none."""
    body = s.replace(r"\{", "{").replace(r"\}", "}").replace(r"\langle", "(").replace(r"\rangle", ")")
    if len(body) < 2 or body[0] not in _OPEN or body[-1] not in _CLOSE or (body[0] == "{") != (body[-1] == "}"):
        return s, ""
    depth = 0
    for place, ch in enumerate(body):
        depth += (ch in _OPEN) - (ch in _CLOSE)
        if depth == 0 and place < len(body) - 1:
            return s, ""
    cut = {"\\": 2, "(": 1, "[": 1, "{": 1}
    start = 7 if s.startswith(r"\langle") else cut[s[0]]
    end = 7 if s.endswith(r"\rangle") else 2 if s.endswith(r"\}") else 1
    return s[start : len(s) - end].strip(), body[0] + body[-1]


def split(s: str) -> list[str]:
    """The items between commas, semicolons, `and` and `or` that stand in no brackets."""
    s = _AND.sub(" , ", s)
    items, depth, start, escaped = [], 0, 0, False
    for place, ch in enumerate(s):
        if not escaped or ch in "{}":
            depth += (ch in _OPEN) - (ch in _CLOSE)
        if ch in ",;" and depth == 0 and not escaped:
            items.append(s[start:place].strip())
            start = place + 1
        escaped = ch == "\\" and not escaped
    return [*items, s[start:].strip()]


def signs(item: str) -> list[str]:
    r"""`a \pm b` as its two values."""
    if r"\pm" not in item and r"\mp" not in item:
        return [item]
    upper = item.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = item.replace(r"\pm", "-").replace(r"\mp", "+")
    return [re.sub(r"^\s*\+\s*", "", sign) for sign in (upper, lower)]


@lru_cache(maxsize=16384)
def sides_of(s: str) -> tuple[str, ...]:
    """The sides of an equation, of a chain of them, or the one formula that is none."""
    if "=" not in s or re.search(r"[<>]|!=|\\[lgn]eq|\\begin.*=", s) or len(split(s)) > 1:
        return (s,)
    sides, depth, start = [], 0, 0
    for place, ch in enumerate(s):
        depth += (ch in _OPEN) - (ch in _CLOSE)
        if ch == "=" and depth == 0:
            sides.append(s[start:place].strip())
            start = place + 1
    sides.append(s[start:].strip())
    return tuple(sides) if all(sides[1:]) else (s,)


def depth_of(s: str) -> int:
    depth = deepest = 0
    for ch in s:
        depth += (ch in _OPEN) - (ch in _CLOSE)
        deepest = max(deepest, depth)
    return deepest
