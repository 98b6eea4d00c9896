"""Algebra on two formulas, for the worker process (`problems.verify`): sympy reads them, math-verify compares them.

math-verify by itself takes letters of both cases for one symbol, cuts letters off as units, compares numbers to a fixed
number of decimal places (so that all tiny ones are equal) and reads `i` as a symbol. So the formulas are read here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import grader, verify

from polythink.problems.quantity import MIN_PLACES, Number
from polythink.problems.quantity import read as read_quantity

DIGITS = 50  # to which two numbers are evaluated
AGREE = 30  # digits on which they must agree: closed forms that do are equal

_TYPESETTING = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
# The grammar adds two numbers beside each other up, as in 3 1/2. An index is none of them: \log_2 8, 2^3 4.
_BESIDE = re.compile(  # 3 4, 3{4}, {3}4
    r"(?<![_^\d.])(?<![_^]-)\d[\d.]*(?: \{? ?|\{ ?)\.?\d|(?<![\w}\]^_])[{\[]\d[\d.]*[}\]] ?\{?\d"
)
_TIMES = re.compile(r"(?:(?<![_^\d.])\d[\d.]*|\)) ?(?=\(\.?\d[\d.]*\))|\) ?(?=\.?\d)")  # 2(3), (2)(3), (2) 3
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")


def equal(given: str, reference: str) -> bool:
    """Whether two formulas in plain notation are equal."""
    complex_ = any(_IMAGINARY.search(formula) or r"\sqrt{-" in formula for formula in (given, reference))
    one, other = _read(given, complex_), _read(reference, complex_)
    if one is None or other is None:
        return False
    rounded = _rounded(given, other)
    if rounded is None:
        rounded = _rounded(reference, one)
    return rounded if rounded is not None else bool(verify(other, one, timeout_seconds=None))


def _read(formula: str, complex_: bool) -> Any:
    """The formula as a sympy object, None if it cannot be read."""
    if _BESIDE.search(formula):
        return None
    text = normalize_latex(_TIMES.sub(lambda m: m[0] + r"\cdot ", formula), _TYPESETTING)
    parts = re.split(r"(?<![\\<>!])=", text)
    attempts = [text, parts[-1]] if len(parts) > 2 and not re.search("[,;]", text) else [text]
    for attempt in attempts:
        try:
            read = latex2sympy(
                attempt, is_real=None if complex_ else True, normalization_config=None, conversion_config=_CONVERSION
            )
        except (MemoryError, RecursionError):
            raise
        except Exception:  # the grammar raises bare exceptions for whatever it cannot read
            continue
        return _with_imaginary_unit(read) if complex_ else read
    return None


def _with_imaginary_unit(read: Any) -> Any:
    """`i` is the imaginary unit, unless it counts (a summation index is no free symbol)."""
    symbols = [symbol for symbol in getattr(read, "free_symbols", ()) if symbol.name == "i"]
    return read.subs({symbol: sympy.I for symbol in symbols}) if symbols else read


def _rounded(decimal: str, expression: Any) -> bool | None:
    """Whether an expression rounds to a decimal of six places or more; None if that is not the question."""
    number = read_quantity(decimal).number
    if number is None or number.places < MIN_PLACES or not _is_number(expression):
        return None
    value = sympy.N(expression, DIGITS)
    return bool(value.is_real) and number.close(Number(Fraction(str(value))))


def _is_number(expression: Any) -> bool:
    return isinstance(expression, sympy.Expr) and not expression.free_symbols and bool(expression.is_number)


def _numbers_equal(one: Any, other: Any, *precision: int) -> bool:
    """Two numbers, or two matrices of them: exactly if both are rational, else to `AGREE` significant digits.

    Takes the place of math-verify's comparison to a fixed number of decimal places.
    """
    matrices = (sympy.MatrixBase, sympy.MatrixExpr)
    if isinstance(one, matrices) and isinstance(other, matrices):
        one, other = grader.safe_sympy_doit(one), grader.safe_sympy_doit(other)
        if not isinstance(one, sympy.MatrixBase) or not isinstance(other, sympy.MatrixBase) or one.shape != other.shape:
            return False
        return all(grader.sympy_expr_eq(a, b, *precision) for a, b in zip(one.flat(), other.flat(), strict=True))
    one, other = grader.safe_sympy_doit(one), grader.safe_sympy_doit(other)
    if not (_is_number(one) and _is_number(other)):
        return one == other
    if one.is_Rational and other.is_Rational:
        return bool(one == other)
    a, b = sympy.N(one, DIGITS), sympy.N(other, DIGITS)
    if not (a.is_finite and b.is_finite):
        return bool(one == other)
    larger, difference = max(abs(a), abs(b)), abs(a - b)
    if one.has(sympy.Float) or other.has(sympy.Float):
        rounded = difference * 10**MIN_PLACES * 2 <= 1 and difference * 10**4 <= larger
        return bool(rounded or difference <= larger * 10**-12)
    return bool(difference <= larger * sympy.Float(10, DIGITS) ** -AGREE)


grader.sympy_numeric_eq = _numbers_equal
