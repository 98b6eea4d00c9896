"""Pairs of texts to learn from: a source and its target, and how generated ones are divided into splits.

A pair's split is a hash of its source: it depends on nothing else and never changes, so what is held out is disjoint
from what is trained on, however many pairs are drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean

SHARES = {"train": 80, "valid": 8, "test": 12}  # of all sources, in percent
SIZES = {"train": 30_000, "valid": 1024, "test": 1024}  # pairs that are drawn where no number is said


@dataclass(frozen=True)
class Pair:
    """One source and its target. Language modelling has no source."""

    source: str
    target: str


@dataclass(frozen=True)
class TextSet:
    """Named pairs, and what is to be said of them: what was dropped, what is wrong."""

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
    raise AssertionError("the shares are less than the whole")


def drawn(name: str, draw: Callable[[random.Random], Pair], split: str, limit: int, seed: int = 0) -> tuple[Pair, ...]:
    """The first `limit` pairs with different sources that `draw` gives for this split, the same for the same seed.

    `UserError` where the sources of the split are used up.
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
            raise UserError(f"{name}:{split} has no more than about {len(found)} pairs; {limit} were asked for")
    return tuple(found.values())
