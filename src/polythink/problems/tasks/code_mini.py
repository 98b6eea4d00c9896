"""code-mini: small functions over lists, texts and whole numbers, made from families with one parameter each.

A family has right bodies that differ, and wrong ones: mistakes that people make (off by one, the other order, an edge
forgotten). The hidden assertions of a problem are drawn until every wrong body fails one of them, and so does the empty
one; expected values come from the first right body.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from polythink.problems.sandbox import Test

ASSERTIONS = 6  # hidden, per problem
DRAWS = 200  # of arguments, until all wrong bodies are told apart

Draw = Callable[[random.Random, Any], Any]


@dataclass(frozen=True)
class Family:
    """`{k}` in texts stands for the parameter, one of `values`. Bodies hold lines of a function of `argument`."""

    name: str
    about: str
    argument: str
    values: Sequence[Any]
    draw: Draw  # the argument of one assertion
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def source(self, body: str, value: Any) -> str:
        """The function with that body, as Python source."""
        lines = body.format(k=repr(value)).splitlines()
        return "\n".join([f"def {self.function(value)}({self.argument}):", *(f"    {line}" for line in lines)])

    def function(self, value: Any) -> str:
        """Its name: `every_3`."""
        return f"{self.name}_{value}"

    def task(self, value: Any) -> str:
        """What it is to do, in words."""
        return self.about.format(k=repr(value))


def _items(rng: random.Random, k: Any) -> list[int]:
    return [rng.randint(-30, 40) for _ in range(rng.choice((0, 1, 3, 5, 8, 11)))]


def _few(rng: random.Random, k: int) -> list[int]:
    return [rng.choice((k - 1, k, k + 1, 2 * k, 0, 3)) for _ in range(rng.randint(0, 9))]


def _letters(rng: random.Random, k: Any) -> str:
    known = f"{k}{k.upper()}" if isinstance(k, str) else ""
    return "".join(
        rng.choice(known or "abcxyzXY 5") if rng.random() < 0.4 else rng.choice("aeist oBQ!")
        for _ in range(rng.randint(0, 12))
    )


def _words(rng: random.Random, k: int) -> str:
    return " ".join("x" * rng.choice((1, k - 1, k, k + 1, k + 2)) for _ in range(rng.randint(0, 6)))


def _number(rng: random.Random, k: int) -> int:
    return rng.choice((0, 1, k, 2 * k, rng.randint(2, 99), rng.randint(100, 999)))


FAMILIES = (
    Family("count_over", "the number of items that are greater than {k}", "items", range(1, 25), _few,
           ("return sum(item > {k} for item in items)", "return len([item for item in items if item > {k}])"),
           ("return sum(item >= {k} for item in items)", "return sum(item for item in items if item > {k})")),
    Family("sum_multiples", "the sum of all whole numbers from 1 to n, n included, that are divisible by {k}", "n",
           range(2, 20), _number,
           ("return sum(range({k}, n + 1, {k}))",
            "total = 0\nfor i in range(1, n + 1):\n    if i % {k} == 0:\n        total += i\nreturn total"),
           ("return sum(range({k}, n, {k}))", "return sum(i for i in range(n + 1) if i % {k})")),
    Family("every", "a list of the items whose place is divisible by {k}, where the first item has place 0", "items",
           range(2, 8), _items,
           ("return items[::{k}]", "return [item for i, item in enumerate(items) if i % {k} == 0]"),
           ("return items[{k} - 1::{k}]", "return items[:{k}]")),
    Family("clamp", "a list of the items, where all below -{k} are replaced by -{k} and all above {k} by {k}", "items",
           range(1, 25), _items,
           ("return [max(-{k}, min({k}, item)) for item in items]",
            "result = []\nfor item in items:\n    if item > {k}:\n        item = {k}\n    if item < -{k}:\n"
            "        item = -{k}\n    result.append(item)\nreturn result"),
           ("return [min({k}, item) for item in items]", "return [item for item in items if -{k} <= item <= {k}]")),
    Family("stretch", "the text with each of its characters {k} times in a row", "text", range(2, 10), _letters,
           ("return ''.join(c * {k} for c in text)",
            "result = ''\nfor c in text:\n    result += c * {k}\nreturn result"),
           ("return text * {k}", "return ''.join(c * ({k} - 1) for c in text)")),
    Family("shift", "the text with each letter from a to z moved on by {k} places in the alphabet, where a follows z; "
           "other characters stay", "text", range(1, 26), _letters,
           ("return ''.join(chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text)",
            "letters = 'abcdefghijklmnopqrstuvwxyz'\n"
            "return ''.join(letters[(letters.index(c) + {k}) % 26] if c in letters else c for c in text)"),
           ("return ''.join(chr(ord(c) + {k}) if 'a' <= c <= 'z' else c for c in text)",
            "return ''.join(chr((ord(c) - 97 + {k}) % 26 + 97) for c in text)")),
    Family("count", "how often the letter {k} is in the text, as a small or a capital letter", "text", "aeistobq",
    _letters,
           ("return text.lower().count({k})", "return sum(c.lower() == {k} for c in text)"),
           ("return text.count({k})", "return int({k} in text.lower())")),
    Family("without", "the text without the letter {k}, small or capital", "text", "aeistobq", _letters,
           ("return ''.join(c for c in text if c.lower() != {k})",
            "return text.replace({k}, '').replace({k}.upper(), '')"),
           ("return text.replace({k}, '')", "return text.lower().replace({k}, '')")),
    Family("rotate", "a list of the items, moved to the left by {k} places; those that leave at the left come in "
           "at the right", "items", range(2, 10), _items,
           ("if not items:\n    return []\nk = {k} % len(items)\nreturn items[k:] + items[:k]",
            "result = list(items)\nfor _ in range({k} if items else 0):\n    result.append(result.pop(0))\n"
            "return result"),
           ("return items[{k}:] + items[:{k}][::-1]", "return items[-{k}:] + items[:-{k}]")),
    Family("digit_powers", "the sum of the digits of n, each raised to the power {k}", "n", range(2, 8), _number,
           ("return sum(int(d) ** {k} for d in str(n))",
            "total = 0\nwhile n:\n    total += (n % 10) ** {k}\n    n //= 10\nreturn total"),
           ("return sum(int(d) for d in str(n)) ** {k}", "return sum(int(d) * {k} for d in str(n))")),
    Family("window_sums", "a list of the sums of each {k} items that stand next to each other", "items",
           range(2, 6), _items,
           ("return [sum(items[i : i + {k}]) for i in range(len(items) - {k} + 1)]",
            "result = []\ni = 0\nwhile i + {k} <= len(items):\n    result.append(sum(items[i : i + {k}]))\n"
            "    i += 1\nreturn result"),
           ("return [sum(items[i : i + {k}]) for i in range(len(items) - {k})]",
            "return [sum(items[i : i + {k}]) for i in range(0, len(items), {k})]")),
    Family("largest", "a list of the {k} largest items, the largest first; all of them if there are fewer", "items",
           range(2, 10), _items,
           ("return sorted(items, reverse=True)[:{k}]", "return sorted(items)[::-1][:{k}]"),
           ("return sorted(items)[-{k}:]", "return sorted(set(items), reverse=True)[: {k} + 1]")),
    Family("chunks", "a list of lists of {k} items each, in their order; the last may be shorter", "items",
           range(2, 8), _items,
           ("return [items[i : i + {k}] for i in range(0, len(items), {k})]",
            "result = []\nwhile items:\n    result.append(items[:{k}])\n    items = items[{k}:]\nreturn result"),
           ("return [items[i : i + {k}] for i in range(0, len(items) - {k} + 1, {k})]",
            "return [items[:{k}], items[{k}:]]")),
    Family("longer", "how many words of the text (separated by spaces) have more than {k} letters", "text",
           range(2, 12), _words,
           ("return sum(len(word) > {k} for word in text.split())",
            "count = 0\nfor word in text.split():\n    if len(word) > {k}:\n        count += 1\nreturn count"),
           ("return sum(len(word) >= {k} for word in text.split())", "return int(len(text) > {k})")),
    Family("indivisible", "a list of the items that are not divisible by {k}, in their order", "items",
           range(2, 10), _items,
           ("return [item for item in items if item % {k}]",
            "return list(filter(lambda item: item % {k} != 0, items))"),
           ("return [item for item in items if item % {k} == 0]",
            "return sorted(item for item in items if item % {k})")),
    Family("running", "a list of the sums of the first, the first two, the first three items and so on, modulo {k}",
           "items", range(3, 15), _items,
           ("result, total = [], 0\nfor item in items:\n    total += item\n    result.append(total % {k})\n"
            "return result",
            "return [sum(items[: i + 1]) % {k} for i in range(len(items))]"),
           ("return [item % {k} for item in items]", "return [sum(items[:i]) % {k} for i in range(len(items))]")),
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One problem: its family, its parameter, and the arguments of its assertions."""

    family: Family
    value: Any
    arguments: tuple[Any, ...]

    @property
    def key(self) -> str:
        return f"code-mini:{self.family.function(self.value)}"

    @property
    def question(self) -> str:
        family = self.family
        return (
            f"Write a Python function {family.function(self.value)}({family.argument}) that returns "
            f"{family.task(self.value)}.\nExample: {self._assertion(self.arguments[0]).removeprefix('assert ')}\n"
            "Give the whole function in a block that begins with ```python and ends with ```."
        )

    @property
    def test(self) -> Test:
        """All but the first argument, which is the example in the question."""
        assertions = tuple(self._assertion(argument) for argument in self.arguments[1:])
        return Test(assertions, (self.family.function(self.value),))

    def sources(self, right: bool) -> list[str]:
        """The right or the wrong solutions."""
        return [self.family.source(b, self.value) for b in (self.family.right if right else self.family.wrong)]

    def _assertion(self, argument: Any) -> str:
        expected = _call(self.sources(right=True)[0], argument)
        return f"assert {self.family.function(self.value)}({argument!r}) == {expected!r}"


