"""The prompts of `polythink generate`: one from the command line, or many from a file or standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from polythink.errors import UserError, did_you_mean


def split_arguments(prompt: str | None, overrides: Sequence[str], file: Path | None) -> tuple[str | None, list[str]]:
    """With --file the first free argument is not a prompt but a KEY=VALUE like the others."""
    if file is not None and prompt is not None:
        return None, [prompt, *overrides]
    return prompt, list(overrides)


def read_prompts(prompt: str | None, file: Path | None, column: str | None) -> list[str]:
    """The prompts in their order. `-` stands for standard input; `UserError` for an empty prompt, and for none."""
    if prompt is None and file is None:
        raise UserError("give a prompt, or --file FILE, or - for one prompt per line of standard input")
    if prompt == "-" or file == Path("-"):
        found, where = _lines(sys.stdin.read()), "standard input"
    elif file is not None:
        found, where = (_lines(_text(file)) if file.suffix == ".txt" else _column(file, column)), str(file)
    else:
        found, where = [prompt or ""], "the prompt"
        if not found[0].strip():
            raise UserError("the prompt is empty; give the problem that the model is to answer")
    if not found:
        raise UserError(f"{where} holds no prompts; give one per line")
    return found


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {file}: it is not UTF-8 text") from None


def _column(file: Path, column: str | None) -> list[str]:
    """The texts in a column of a .jsonl or .parquet file: the named one, else the first that problem sets use."""
    from polythink.problems.sets import QUESTION_COLUMNS
    from polythink.run.jsonl import read_rows

    found = []
    for number, row in enumerate(read_rows(file)):
        name = column or next((key for key in QUESTION_COLUMNS if key in row), None)
        if name is None or name not in row:
            asked = f"no column {name!r}{did_you_mean(name, row)}" if name else f"none of {', '.join(QUESTION_COLUMNS)}"
            raise UserError(f"row {number} of {file} has {asked}; name the column with --column: {', '.join(row)}")
        if not isinstance(row[name], str) or not row[name].strip():
            raise UserError(f"row {number} of {file}: {name} is not a prompt but {row[name]!r}")
        found.append(row[name])
    return found
