"""Units of answers: which count as the same, and which as two."""

from __future__ import annotations

from itertools import combinations

import pytest

from polythink.problems.equality import compare

TAILS = [  # an answer with words after it, and the same without
    ("25% of the students", "25"),
    ("25% of the students", r"25\%"),
    ("25 percent of the students", "25"),
    ("25 percent of the students", "0.25"),
    ("25 per cent of them", r"25\%"),
    (r"25\text{ percent of the class}", "25"),
    ("5% per year", "5"),
    ("10% increase", "10"),
    (r"25\% \text{ of the class}", "25"),
    (r"25\%\text{ chance}", r"\frac14"),
    (r"33\frac{1}{3}\% \text{ of it}", r"\frac13"),
    ("12π square units", r"12\pi"),
    ("π cm", r"\pi"),
    ("6√3 inches", r"6\sqrt{3}"),
    (r"6\sqrt{3} cm", r"6\sqrt3"),
    (r"12\pi\ cm^2", r"12\pi"),
    (r"\frac{3\pi}{2} cubic feet", r"\frac{3\pi}{2}"),
    (r"6\sqrt{3}\text{ apples}", r"6\sqrt3"),
    ("12π apples", r"12\pi"),
    ("x^2 cm", "x^2"),
]
KEPT = [  # words that are no unit, and the answer without them
    ("25% of 80", "25"),
    ("25% or more", "25"),
    (r"12\pi\text{ million}", r"12\pi"),
    ("12π squared", r"12\pi"),
    (r"12\pi m", r"12\pi"),
    (r"2\pi rh", r"2\pi"),
    (r"2\sqrt{3}in", r"2\sqrt3"),
    (r"2\sqrt{3} i", r"2\sqrt3"),
    (r"n^2\text{ for even numbers}", "n^2"),
    (r"6\sqrt{3} cm", r"6\sqrt{3}\text{ inches}"),
    ("25% of it", "25 degrees"),
]


@pytest.mark.parametrize(("answer", "less"), TAILS)
def test_words_after_a_percentage_or_a_formula_are_its_unit(answer, less):
    assert compare(answer, less) is True
    assert compare(less, answer) is True


@pytest.mark.parametrize(("answer", "less"), KEPT)
def test_other_words_after_a_formula_belong_to_it(answer, less):
    assert compare(answer, less) is not True


COUNTED = [  # an answer, what it is, and what it is not
    ("8 fifth graders", "8", "1.6"),
    (r"20\text{ third graders}", "20", r"\frac{20}{3}"),
    ("12 sixth-graders", "12", "2"),
    ("1 fifth grader", "1", "0.2"),
    ("6 half-dollars", "6", "3"),
    ("6 half dollars", "6", "3"),
    ("5 half-gallon jugs", "5", "2.5"),
    ("4 half-hours", "4", "2"),
    ("1 half hour", "0.5", "1"),
    ("7 tenths", "0.7", "7"),
    ("3 fifths of the cake", "0.6", "3"),
    ("3 tenths mile", "0.3", "3"),
    ("7 halves", "3.5", "7"),
    ("1 third", r"\frac13", "1"),
    ("1 third of the cake", r"\frac13", "1"),
    (r"2\text{ third of it}", r"\frac23", "2"),
]


@pytest.mark.parametrize(("answer", "right", "wrong"), COUNTED)
def test_an_ordinal_before_a_noun_divides_nothing(answer, right, wrong):
    assert compare(answer, right) is True
    assert compare(answer, wrong) is False


SAME = [  # what stands apart within a group says the same
    [
        "20°C",
        r"20^\circ C",
        r"20^{\circ}\text{C}",
        "20 degrees Celsius",
        r"20\text{ degrees celsius}",
        "20 ℃",
        "20 Celsius",
    ],
    ["20°F", r"20^\circ \mathrm{F}", "20 degrees F", r"20^\circ\text{ Fahrenheit}", r"20 \text{ degrees Fahrenheit}"],
    ["20 lb", "20 lbs", r"20\text{ lbs}"],
    ["£20", r"\pounds 20", r"\pounds20", r"\textsterling 20", "20£", "20 GBP", "£20.00"],
    [r"\$20", "20 dollars", r"\textdollar 20"],
    ["€20", "20 euros", r"\euro 20"],
]
EITHER = {"20": range(6), "20 degrees": (0, 1), "20°": (0, 1), "20 pounds": (2, 3), r"20\text{ pounds}": (2, 3)}


@pytest.mark.parametrize("group", SAME)
def test_one_unit_has_many_spellings(group):
    assert [pair for pair in combinations(group, 2) if compare(*pair) is not True] == []


def test_two_units_differ():
    pairs = [(a, b) for one, other in combinations(SAME, 2) for a in one for b in other]
    assert [pair for pair in pairs if compare(*pair) is not False] == []


@pytest.mark.parametrize("less", EITHER)
def test_an_answer_that_says_less_of_its_unit_is_either(less):
    verdicts = {number: {compare(less, answer) for answer in group} for number, group in enumerate(SAME)}
    assert verdicts == {number: {number in EITHER[less]} for number in range(len(SAME))}
