"""Tables: cells line up, nothing in a cell can break the table."""

from __future__ import annotations

import pytest

from polythink.run.table import html_table, markdown_table


def test_columns_line_up_and_numbers_stand_right() -> None:
    assert markdown_table(["arm", "mean@8", "n"], [["sequential", 0.25, 400], ["parallel", None, 1234.5]]) == (
        "| arm        | mean@8 |    n |\n"
        "| ---------- | -----: | ---: |\n"
        "| sequential |  0.250 |  400 |\n"
        "| parallel   |        | 1234 |\n"
    )


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.12345, "0.123"), (1.0, "1.000"), (-1.5, "-1.50"), (65.24, "65.2"), (999.6, "1000"), (12345.6, "12346"),
     (float("nan"), ""), (None, ""), (7, "7"), (0.0, "0.000")],
)  # fmt: skip
def test_numbers_get_three_digits(cell: float | None, text: str) -> None:
    assert markdown_table(["x"], [[cell]]).splitlines()[2].strip("| ") == text


def test_bars_line_ends_and_markup_cannot_break_a_table() -> None:
    assert markdown_table(["a|b"], [["x\ny"], ["<b>"]]) == "| a\\|b |\n| ---- |\n| x y  |\n| <b>  |\n"
    page = html_table(["a<b"], [["<script>"], [1.5]], caption="x & y")
    assert "<caption><span>x &amp; y</span></caption>" in page
    assert "<th>a&lt;b</th>" in page
    assert "<td>&lt;script&gt;</td>" in page


def test_a_row_of_the_wrong_length_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="2 cells under 1 columns"):
        markdown_table(["a"], [[1, 2]])


def test_an_empty_table_has_its_head() -> None:
    assert markdown_table(["arm"], []) == "| arm |\n| --- |\n"
