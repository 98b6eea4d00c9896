"""Equality of answers without algebra: the same spelling, or the same number.

`compare` says yes, no, or None if it takes algebra to tell; it is pure, quick and safe on any text. Conventions are
those of the MATH set: units, currency and degree signs do not count, and `p%` stands for p as well as for p/100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_NUMBER = 300  # characters; a longer number is left to math-verify
MAX_LAYERS = 6  # of markup around an answer

_END_TOKEN = re.compile(r"<\|\w+\|>|</?s>")  # some tokenizers leave them in the text
_SPACE = re.compile(r"\\[,;: ]|\\(?:quad|qquad|displaystyle|left|right)(?![A-Za-z])|~|\u00a0|\u2009|\u202f")
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|°")
_DOLLAR = re.compile(r"(?<!\\)\$(?!\$)")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_CURRENCY = re.compile(r"^(-?)\s*(?:\\?\$|£|€|\\pounds)\s*")
_PERCENT = re.compile(r"\s*(?:\\?%|\bpercent|\\text\s*\{\s*(?:percent|\\?%)\s*\})$")
_WORDS = r"[A-Za-z][A-Za-z.]+(?:[\s/]+[A-Za-z][A-Za-z.]+)*"  # a single letter may be a variable
_UNIT = re.compile(
    rf"(?<=[\d}}.])(?:\s+{_WORDS}|\s*\\(?:text|textrm|mbox)\s*\{{[^{{}}]*\}}|\s*\\mathrm\s*\{{\s*{_WORDS}\s*\}})"
    r"\s*(?:\^\{?[23]\}?)?$"
)
_NO_UNIT = re.compile(  # words that change the number they follow
    r"\b(?:hundred|thousand|[mb]illion|trillion|dozen|squared|cubed|factorial|choose|over|or|and|to|pi|sqrt|mod|base"
    r"|times|plus|minus|percent)s?\b",
    re.IGNORECASE,
)
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBERS = (
    re.compile(rf"(?P<sign>[-+]?)\s*(?P<top>{_DECIMAL})"),
    re.compile(
        rf"(?P<sign>[-+]?)\s*(?P<whole>\d*)\s*\\frac\s*\{{\s*(?P<top>[-+]?{_DECIMAL})\s*\}}"
        rf"\s*\{{\s*(?P<bottom>[-+]?{_DECIMAL})\s*\}}"
    ),
    re.compile(rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+)?(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>[-+]?{_DECIMAL})"),
)
_IN_BASE = re.compile(r"[0-9A-Z]+_(?:\w+|\{\w+\})")


@dataclass(frozen=True)
class Number:
    """An exact value, and how many decimal places it was written with (0 for integers and fractions)."""

    value: Fraction
    places: int = 0


def compare(given: str, reference: str) -> bool | None:
    """True: the same spelling or number. False: two different numbers. None: it takes algebra to tell."""
    one, other = spelling(given), spelling(reference)
    if one == other:
        return True
    if _IN_BASE.fullmatch(one) and _IN_BASE.fullmatch(other):
        return False  # 52_8 is not 52_9
    values, wanted = numbers(given), numbers(reference)
    if not (values and wanted):
        return None
    return any(_close(value, want) for value in values for want in wanted)


def same_tokens(given: str, reference: str) -> bool:
    """Equal word for word, apart from white space: how synthetic answers are compared."""
    return given.split() == reference.split()


def clean(answer: str) -> str:
    """The answer without what surrounds it: white space, markdown, math delimiters, end tokens, a full stop."""
    answer = " ".join(_END_TOKEN.sub("", answer).split())
    for _ in range(MAX_LAYERS):
        answer = _without_end(answer.strip(" *`"), ".,;。", kept=r"\right")
        answer = answer.removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
        if len(_DOLLAR.findall(answer)) <= 2:  # `$5$ or $7$` stays
            answer = _without_end(answer.lstrip("$"), "$", kept="\\")
    return answer


def _without_end(s: str, characters: str, kept: str) -> str:
    """`s` without those characters at its end, unless they belong to the command `kept`."""
    rest = s.rstrip(characters)
    return s if rest.endswith(kept) else rest


def spelling(answer: str) -> str:
    """One spelling for answers that differ only in how they are typeset."""
    s = _TEXT.sub(r"\1", _PERCENT.sub("", _plain(answer)))
    s = re.sub(r"\s+", " ", s)
    s = re.sub(r"(?<=\D) | (?=\D)", "", s).strip()  # a space between digits stays: 1 1/2 is not 11/2
    s = re.sub(r"([\^_])\{(\w)\}", r"\1\2", s)
    s = re.sub(r"^\(([A-Z])\)$", r"\1", s)  # the letter of a choice
    return s.casefold() if re.fullmatch(r"[A-Za-z]{3,}", s) else s


def numbers(answer: str) -> tuple[Number, ...]:
    """The values that an answer may stand for: none unless it is a plain number, two if it is a percentage."""
    if len(answer) > MAX_NUMBER:
        return ()
    s = _CURRENCY.sub(r"\1", _plain(answer))
    s, percent = _PERCENT.subn("", s)
    unit = None if percent else _UNIT.search(s)
    if unit and not _NO_UNIT.search(unit[0]):
        s = s[: unit.start()]
    number = _number(_TEXT.sub(r"\1", s).strip())
    if number is None:
        return ()
    return (number, Number(number.value / 100, number.places + 2)) if percent else (number,)


def _plain(answer: str) -> str:
    """The answer without typesetting that carries no meaning; spaces and text commands are kept."""
    s = clean(answer)
    wrapped = re.fullmatch(r"(?:\\boxed\s*)?\{([^{}]*)\}", s)
    s = clean(wrapped[1]) if wrapped else s
    s = _DEGREE.sub("", _SPACE.sub(" ", s.replace(r"\!", ""))).replace("−", "-").replace("π", r"\pi")
    s = re.sub(r"(?<=\d)\{,\}(?=\d{3})", ",", s)
    if re.fullmatch(r"\s*-?\d{1,3}(?:\s\d{3})+\s*", s):  # 1 000 000
        s = re.sub(r"\s", "", s)
    s = re.sub(r"\\[dtc]frac", r"\\frac", s)
    s = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", s)
    return re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", s).strip()


def _number(s: str) -> Number | None:
    match = next(filter(None, (form.fullmatch(s) for form in _NUMBERS)), None)
    if match is None:
        return None
    part = {"whole": None, "bottom": None, **match.groupdict()}
    value = _fraction(part["top"])
    if part["bottom"]:
        if not _fraction(part["bottom"]):
            return None
        value = value / _fraction(part["bottom"]) + int(part["whole"] or 0)
    places = 0 if part["bottom"] else len(part["top"].partition(".")[2])
    return Number(-value if part["sign"] == "-" else value, places)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip("."))


def _close(one: Number, other: Number) -> bool:
    """Equal, or one is the other rounded to the decimal places it was written with, six or more."""
    places = max(one.places, other.places)
    return one.value == other.value or (places >= 6 and abs(one.value - other.value) * 10**places * 2 <= 1)
