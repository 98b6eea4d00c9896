"""Copy, reverse, sort: words in, the same words out in another order.

Lists that are longer than any in training test whether what was learnt is the rule.

    reverse    c a b -> b a c

Splits: `train`, `valid` and `test` have 3 to 12 words, `long` has 13 to 20.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from functools import partial

from polythink.text.data.pairs import SHARES, SIZES, Pair, drawn

ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "copy": list,
    "reverse": lambda words: list(reversed(words)),
    "sort": sorted,
}
SPLITS = (*SHARES, "long")
SHORT, LONG = (3, 12), (13, 20)  # words, both ends included


def pairs(order: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs of a split; as many as of the grammar unless `limit` says otherwise."""
    if split == "long":  # the test share of longer sources: nothing there was ever trained on
        return drawn(f"{order}-long", partial(draw_pair, order, LONG), "test", limit or SIZES["test"], seed)
    return drawn(order, partial(draw_pair, order, SHORT), split, limit or SIZES.get(split, 0), seed)


def draw_pair(order: str, lengths: tuple[int, int], rng: random.Random) -> Pair:
    words = rng.choices(string.ascii_lowercase, k=rng.randint(*lengths))
    return Pair(" ".join(words), " ".join(ORDERS[order](words)))
