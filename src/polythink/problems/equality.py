"""Equality of answers: the same spelling, the same number, the same parts; algebra only for what is left.

`same` walks through lists, sets, pairs and intervals part by part and asks `algebra` about single formulas; `compare`
is `same` without algebra, pure and quick. Conventions are those of the MATH set: units, currency, degree signs do not
count (two different units of measure do), and `p%` stands for p as well as for p/100: see docs/reference/answers.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from polythink.problems.notation import plain
from polythink.problems.parts import Parts, depth_of, parts_of, sides_of, split
from polythink.problems.quantity import Number, Reading, is_product, read

MAX_ANSWER = 4000  # characters in plain notation; a longer answer is right only if it is spelt like the reference
MAX_DEPTH = 40  # brackets within brackets; a deeper formula is not read
MAX_PARTS = 12  # unordered parts that are matched by algebra, each with each

Algebra = Callable[[str, str], bool | None]

_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_IN_BASE = re.compile(r"\(?([0-9A-Z]+)\)?_ ?\{? ?(?:\\text ?\{ ?)?\(?(\w+)\)? ?\}? ?\}?")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASES |= {"ten": "10", "twelve": "12", "sixteen": "16", "bin": "2", "oct": "8", "hex": "16", "b": "2", "dec": "10"}
_CLOCK = re.compile(r"(\d{1,2})(?::([0-5]\d))?(?: ?(?:\\text ?\{ ?)?([ap])\.? ?m\b\.? ?\}?)?", re.IGNORECASE)
_RATIO = re.compile(r"(\d+(?:\.\d+)?) ?: ?(\d+(?:\.\d+)?)")
_NAMED = re.compile(  # x =, x_1 =, f(x) =, P(A) =, \angle ABC =, (x, y) =, \text{area} =, x \in
    r"((?! ?\([^()]*(?<![\w{])\d)(?:\\[A-Za-z]+ ?)?"  # (2, 3) names nothing
    r"(?:[A-Za-z]|\\[A-Za-z]+)?[A-Z]{0,3}(?:_ ?(?:\w|\{[^{}]*\}))?'*(?: ?\([\w, \\]*\))?"
    r"|\([A-Za-z](?:, ?[A-Za-z])*\)|\\text ?\{[^{}]*\}) ?(?:=|\\in(?![A-Za-z])) ?(.+)"
)
_CHOICE = re.compile(  # \text{(B)} 12, \text{(B) }12, (B) 12, B) 12, B. 12, but not (A) + 5, which is a sum
    r"(?:(?:\\text ?)?\{ ?)?(?:\(?([A-J])\)|([A-J])[.:])[.:]?(?: ?\} ?| )(?![-+] |[*/=<>^_+])(\S.*)"
)
_CHOSEN = re.compile(r"[A-J]")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]|°")  # that is no command; degrees are not read as radians
_RELATION = re.compile(r"[=<>]|\\(?:[lgn]eq|in)(?![A-Za-z])")


# ---- the questions that others ask ----


def compare(given: str, reference: str) -> bool | None:
    """True: the same spelling, number or parts. False: they differ. None: it takes algebra to tell."""
    return same(given, reference, lambda one, other: None)


def same(given: str, reference: str, algebra: Algebra) -> bool | None:
    """Whether two answers are equal; None if `algebra` did not decide about a part on which it hangs."""
    one, other = plain(given), plain(reference)
    if one == other:
        return True
    if max(len(one), len(other)) > MAX_ANSWER:
        return spelling(given) == spelling(reference)
    return _same(one, other, algebra)


def states(given: str, reference: str, algebra: Algebra) -> bool | None:
    """Whether a given answer is the reference; of a choice, `(B) 12`, its letter is if the reference is a letter.

    Otherwise what follows the letter may be. The reference is taken as it stands.
    """
    choice = _CHOICE.fullmatch(plain(given)) if len(given) <= MAX_ANSWER else None
    if not choice:
        return same(given, reference, algebra)
    if _CHOSEN.fullmatch(spelling(reference)):
        return (choice[1] or choice[2]) == spelling(reference)
    return _either(same(choice[3], reference, algebra), lambda: same(given, reference, algebra))


def same_tokens(given: str, reference: str) -> bool:
    """Equal word for word, apart from white space: how synthetic answers are compared."""
    return given.split() == reference.split()


def spelling(answer: str) -> str:
    """One spelling for answers that differ only in how they are typeset."""
    return _spelling(read(plain(answer)).body)


# ---- answers with parts ----


def _same(one: str, other: str, algebra: Algebra) -> bool | None:
    if _spelling(one) == _spelling(other):
        return True
    one, other = _without_names(one, other)
    if _one_equation(one, other):
        return _stated(one, other, algebra)
    first, second = parts_of(one), parts_of(other)
    if not first.brackets and not second.brackets and len(first.items) == len(second.items) == 1:
        return _single(first.items[0], second.items[0], algebra)
    if first.brackets != second.brackets:
        return _other_kinds(one, other, first, second, algebra)
    if len(first.items) != len(second.items):
        return None if "\\ldots" in one + other else False
    if first.brackets:
        return _all(_same(a, b, algebra) for a, b in zip(first.items, second.items, strict=True))
    return _matched(list(first.items), list(second.items), algebra)


def _other_kinds(one: str, other: str, first: Parts, second: Parts, algebra: Algebra) -> bool | None:
    """Two answers of other brackets: a set of one is its item; an interval may be a relation (algebra tells)."""
    for parts in (first, second):
        alone = not parts.brackets and len(parts.items) == 1
        if alone and (read(parts.items[0]).number or read(parts.items[0]).words):
            return False
        if not parts.brackets and len(parts.items) > 1 and not any(sign in one + other for sign in ("<", ">", "eq ")):
            return False
    if {first.brackets, second.brackets} <= {"()", "[]", "(]", "[)"}:
        return False
    return algebra(one, other)


def _matched(given: list[str], wanted: list[str], algebra: Algebra) -> bool | None:
    """Whether the parts can be matched one to one: first those that need no algebra."""
    for item in list(given):
        found = next((want for want in wanted if _same(item, want, lambda a, b: None)), None)
        if found is not None:
            given.remove(item)
            wanted.remove(found)
    if len(given) > MAX_PARTS:
        return algebra(", ".join(given), ", ".join(wanted))
    table = [[_same(item, want, algebra) for want in wanted] for item in given]
    if any(set(line) == {False} for line in [*table, *zip(*table, strict=True)]):  # one that matches nothing
        return False
    for line in table:
        if True not in line:
            return None
        column = line.index(True)
        for other in table:
            other[column] = False
    return True


def _all(answers: Sequence[bool | None]) -> bool | None:
    undecided = False
    for answer in answers:
        if answer is False:
            return False
        undecided |= answer is None
    return None if undecided else True


def _without_names(one: str, other: str) -> tuple[str, str]:
    """`x = 5` and `5` as `5` and `5`; names stay where both have different ones, or where the other is a relation."""
    first, second = _name(one), _name(other)
    if first and second:
        same_name = _spelling(first[0]) == _spelling(second[0])
        return (first[1], second[1]) if same_name else (one, other)
    if first and not _RELATION.search(other):
        return first[1], other
    return (one, second[1]) if second and not _RELATION.search(one) else (one, other)


def _name(s: str) -> tuple[str, str] | None:
    found = _NAMED.fullmatch(s) if s.count("=") + len(re.findall(r"\\in(?![A-Za-z])", s)) == 1 else None
    if not found or not found[1].strip() or re.search(r"[<>]|\\[lgn]eq", s) or len(split(s)) > 1:
        return None
    return found[1], found[2]


# ---- equations ----


def _one_equation(one: str, other: str) -> bool:
    equations = len(sides_of(one)) > 1, len(sides_of(other)) > 1
    return equations[0] != equations[1] and max(depth_of(one), depth_of(other)) <= MAX_DEPTH


def _stated(one: str, other: str, algebra: Algebra) -> bool | None:
    """Whether an equation states the other formula: it is its last side, and the equation names it or is true.

    In a chain the sides without letters must agree: `V = lwh = 60`, `x = 2 + 2 = 4`.
    """
    sides, formula = (sides_of(one), other) if len(sides_of(one)) > 1 else (sides_of(other), one)
    *first, value = sides[1:] if _is_name(sides[0]) else sides
    checked = first if len(sides) == 2 else [side for side in first if not _LETTER.search(side)]
    return _all(_same(side, against, algebra) for side, against in [(value, formula), *((c, value) for c in checked)])


def _is_name(side: str) -> bool:
    r"""Whether a side names what is asked for: f(2), m + n, [ABC], \sin A, but not 2x, x^2, \sqrt{x} or -x."""
    letters = re.sub(r"_ ?(?:\w|\{[^{}]*\})|\^ ?\{ ?-1 ?\}(?= ?\()", "", side)  # an index; an inverse function
    for _ in range(3):  # f(g(2))
        letters = re.sub(r"(?<=[fghpqA-Z]) ?\([^()]*\)", "", letters)
    return not re.search(r"[\d^|]|^-|\\(?:sqrt|ln|log|exp)(?![A-Za-z])", letters) or bool(_NAMED.fullmatch(side + "=1"))


# ---- single formulas ----


def _single(given: str, reference: str, algebra: Algebra) -> bool | None:
    if _one_equation(given, reference):  # it stood alone in brackets
        return _stated(given, reference, algebra)
    for rule in (_bases, _clocks):
        told = rule(given, reference)
        if told is not None:
            return told
    one, other = read(given), read(reference)
    if one.unit and other.unit and any(a != b for a, b in zip(one.unit.split(), other.unit.split(), strict=False)):
        return False  # 5 cm are not 5 inches, 30% are not 30 degrees; 20 degrees may be 20°C, which are not 20°F
    if one.number and other.number:
        return _numbers_equal(one, other)
    if _spelling(one.body) == _spelling(other.body) and one.percent == other.percent:
        return True
    if one.words or other.words:
        return _words_equal(one, other, algebra)
    if max(depth_of(given), depth_of(reference)) > MAX_DEPTH:
        return False
    if one.percent and not other.percent:
        return _either(algebra(one.body, other.body), lambda: algebra(rf"\frac{{{one.body}}}{{100}}", other.body))
    if other.percent and not one.percent:
        return _either(algebra(one.body, other.body), lambda: algebra(one.body, rf"\frac{{{other.body}}}{{100}}"))
    return algebra(one.body, other.body)


def _either(first: bool | None, second: Callable[[], bool | None]) -> bool | None:
    return first if first else (second() or first)


def _numbers_equal(one: Reading, other: Reading) -> bool:
    """A percentage is its number, or a hundredth of it where the other side is no percentage."""
    if one.percent == other.percent:
        return one.number.close(other.number)
    percent, number = (one.number, other.number) if one.percent else (other.number, one.number)
    return percent.close(number) or _hundredth(percent).close(number)


def _hundredth(number: Number) -> Number:
    return Number(number.value / 100, number.places + 2 if number.places else 0)


def _words_equal(one: Reading, other: Reading, algebra: Algebra) -> bool | None:
    """Words are equal as they are spelt; only letters that may be a product of variables go to algebra."""
    if one.number or other.number or (one.words and other.words):
        return False
    words = one.body if one.words else other.body
    return False if re.fullmatch(r"(?:\\text ?\{[^{}]*\}|[^\W\d_]| )+", words) else algebra(one.body, other.body)


def _bases(given: str, reference: str) -> bool | None:
    """Numbers with a base are equal digit for digit; without it, the base is missing."""
    one, other = _IN_BASE.fullmatch(given), _IN_BASE.fullmatch(reference)
    one = one if one and any(ch.isdigit() for ch in one[1] + one[2]) else None
    other = other if other and any(ch.isdigit() for ch in other[1] + other[2]) else None
    if one and other and (one[1][0].isdigit() or other[1][0].isdigit()):
        same_base = _BASES.get(one[2].lower(), one[2]) == _BASES.get(other[2].lower(), other[2])
        return same_base and one[1].lstrip("0") == other[1].lstrip("0")
    if (one and read(reference).number) or (other and read(given).number):
        return False
    return None


def _clocks(given: str, reference: str) -> bool | None:
    """Times of day, and ratios: 5:30 p.m. is not 5:30 a.m.; 2:4 is 1:2."""
    one, other = _CLOCK.fullmatch(given), _CLOCK.fullmatch(reference)
    if any(clock and clock[3] for clock in (one, other)):
        return bool(one and other and _clock(one) == _clock(other))
    both = [_RATIO.fullmatch(s) for s in (given, reference)]
    if not any(both):
        return None
    timely = [bool(clock and clock[2]) for clock in (one, other)]
    if all(timely):
        return _clock(one) == _clock(other)
    values = [_ratio(ratio) if ratio else _value(s) for ratio, s in zip(both, (given, reference), strict=True)]
    if not all(both):
        return None if None in values and not any(timely) else not any(timely) and values[0] == values[1]
    return values[0] is not None and values[0] == values[1]


def _clock(clock: re.Match[str]) -> tuple[int, int, str]:
    return int(clock[1]), int(clock[2] or 0), (clock[3] or "").lower()


def _ratio(ratio: re.Match[str]) -> Fraction | None:
    return Fraction(ratio[1]) / Fraction(ratio[2]) if Fraction(ratio[2]) else None


def _value(s: str) -> Fraction | None:
    number = read(s).number
    return number.value if number else None


@lru_cache(maxsize=16384)
def _spelling(s: str) -> str:
    s = re.sub(r"(?<=\D) | (?=\D)", "", _TEXT.sub(r"\1", s)).strip()  # a space between digits stays: 1 1/2
    s = re.sub(r"([\^_])\{(\w)\}", r"\1\2", s)
    s = re.sub(r"^\(([A-Z])\)$", r"\1", s)  # the letter of a choice
    if re.fullmatch(r"[^\W\d_]{3,}|(?i:no|ok|on|up|in|at|it|if|so|we|he|is)", s) or (
        len(s) > 3 and re.fullmatch(r"[^\W\d_'.,-]+(?:['.,-][^\W\d_'.,-]+)*", s) and not is_product(s)
    ):
        return s.casefold()
    return s
