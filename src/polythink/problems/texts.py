"""Sets of text pairs by name: generated ones, and those of files and of the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from polythink.problems import grammar, numerals, sequences
from polythink.problems.pairs import SHARES, Pair, TextSet
from polythink.run.errors import UserError, nearest


@dataclass(frozen=True)
class TextSource:
    """Where a named set comes from. The first split is the one that is meant when none is named."""

    about: str
    splits: Sequence[str]
    draw: Callable[[str, int | None], tuple[Pair, ...]] | None = None  # (split, limit) -> pairs, of a generated set


TEXTS: Mapping[str, TextSource] = {
    "grammar": TextSource(
        "synthetic: words that turn around and agree, in a compositional grammar", tuple(SHARES), grammar.pairs
    ),
    **{
        f"numbers-{language}": TextSource(
            f"number words, en-{language}", tuple(SHARES), partial(numerals.pairs, language)
        )
        for language in numerals.LANGUAGES
    },
    **{
        order: TextSource(f"synthetic: {order} a list of words", sequences.SPLITS, partial(sequences.pairs, order))
        for order in sequences.ORDERS
    },
}


def load_texts(name_or_file: str, limit: int | None = None) -> TextSet:
    """The pairs of a named set (`grammar:train`), the first `limit` of them."""
    source, split = find_texts(name_or_file)
    return TextSet(f"{name_or_file.partition(':')[0]}:{split}", source.draw(split, limit))


def find_texts(name: str) -> tuple[TextSource, str]:
    """The source and the split that a name means; nothing is loaded."""
    base, _, split = name.partition(":")
    if base not in TEXTS:
        raise UserError(f"no set of texts {base!r}{nearest(base, TEXTS)}")
    source = TEXTS[base]
    if split and split not in source.splits:
        raise UserError(f"{base} has no split {split!r}{nearest(split, source.splits)}")
    return source, split or source.splits[0]
