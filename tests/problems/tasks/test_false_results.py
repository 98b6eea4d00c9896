"""False results in the prose of word problems: what is plainly false is found, and nothing else."""

from __future__ import annotations

import pytest

from polythink.problems.tasks import countdown
from polythink.problems.tasks.arithmetic import ERRORS, false_results, parsed
from polythink.problems.tasks.stories import STORIES


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in false_results(text)]


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("There are 12 * 14 = 160 pages at first. Then 160 - 12 = 158 are left.", ["160", "158"]),
        ("3+4=8", ["8"]),
        ("2 + 3 * 4 = 20, not 14", ["20"]),
        ("Each pays $5 * 3 = $16.", ["$16"]),
        ("1,000 + 5 = 1,006 and 1 + 1 = 3", ["1,006", "3"]),
        ("2 * 3 = 6.5", ["6.5"]),
        ("10 / 4 = 3.5", ["3.5"]),
        ("6 - 12 = 6", ["6"]),
        ("<<48/2=25>>", ["25"]),
        ("1 + 1 = 3 1 + 1 = 4", ["3", "4"]),
        ("She has 5\n3 + 4 = 8 times as many (3 + 3 = 7)", ["8", "7"]),
        ("the tax 3 + 4 = 8 – or so, 8 of 20", ["8"]),
    ],
)
def test_what_is_plainly_false(text, false):
    assert found(text) == false


@pytest.mark.parametrize(
    "text",
    [
        "12 * 14 = 168", "2 + 3 * 4 = 14", "1,000 + 5 = 1,005", "Each pays $5 * 3 = $15.", "6 - 12 = -6",
        "21 / 39 = 0.5 beads", "10 / 3 = 3", "10 / 3 = 3.34",  # rounded or cut off
        "x + 3 + 4 = 9", "(3 + 4) * 2 = 14", "2 ^ 3 + 1 = 9", "y2 + 3 = 6",  # part of more
        "8 / 32 = 2 / 3 = 1 / 4", "3 * 4 = 13 * 2", "2 + 2 = 5%", "5 / 30 = 1/2", "2 * 3 = 7(1 + 1)",
        "40 x 5/100 = $2", "40 × 5 + 100 = 300", r"$40 \times 5 + 100 = 300$", r"40 \cdot 5 + 100 = 300",
        "half of 10 + 4 = 9", "20% of 50 - 5 = 5", "3 times 4 + 5 = 17", "12 divided by 2 + 1 = 7", "twice 5 + 3 = 13",
        "3 + 4 = 2 x 3.5", r"3 + 4 = 1 \times 7", "3 + 4 = 1 · 7", "10 – 3 + 4 = 11", "1 1/2 + 1 = 2.5",
        "10 − 3 + 4 = 11", "(3 + 1)2 + 5 = 13",
        "5 * 63 = 314cm", "1 / 0 = 3", "08 + 1 = 3", "3 = 4", "=", "",
    ],
)  # fmt: skip
def test_what_is_not(text):
    assert not found(text)


def test_numbers_that_python_refuses_to_read_are_passed_over():
    assert countdown.slips(f"1 + 1 = 3 ; 1 + 1 = {'9' * 5000} ; {'9' * 5000} + 1 = 2") == [(8, 9)]


@pytest.mark.parametrize("terms", [52, 1200, 20_000])
def test_expressions_too_long_to_read_are_passed_over(terms):
    assert not found(f"{' + '.join(['1'] * terms)} = 7 and 1 + 1 = 2")
    assert found(f"{' + '.join(['1'] * terms)} = 7 and 1 + 1 = 3") == ["3"]
    with pytest.raises(ERRORS):
        parsed("+".join(["1"] * terms))


def test_reports_on_stories_show_them():
    assert STORIES.shows_slips
    assert STORIES.slips("7 * 8 = 54") == [(8, 10)]
    assert not STORIES.slips(STORIES.problems("stories-two", "train", 1)[0].solution)
