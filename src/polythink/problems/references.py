"""The reference answer of a row: bare, after GSM8K's `####`, in the last box of a worked solution, or after `Answer:`.

A row whose answer is neither text nor a finite number is refused, never turned into the text that Python prints for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from polythink.errors import UserError
from polythink.problems.extract import last_box, said_answer, stated_answer
from polythink.run.jsonl import kind_of

ANSWER_COLUMNS = ("answer", "solution", "reward_model.ground_truth")
LONG = 100  # characters; longer references are hardly answers
WORDS = 6  # a reference of so many words is a sentence

_MARK = re.compile(r"(?<!#)####(?!#)")
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)")
_LABEL = re.compile(
    r"(?:^|(?<=[.!?]\s))[ \t*_#>]*(?:the\s+)?(?:final\s+)?answer[ \t*_]*[:：]", re.IGNORECASE | re.MULTILINE
)
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[a-zA-Z]+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]{2,}")


def reference_answer(row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
    """(reference answer, worked solution or "", whether it was completed) of a row; "" if the row has no answer.

    Some copies of MATH cut answers with nested braces at the first closing one (`\\frac{\\sqrt{3`): if the box of the
    worked solution begins with what is left, the box is taken. `UserError` for an answer that is no single answer:
    the end of a sentence that begins with the row.
    """
    raw, solution, _ = raw_reference(row, column)
    if (stated := _stated(raw)) is not None:
        return stated, raw, False
    if raw.count("{") > raw.count("}"):
        whole = last_box(solution) or ""
        if whole.startswith(raw):
            return whole, solution, True
    return raw, solution, False


def raw_reference(row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
    """The same for an answer that is taken as it stands, never out of a worked solution."""
    raw = answer_text(row.get(column), column) if column else _raw_answer(row)
    solution = row.get("solution")
    solution = solution.strip() if isinstance(solution, str) else ""
    return raw, solution if solution != raw else "", False


def answer_text(value: Any, column: str) -> str:
    """The text of an answer; "" for none. `UserError` for a list of several, a mapping, and all that is no answer."""
    while isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if value is None or value == [] or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        given = f"a list of {len(value)}"
    else:
        given = str(value) if isinstance(value, float | Decimal) else kind_of(value)
    raise UserError(f"has {given} in its column {column!r}; an answer is one text or one finite number")


def is_prose(answer: str) -> bool:
    """Whether a reference is a sentence, or longer than `LONG` characters: nothing that a response could equal."""
    return len(answer) > LONG or len(_WORD.findall(_FORMULA.sub(" ", answer))) >= WORDS


def _raw_answer(row: Mapping[str, Any]) -> str:
    """The text of the first column that holds one."""
    reward = row.get("reward_model")
    truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
    values = {"answer": row.get("answer"), "reward_model.ground_truth": truth, "solution": row.get("solution")}
    return next((text for column, value in values.items() if (text := answer_text(value, column))), "")


def _stated(raw: str) -> str | None:
    """The answer at the end of a worked solution; None for a text that is itself the answer (or only prose)."""
    last = raw.rpartition("\n")[2]
    if _MARK.search(last):  # GSM8K: the worked solution, then the number; anywhere else it is a heading
        after = _MARK.split(last)[-1].strip()
        return _stated(after) or _without_thousands(after)
    if (stated := last_box(raw) or stated_answer(raw)) is not None:
        return stated
    labels = list(_LABEL.finditer(raw))
    stated = stated_answer(f"Final Answer: {raw[labels[-1].end() :]}") if labels else said_answer(last)
    return "" if stated is None and r"\boxed" in raw else stated


def _without_thousands(answer: str) -> str:
    """The answer without the commas inside its numbers: `1,234` but not `3, 5` or the pair `(100,200)`."""
    if re.search(r"[(\[{]", answer) and ", " not in answer:
        return answer
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), answer)
