"""The words of the synthetic tasks, by the name of their tokenizer in a recipe (`model.tokenizer`)."""

from __future__ import annotations

from polythink.problems.tasks import attribution, countdown

VOCABULARIES = {"countdown": countdown.VOCABULARY, "attribution": attribution.VOCABULARY}


def words_of(tokenizer: str) -> tuple[str, ...]:
    """All words of that tokenizer's task; none for a tokenizer of any text, such as `bytes`."""
    return VOCABULARIES.get(tokenizer, ())
