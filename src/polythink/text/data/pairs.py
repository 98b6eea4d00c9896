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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from polythink.errors import UserError, did_you_mean

SHARES = {"train": 80, "valid": 8, "test": 12}  # of all sources, in percent
SIZES = {"train": 30_000, "valid": 1024, "test": 1024}  # pairs generated where no limit is given


@dataclass(frozen=True)
class Pair:
    """One source and its target. Language modelling has no source."""

    source: str
    target: str


@dataclass(frozen=True)
class TextSet:
    """Named pairs; `notes` are sentences that belong beside every number measured on the set."""

    name: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def split_of(source: str) -> str:
    """`train`, `valid` or `test`, from the source alone."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) % 100
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to less than 100")


def generate_pairs(
    name: str, draw: Callable[[random.Random], Pair], split: str, limit: int, seed: int = 0
) -> tuple[Pair, ...]:
    """The first `limit` pairs with distinct sources that `draw` yields for this split, the same for the same seed.

    `UserError` if the split has fewer sources.
    """
    if split not in SHARES:
        raise UserError(f"{name} has no split {split!r}{did_you_mean(split, SHARES)}")
    rng = random.Random(f"{name}/{split}/{seed}")
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
NUMBERS = 10_000  # training pairs; writing the words takes time


def number_pairs(language: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Pair, ...]:
    """English number words and those of `language`; the lengths from one to six digits are equally likely."""

    def draw(rng: random.Random) -> Pair:
        number = rng.randrange(10 ** rng.randint(1, 6))
        return Pair(in_words(number, "en"), in_words(number, language))

    limit = limit or (NUMBERS if split == "train" else SIZES.get(split, 0))
    return generate_pairs(f"numbers-{language}", draw, split, limit, seed)


@lru_cache(maxsize=1 << 16)
def in_words(number: int, language: str) -> str:
    try:
        from num2words import num2words
    except ImportError:
        raise UserError("number words need `pip install 'polythink[translation]'`") from None
    return num2words(number, lang=language)


# ---- lists ----

ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "copy": list,
    "reverse": lambda words: list(reversed(words)),
    "sort": sorted,
}
LIST_SPLITS = (*SHARES, "long")
SHORT, LONG = (3, 12), (13, 20)  # words, both ends included


def list_pairs(order: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Pair, ...]:
    """Lists of letters and the same letters in another order."""
    if split == "long":  # from the test share of longer sources: none was ever trained on
        return generate_pairs(f"{order}-long", partial(_draw_list, order, LONG), "test", limit or SIZES["test"], seed)
    return generate_pairs(order, partial(_draw_list, order, SHORT), split, limit or SIZES.get(split, 0), seed)


def _draw_list(order: str, lengths: tuple[int, int], rng: random.Random) -> Pair:
    words = rng.choices(string.ascii_lowercase, k=rng.randint(*lengths))
    return Pair(" ".join(words), " ".join(ORDERS[order](words)))
