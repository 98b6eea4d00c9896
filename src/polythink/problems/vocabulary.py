"""The words of the tasks, by the name of their tokenizer in a recipe (`model.tokenizer`)."""

from __future__ import annotations

from polythink.errors import UserError, did_you_mean
from polythink.problems.tasks.table import TASKS

BYTES = "bytes"  # the tokenizer of any text


def words_of(tokenizer: str) -> tuple[str, ...]:
    """All words of that tokenizer's task; none for `bytes`. `UserError` for what is no tokenizer."""
    known = [*(name for name, task in TASKS.items() if task.words), BYTES]
    if tokenizer not in known:
        raise UserError(f"no tokenizer {tokenizer!r}{did_you_mean(tokenizer, known)}")
    return TASKS[tokenizer].words if tokenizer in TASKS else ()
