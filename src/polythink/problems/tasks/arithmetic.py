"""The value of a line of plain arithmetic, exactly."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Mod: operator.mod, ast.Gt: operator.gt, ast.Lt: operator.lt,
}  # fmt: skip
ERRORS = (SyntaxError, ValueError, KeyError, AttributeError, ZeroDivisionError)  # of a text that is no arithmetic


@lru_cache(maxsize=1024)
def parsed(text: str) -> ast.expr:
    """The text as a tree; one of `ERRORS` where it is no expression."""
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
