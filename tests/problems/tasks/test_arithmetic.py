"""Plain arithmetic: whole numbers as such come to what fractions come to."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from polythink.problems.tasks.arithmetic import ERRORS, exact, parsed, value

NAMES = {"a": 6, "b": 4, "c": 0}


def random_text(rng: random.Random, depth: int) -> str:
    if not depth:
        return rng.choice(("a", "b", "c", "0", "1", "7", "12", "2.5"))
    one, other = random_text(rng, depth - 1), random_text(rng, rng.randrange(depth))
    return f"({one} {rng.choice('+-*/%')} {other})"


def by_fractions(text: str) -> Fraction:
    """Python's own evaluation, with a fraction in the place of each number and name."""
    text = re.sub(r"[\d.]+|[abc]", lambda found: f"Fraction('{NAMES.get(found[0], found[0])}')", text)
    return eval(text, {"Fraction": Fraction})


def test_values_are_those_of_fractions():
    rng, whole, divided = random.Random(0), 0, 0
    for _ in range(300):
        text = random_text(rng, rng.randint(1, 3))
        try:
            expected = by_fractions(text)
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                exact(parsed(text), NAMES)
            continue
        found = exact(parsed(text), NAMES)
        assert found == expected, text
        assert value(parsed(text), NAMES) == expected
        assert isinstance(value(parsed(text), NAMES), Fraction)
        whole += isinstance(found, int)
        divided += found.denominator > 1
    assert whole > 50
    assert divided > 50


def test_a_comparison_is_true_or_false():
    assert value(parsed("a > b"), NAMES) is True
    assert value(parsed("a / b < 1"), NAMES) is False


@pytest.mark.parametrize("text", ["", "a +", "f(a)", "a ** b", "d", "-a", "1 / c", "'a'", "True"])
def test_what_is_no_arithmetic_is_one_of_the_errors(text: str):
    with pytest.raises(ERRORS):
        value(parsed(text), NAMES)
