"""Numbers as people write them: signs, fractions, powers of ten, scale words, percentages, currency and units.

`read` takes an answer in plain notation (`problems.notation`) and says what it is: a number with what stood around it,
words, or a formula.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

MAX_NUMBER = 4000  # characters of one number
MAX_EXPONENT = 400
MIN_PLACES = 6  # a decimal of fewer places stands for itself alone, not for what rounds to it

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_TIMES = r"(?:\\times|\\cdot|\*|x)"
_NUMBERS = (
    re.compile(rf"(?P<sign>[-+]?) ?(?P<top>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d+))?"),
    re.compile(rf"(?P<sign>[-+]?) ?(?P<top>{_DECIMAL}) ?{_TIMES} ?10 ?\^ ?\{{? ?(?P<exponent>[-+]?\d+) ?\}}?"),
    re.compile(r"(?P<sign>[-+]?) ?10 ?\^ ?\{? ?(?P<exponent>[-+]?\d+) ?\}?"),
    re.compile(
        rf"(?P<sign>[-+]?) ?(?P<whole>\d*) ?\\frac\{{ ?(?P<top>[-+]?{_DECIMAL}) ?\}}"
        rf"\{{ ?(?P<bottom>[-+]?{_DECIMAL}) ?\}}"
    ),
    re.compile(rf"(?P<sign>[-+]?) ?(?:(?P<whole>\d+) )?(?P<top>{_DECIMAL}) ?/ ?(?P<bottom>[-+]?{_DECIMAL})"),
)
_CURRENCY = re.compile(r"^([-+]?) ?(\\?\$|£|€) ?([-+]?)")
_PERCENT = re.compile(
    r" ?(?:\\?%|\b(?:percent|per cent|pct)|\\text ?\{ ?(?:percent|per cent|\\?%) ?\})$", re.IGNORECASE
)
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_POWER = r"(?: ?\^ ?\{? ?-?[1-9] ?\}?)?"
_TEXT_TAIL = re.compile(rf"((?: ?\\text ?\{{[^{{}}]*\}}{_POWER})+)$")
_BARE_TAIL = re.compile(rf"(?:(?<=[\d}}.)°%])|(?<=\\pi)(?= ))( ?[^\W\d_][^\W\d_.]*(?:[ /.-]+[^\W\d_.]+)*\.?{_POWER})$")
_CONSTANT = re.compile(  # a formula without variables: 6\sqrt{3}, \frac{3\pi}{2}
    r"(?=.*(?:\d|\\pi))(?:\\(?:sqrt|frac|pi|cdot|times)(?![A-Za-z])|[\d\s.+*/^(){}\[\]-])+"
)
_CELSIUS = re.compile(  # 20°C, 20°\text{ C}, 20 degrees Celsius, 20\text{ degrees Fahrenheit}
    r"(?:°|(?:\\text ?\{ ?)?(?<![A-Za-z])(?i:degrees?)) ?(?:\\text ?\{ ?)?([CF]|(?i:celsius|fahrenheit)) ?\}?$"
)
_SCALE = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "score": 20,
    "gross": 144,
}  # fmt: skip
_PART = {  # `quarters` are coins, `seconds` are time
    "half": 2, "halves": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6, "billionth": 10**9,
}  # fmt: skip
_CHANGING = """squared cubed factorial choose over or and to through until by pi root sqrt mod modulo base plus
    minus multiplied divided percent infinity sin cos tan csc cot arcsin arccos arctan sinh cosh tanh log ln exp lim
    max gcd lcm det if when where unless but not except only am pm noon midnight x y z i e"""
_CHANGES = frozenset(_CHANGING.split())  # words that change the number that they follow, or begin another
_LETTERS = frozenset("mgslhtdLNJWVAKCF")  # that are units when set as text
_UNITS = {  # in two words where the first alone may mean both: 20 degrees are degrees C or F, 5 pounds weight or money
    **dict.fromkeys(["m", "meter", "meters", "metre", "metres"], "m"),
    **dict.fromkeys(["cm", "centimeter", "centimeters", "centimetre", "centimetres"], "cm"),
    **dict.fromkeys(["mm", "millimeter", "millimeters", "millimetre", "millimetres"], "mm"),
    **dict.fromkeys(["km", "kilometer", "kilometers", "kilometre", "kilometres"], "km"),
    **dict.fromkeys(["in", "inch", "inches"], "in"),
    **dict.fromkeys(["ft", "foot", "feet"], "ft"),
    **dict.fromkeys(["yd", "yds", "yard", "yards"], "yd"),
    **dict.fromkeys(["mi", "mile", "miles"], "mi"),
    **dict.fromkeys(["g", "gm", "gram", "grams"], "g"),
    **dict.fromkeys(["kg", "kgs", "kilogram", "kilograms"], "kg"),
    **dict.fromkeys(["mg", "milligram", "milligrams"], "mg"),
    **dict.fromkeys(["pound", "pounds"], "pound"),
    **dict.fromkeys(["lb", "lbs"], "pound weight"),
    **dict.fromkeys(["oz", "ounce", "ounces"], "oz"),
    **dict.fromkeys(["ml", "milliliter", "milliliters", "millilitres"], "ml"),
    **dict.fromkeys(["l", "liter", "liters", "litre", "litres"], "l"),
    **dict.fromkeys(["s", "sec", "secs", "second", "seconds"], "s"),
    **dict.fromkeys(["min", "mins", "minute", "minutes"], "minute"),
    **dict.fromkeys(["h", "hr", "hrs", "hour", "hours"], "h"),
    **dict.fromkeys(["day", "days"], "day"),
    **dict.fromkeys(["week", "weeks"], "week"),
    **dict.fromkeys(["month", "months"], "month"),
    **dict.fromkeys(["yr", "yrs", "year", "years"], "year"),
    **dict.fromkeys(["$", "dollar", "dollars", "usd"], "dollar"),
    **dict.fromkeys(["cent", "cents"], "cent"),
    **dict.fromkeys(["£", "gbp"], "pound sterling"),
    **dict.fromkeys(["€", "euro", "euros", "eur"], "euro"),
    **dict.fromkeys(["degree", "degrees", "deg", "°"], "degree"),
    **dict.fromkeys(["celsius"], "degree C"),
    **dict.fromkeys(["fahrenheit"], "degree F"),
    **dict.fromkeys(["rad", "radian", "radians"], "radian"),
}
_MEASURES = frozenset(["square", "sq", "cubic", "cu", "unit", "units", "per"])
_COUNTED = """mph kph kmh hz kb mb gb tb kw kwh cal pt qt gal tsp tbsp cup bag box men man boy cat dog pen egg hen cow
    pig car toy pie day sq cu cc th st nd rd ways pts way sets set row ant bee bus can jar jug key map nut pot job hat
    cap bat net bar bit win ton cwt rpm ppm psi atm mol nm um ms ns us"""
_SHORT = frozenset(_COUNTED.split())  # further units of two or three letters that are no products of variables
_PAIRS = frozenset("to of or in on at by if is no so up we he as an be do go it me my us am pm".split())  # noqa: SIM905


@dataclass(frozen=True)
class Number:
    """An exact value, and how many decimal places it was written with (0 for integers and fractions)."""

    value: Fraction
    places: int = 0

    def close(self, other: Number) -> bool:
        """Equal, or one is the other rounded to the places that it is itself written with, six or more.

        Rounding keeps at least four digits: 0.000001 is not 0.0000012.
        """
        difference = abs(self.value - other.value)
        places = min((n.places for n in (self, other) if n.places), default=0)
        larger = max(abs(self.value), abs(other.value))
        return not difference or (
            places >= MIN_PLACES and difference * 10**places * 2 <= 1 and difference * 10**4 <= larger
        )


@dataclass(frozen=True)
class Reading:
    """What an answer is: `body` is its text less currency, percent sign and unit.

    `unit`: a known unit, spelt in one way, None for none or an unknown one. `words`: it holds words that are no unit.
    """

    body: str
    number: Number | None
    percent: bool = False
    unit: str | None = None
    words: bool = False


@lru_cache(maxsize=16384)
def read(s: str) -> Reading:
    """Read an answer in plain notation."""
    s, percent = _PERCENT.subn("", s)
    s, unit = _without_currency(s)
    if celsius := _CELSIUS.search(s):
        s, unit = s[: celsius.start()].rstrip(), f"degree {celsius[1][0].upper()}"
    s, tail, of_hundred = _without_tail(s)
    unit, percent = tail.unit or unit, percent or of_hundred
    if s.endswith("°"):
        s, unit = s.rstrip("° "), unit or "degree"
    s = s.replace("°", "")
    number = _number(s)
    if number and tail.factor != 1:
        value = number.value * tail.factor
        number, s = Number(value), f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return Reading(s, number, bool(percent), "%" if percent else unit, number is None and _has_words(s))


def _without_tail(s: str) -> tuple[str, _Tail, bool]:
    """The answer less the words of a unit at its end, what these say, and whether it is a percentage.

    After a number, or a formula without variables, they may be any; after another formula only units of measure.
    """
    for form in (_TEXT_TAIL, _BARE_TAIL):
        found = form.search(s) if len(s) <= MAX_NUMBER else None
        tail = _tail(found[1], form is _BARE_TAIL) if found and found.start() else None
        if not tail:
            continue
        rest, signs = _PERCENT.subn("", s[: found.start()].rstrip(" -"))
        percent = bool(signs) or tail.percent
        if _number(rest):
            return rest, tail, percent
        apart = form is _TEXT_TAIL or (found[1][0] == " " and not tail.short and "\\text" not in rest)
        if tail.factor == 1 and apart and (tail.measured or _CONSTANT.fullmatch(rest)):
            return rest, tail, percent
    return s, _Tail(), False


def _without_currency(s: str) -> tuple[str, str | None]:
    found = _CURRENCY.match(s)
    if found:
        return found[1] + found[3] + s[found.end() :], _UNITS[found[2].lstrip("\\")]
    if s[-1:] in "£€" and s:
        return s[:-1].rstrip(), _UNITS[s[-1]]
    return s, None


@dataclass(frozen=True)
class _Tail:
    """Words after an answer. `measured`: all are units; `short`: one is a letter; `percent`: they begin so."""

    factor: Fraction = Fraction(1)
    unit: str | None = None
    measured: bool = False
    short: bool = False
    percent: bool = False


def _tail(tail: str, bare: bool) -> _Tail | None:
    """What the words after a number say; None if they are no unit."""
    inside = " ".join(_TEXT.findall(tail)) if not bare else re.sub(_POWER + "$", "", tail)
    inside = re.sub(r"\b([ap])\. ?m\b\.?", r"\1m", inside, flags=re.IGNORECASE)
    if re.search(r"\d", inside):
        return None
    words = re.findall(r"[^\W\d_]+", inside)
    lower = [word.lower() for word in words]
    hundredths = 1 if lower[:1] in (["percent"], ["pct"]) else 2 if lower[:2] == ["per", "cent"] else 0
    words, lower, factor = words[hundredths:], lower[hundredths:], Fraction(1)
    while lower and (lower[0] in _SCALE or lower[0].rstrip("s") in _SCALE):
        factor *= _SCALE.get(lower[0]) or _SCALE[lower[0].rstrip("s")]
        words, lower = words[1:], lower[1:]
    if lower and (part := _PART.get(lower[0]) or _PART.get(lower[0].removesuffix("s"))) and _is_part(lower):
        words, lower, factor = words[1:], lower[1:], factor / part
    if any(word in _CHANGES for word in lower) or not all(_is_unit(word, bare, words, tail) for word in words):
        return None
    measured = all(word in _UNITS or word in _MEASURES for word in lower)
    return _Tail(factor, _known_unit(lower), measured, any(len(word) == 1 for word in words), bool(hundredths))


def _is_part(words: list[str]) -> bool:
    """Whether an ordinal divides: `7 tenths`, `1 third of it`, `1 half hour`, but not `8 fifth graders`.

    In the singular it does not before a noun, unless that is a unit of measure in the singular.
    """
    singular, rest = words[0] in _PART and words[0] != "halves", words[1:]
    unit = len(rest) == 1 and rest[0] in _UNITS and not rest[0].endswith("s")
    return not singular or not rest or rest[0] == "of" or unit


def _is_unit(word: str, bare: bool, words: list[str], tail: str) -> bool:
    """Whether a word may name a unit: bare letters after a number may be a product of variables instead."""
    if not bare:
        return len(word) > 1 or len(words) > 1 or word in _LETTERS
    if len(word) == 1:
        others = any(len(other) > 2 for other in words)
        return word == "m" if len(words) == 1 else "/" in tail or (word == "a" and others)
    if word.lower() in _UNITS or word.lower() in _SHORT or not word.isascii():
        return True
    if len(word) < 4 and len(words) == 1:
        return False
    letters = word.lower()
    in_order = all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
    return bool(re.search("[aeiouy]", letters)) and not in_order


def _known_unit(words: list[str]) -> str | None:
    """The unit of measure in one spelling, whatever its power: square feet are feet here."""
    words = [word for word in words if word not in _MEASURES]
    return _UNITS.get(words[0]) if len(words) == 1 else None


def _has_words(s: str) -> bool:
    """Whether a text holds words for people, rather than symbols and products of variables."""
    if any(re.search(r"[^\W\d_]{2}", inside) for inside in _TEXT.findall(s)):
        return True
    runs = re.findall(r"(?<![\\A-Za-z{])[^\W\d_]{2,}", s)
    if not re.fullmatch(r"[^\W\d_]+", s):  # beside digits and signs two letters are a product, unless they are a word
        runs = [run for run in runs if len(run) > 2 or run.lower() in _PAIRS]
    return any(not is_product(run) for run in runs)


def is_product(word: str) -> bool:
    """Whether letters side by side may be a product of variables: `xy`, `pqr`, `ab`, but not `stop`, `ABC` or `on`."""
    if not word.islower() or not word.isascii():
        return False
    return not set(word) & set("aeiou") or (len(word) == 2 and set(word) <= set("abcd"))


def _number(s: str) -> Number | None:
    if len(s) > MAX_NUMBER:
        return None
    match = next(filter(None, (form.fullmatch(s) for form in _NUMBERS)), None)
    if match is None:
        return None
    part = {"whole": None, "top": "1", "bottom": None, "exponent": None, **match.groupdict()}
    value = _fraction(part["top"])
    if part["bottom"]:
        if not _fraction(part["bottom"]):
            return None
        value = value / _fraction(part["bottom"]) + int(part["whole"] or 0)
    places = 0 if part["bottom"] else len(part["top"].partition(".")[2])
    if part["exponent"]:
        exponent = int(part["exponent"])
        if abs(exponent) > MAX_EXPONENT:
            return None
        value, places = value * Fraction(10) ** exponent, max(0, places - exponent) if places else 0
    return Number(-value if part["sign"] == "-" else value, places)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip("."))
