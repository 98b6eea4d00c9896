"""Policies of decoding: pure functions over the tokens drawn so far, by name, as "module:function", or as they are.

`width.py` has those that choose how many paths a block has, `controllers.py` those that stop or deepen paths while they
run, and here is what both ask of a path: its answer. A policy sees tokens and text alone, never log-probabilities,
which agree between two computations to rounding only: so what it decides depends on the trace and on nothing else, and
the slow twin finds the same. Imports without torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

from polythink.errors import UserError, did_you_mean
from polythink.problems.extract import last_box
from polythink.rewards.functions import resolve, written

_GROUP = r"(?:[, \u00a0\u2009\u202f]|\{,\}|,\\!|\\[,;: ])"  # between groups of three digits: 12,000 and 12{,}000
_GROUPED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*(-?[\d.]+)\s*\}")
_POINT = re.compile(r"(?<![\d.])\.(?=\d)")
_DECIMAL = r"\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?(?:\^\{?-?\d+\}?)?"
_NUMBER = re.compile(rf"-?(?:\d+ )?{_DECIMAL}/-?{_DECIMAL}|-?{_DECIMAL}")
_SLASH = re.compile(r"(?<=\d)\s*/\s*(?=-?\.?\d)")
_WORD = re.compile(r"\w+")
_TAG = re.compile(r"</?\w+>")


@dataclass(frozen=True)
class Policies:
    """What a key of `SamplingParams` may be: `off`, a name of `table`, "module:function", or a function."""

    key: str
    table: Mapping[str, Callable]
    off: str | None = None

    def function(self, value: str | Callable) -> Callable | None:
        """The policy that the value names; None where it is `off`."""
        if value == self.off:
            return None
        return self.table[value] if isinstance(value, str) and value in self.table else resolve(value)

    def check(self, value: str | Callable) -> str | Callable:
        """The value; `ValueError` or `UserError` where it names nothing."""
        known = [*([self.off] if self.off else []), *self.table]
        if isinstance(value, str) and ":" not in value and value not in known:
            hint = did_you_mean(value, known)
            raise ValueError(f'no {self.key} {value!r}{hint} (or a function of your own: "module:function")')
        self.function(value)
        return value

    @property
    def type(self) -> Any:
        """The type of the key; a function is written as "module:function"."""
        return Annotated[str | Callable[..., Any], AfterValidator(self.check), PlainSerializer(written)]


def last_answer(text: str) -> str:
    """The content of the last `\\boxed{..}` of a text, or its last number, or its last word; tags do not count.

    Numbers are read in one notation, so that answers that differ are texts that differ: 12,000 is 12000, .5 is 0.5, and
    \\frac{1}{2} is 1/2.
    """
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found[0]), _TAG.sub(" ", text))
    text = _POINT.sub("0.", _SLASH.sub("/", _FRACTION.sub(r" \1/\2", text)))
    return last_box(text) or ([""] + (_NUMBER.findall(text) or _WORD.findall(text)))[-1]


ANSWERS = Policies("path_answer", {"last": last_answer})


def answer_of(path_answer: str | Callable, text: str) -> str:
    """What a path with this text answers, "" where it has no answer; `UserError` unless that is text or None."""
    answer = ANSWERS.function(path_answer)(text)
    if answer is not None and not isinstance(answer, str):
        raise UserError(f"path_answer {written(path_answer)!r} returned {answer!r}; it must return text, or None")
    return (answer or "").strip()