@lru_cache
def everything() -> tuple[Made, ...]:
    """All problems, in the order of the families."""
    return tuple(_make(family, value) for family in FAMILIES for value in family.values)


def find(key: str) -> Made | None:
    """The problem of that key."""
    return next((made for made in everything() if made.key == key), None)


def _make(family: Family, value: Any) -> Made:
    rng = random.Random(f"{family.name}/{value}")
    right, wrong = (
        [family.source(body, value) for body in bodies] for bodies in (family.right, (*family.wrong, "pass"))
    )
    for _ in range(DRAWS):
        arguments: list[Any] = []
        while len(arguments) < ASSERTIONS + 1:
            drawn = family.draw(rng, value)
            arguments += [drawn] * (drawn not in arguments)
        expected = [_call(right[0], argument) for argument in arguments[1:]]
        answers = ([_call(body, argument) for argument in arguments[1:]] for body in wrong)
        if expected not in answers:
            return Made(family, value, tuple(arguments))
    raise AssertionError(f"{family.name} {value}: a wrong body passes")


def _call(source: str, argument: Any) -> Any:
    """What a function of ours returns, or the exception that it raises."""
    space: dict[str, Any] = {}
    exec(_compiled(source), space)
    function = next(value for name, value in space.items() if not name.startswith("__"))
    try:
        return function(list(argument) if isinstance(argument, list) else argument)
    except (ValueError, IndexError) as error:
        return error


@lru_cache(maxsize=4096)
def _compiled(source: str) -> Any:
    return compile(source, "<code-mini>", "exec")
