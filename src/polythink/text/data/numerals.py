"""Number words between real languages, by `num2words`: a smoke test that every decent model passes in minutes.

    nine hundred and sixty-one -> neunhunderteinundsechzig

Numbers below a million, 10,000 to train on. German writes a number as one word, so the tokenizer has to cut words.
"""

from __future__ import annotations

import random
from functools import lru_cache, partial

from polythink.errors import UserError
from polythink.text.data.pairs import SIZES, Pair, drawn

LANGUAGES = ("de", "fr")
TRAIN = 10_000  # pairs; they take time to be written


def pairs(language: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Pair, ...]:
    """English number words and those of `language`."""
    limit = limit or (TRAIN if split == "train" else SIZES.get(split, 0))
    return drawn(f"numbers-{language}", partial(draw_pair, language), split, limit, seed)


def draw_pair(language: str, rng: random.Random) -> Pair:
    """A number of one to six digits, each length as likely as another."""
    number = rng.randrange(10 ** rng.randint(1, 6))
    return Pair(in_words(number, "en"), in_words(number, language))


@lru_cache(maxsize=1 << 16)
def in_words(number: int, language: str) -> str:
    try:
        from num2words import num2words
    except ImportError:
        raise UserError("number words need `pip install 'polythink[translation]'`") from None
    return num2words(number, lang=language)
