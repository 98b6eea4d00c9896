"""The words of the synthetic tasks, by the name that a recipe gives its closed tokenizer (`model.tokenizer`)."""

from __future__ import annotations

from polythink.problems.tasks import attribution, countdown

VOCABULARIES = {"countdown": countdown.VOCABULARY, "attribution": attribution.VOCABULARY}


def words_of(tokenizer: str) -> tuple[str, ...]:
    """All words of that tokenizer's task; none for an open one, such as `bytes`."""
    return VOCABULARIES.get(tokenizer, ())
