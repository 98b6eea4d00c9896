"""Pairs of texts, how generated ones are divided into splits, and the small generators: number words and lists.

A pair's split is a hash of its source: it depends on nothing else and never changes, so held-out pairs are disjoint
from training pairs, however many are generated.

    numbers    nine hundred and sixty-one -> neunhunderteinundsechzig     (by `num2words`; numbers below a million)
    reverse    c a b -> b a c                                             (also copy and sort)

Lists have 3 to 12 words; those of the split `long` have 13 to 20 and test whether the rule was learnt.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from polythink.errors import UserError, install_extra

SHARES = {"train": 80, "valid": 8, "test": 12}  # of all sources, in percent


@dataclass(frozen=True)
class Pair:
    """One source and its target. Language modelling has no source."""

    source: str
    target: str


def split_of(source: str) -> str:
    """`train`, `valid` or `test`, from the source alone."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) % 100
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to less than 100")


@lru_cache(maxsize=4)  # all pairs of a set take seconds, and a command may ask for them twice
def generate_pairs(name: str, draw: Callable[[random.Random], Pair], split: str, limit: int) -> tuple[Pair, ...]:
    """The first `limit` pairs with distinct sources that `draw` yields for this split; always the same.

    `UserError` if the split has fewer sources.
    """
    rng = random.Random(f"{name}/{split}/0")
    found: dict[str, Pair] = {}
    idle = 0  # draws since the last new source
    while len(found) < limit:
        pair = draw(rng)
        idle += 1
        if pair.source not in found and split_of(pair.source) == split:
            found[pair.source] = pair
            idle = 0
        if idle > 10_000:
            raise UserError(f"{name}:{split} has only about {len(found)} pairs; {limit} were asked for")
    return tuple(found.values())


# ---- number words ----

LANGUAGES = ("de", "fr")


def draw_number(language: str, rng: random.Random) -> Pair:
    """English number words and those of `language`; the lengths from one to six digits are equally likely."""
    number = rng.randrange(10 ** rng.randint(1, 6))
    return Pair(in_words(number, "en"), in_words(number, language))


@lru_cache(maxsize=1 << 16)
def in_words(number: int, language: str) -> str:
    try:
        from num2words import num2words
    except ImportError:
        raise UserError(f"number words need {install_extra('translation')}") from None
    return num2words(number, lang=language)


# ---- lists ----

ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "copy": list,
    "reverse": lambda words: list(reversed(words)),
    "sort": sorted,
}
SHORT, LONG = (3, 12), (13, 20)  # words, both ends included


def draw_list(order: str, lengths: tuple[int, int], rng: random.Random) -> Pair:
    """Letters, and the same letters in another order."""
    words = rng.choices(string.ascii_lowercase, k=rng.randint(*lengths))
    return Pair(" ".join(words), " ".join(ORDERS[order](words)))
