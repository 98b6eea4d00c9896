"""Units of answers: which count as the same, and which as two."""

from __future__ import annotations

from itertools import combinations

import pytest

from polythink.problems.equality import compare

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
