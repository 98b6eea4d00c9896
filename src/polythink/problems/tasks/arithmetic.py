"""The value of a line of plain arithmetic, exactly."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
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
    match node:
        case ast.Constant():
            return Fraction(str(node.value))
        case ast.Name():
            return Fraction((names or {})[node.id])
        case ast.Compare():
            return _OPERATORS[type(node.ops[0])](value(node.left, names), value(node.comparators[0], names))
    return _OPERATORS[type(node.op)](value(node.left, names), value(node.right, names))
