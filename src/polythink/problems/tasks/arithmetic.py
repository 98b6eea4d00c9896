"""The value of a line of plain arithmetic, exactly."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Mod: operator.mod, ast.Gt: operator.gt, ast.Lt: operator.lt,
}  # fmt: skip
MOST_OPERATORS = 50  # a longer expression is not read: it would be a tree too deep to walk
ERRORS = (SyntaxError, ValueError, KeyError, AttributeError, ZeroDivisionError)  # of a text that is no arithmetic

_NUMBER = r"\$?\d+(?:,\d{3})*(?:\.\d+)?"
_EQUATION = re.compile(
    r"(?<![\w.,$)}\]])(?!(?<=\d )\d+/\d)"  # not right after a group, (3 + 1)2 + 5 = 13, nor a mixed number's fraction
    rf"({_NUMBER}(?: ?[-+*/] ?{_NUMBER}){{1,{MOST_OPERATORS}}}) ?= ?({_NUMBER})(?!\w)"
)
_SIGN = r"[-+*/^%=±∓·⋅∙×÷√−]|\\(?:times|cdot|div|pm|mp)"
# A longer formula, of which an equation is a part: it begins before it, or goes on after it.
_BEGUN = re.compile(rf"(?:{_SIGN}|–|\b(?:x|of|times|by|plus|minus|over|mod|twice|double|triple|half))\Z", re.IGNORECASE)
_GOES_ON = re.compile(rf"\s*(?:{_SIGN}|\(|(?:–|x|times|plus|minus|over|mod|(?:divid|multipli)ed by)\s*[\d($\\])")
_LONGEST_SIGN = 10  # characters, with what stands before a word


@lru_cache(maxsize=1024)
def parsed(text: str) -> ast.expr:
    """The text as a tree; one of `ERRORS` where it is no expression, or has more than `MOST_OPERATORS`."""
    if sum(map(text.count, "+-*/%")) > MOST_OPERATORS:
        raise ValueError(f"more than {MOST_OPERATORS} operators")
    return ast.parse(text, mode="eval").body


def value(node: ast.expr, names: Mapping[str, int] | None = None) -> Fraction | bool:
    """The value of a tree of numbers, names, `+ - * / %`, or of one comparison by `<` or `>`; one of `ERRORS` for what
    is something else."""
    found = exact(node, names or {})
    return found if isinstance(found, bool) else Fraction(found)


def exact(node: ast.expr, names: Mapping[str, int]) -> int | Fraction | bool:
    """The same, whole numbers as such: many times faster."""
    match node:
        case ast.Constant():
            return node.value if type(node.value) is int else Fraction(str(node.value))
        case ast.Name():
            return names[node.id]
        case ast.Compare():
            return _OPERATORS[type(node.ops[0])](exact(node.left, names), exact(node.comparators[0], names))
    one, other = exact(node.left, names), exact(node.right, names)
    if not isinstance(node.op, ast.Div):
        return _OPERATORS[type(node.op)](one, other)
    found = Fraction(one, other)
    return found.numerator if found.denominator == 1 else found


def false_results(text: str) -> list[tuple[int, int]]:
    """Where the false results of a text's equations stand: `160` in `There are 12 * 14 = 160 pages at first.`

    Only what is plainly false: an equation of numbers alone that is no part of a longer formula. The result of a
    division, or of numbers with decimals, may be rounded or cut off.
    """
    return [
        step.span(2)
        for step in _EQUATION.finditer(text)
        if _stands_alone(text, *step.span()) and _is_false(*step.groups())
    ]


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not _BEGUN.search(text[:start].rstrip()[-_LONGEST_SIGN:]) and not _GOES_ON.match(text, end)


def _is_false(expression: str, result: str) -> bool:
    expression, result = (re.sub("[$,]", "", part) for part in (expression, result))
    places = len(result.partition(".")[2])
    try:
        off = abs(value(parsed(expression)) - Fraction(result))
    except ERRORS:
        return False
    return off >= Fraction(1, 10**places) if set("/.") & set(expression) else off != 0
