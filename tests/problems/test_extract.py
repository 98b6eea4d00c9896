"""Where a response states its answer: boxes and `Final Answer:` lines, after the last join."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polythink.problems.equality import compare
from polythink.problems.extract import extract, final_part, said_answer
from polythink.problems.notation import clean

BLOCK = "<Parallel><Path>{0}</Path><Path>{1}</Path></Parallel>\n<Summary>{2}</Summary>"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4}, no, \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} and then \boxed{3", r"\frac{1}{2}"),
        (r"\boxed{5", None),
        (r"\boxed{}", None),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"{ an open brace, \boxed{8}", "8"),
        (r"\boxed{a^{b^{c^{d}}}}", "a^{b^{c^{d}}}"),
        ("I think 5 but not 7", None),
        ("", None),
        ("Final Answer: 5", "5"),
        ("final answer : 5.", "5"),
        ("**Final Answer:** 5", "5"),
        ("**Final Answer: 5**", "5"),
        ("**Final Answer**: **$36.00**", "36.00"),
        (r"\textbf{Final Answer:} 42", "42"),
        ("### Final Answer:\n\n$$\n5\n$$", "5"),
        ("Final Answer:\n\\[\n5\n\\]", "5"),
        ("Final Answer: $\\boxed{5}$.", "5"),
        (r"Final Answer: \(x = 5\)", "x = 5"),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        ("Final Answer: Sam has $5$ apples.", "5"),
        ("Final Answer: $18$ dollars", "18"),  # a formula at the beginning, at the end
        ("Final Answer: The value is $5$.", "5"),
        (r"Final Answer: $\frac{1}{2}$ cup", r"\frac{1}{2}"),
        (r"Final Answer: \(5\) apples", "5"),
        (r"Final Answer: Sam has \(5\)", "5"),
        ("**Final Answer:** **$5$ apples**<|im_end|>", "5"),
        ("Final Answer:\n\n$$5$$ apples", "5"),
        (r"Final Answer: \[5\] apples", "5"),
        ("Final Answer: -$5$", "-5"),  # signs and names beside it belong to the answer
        ("Final Answer: x = $5$", "x = 5"),
        ("Final Answer: $x$ = $5$", "$x$ = $5$"),
        (r"Final Answer: $5$\%", r"5\%"),
        (r"Final Answer: \pm $5$", r"\pm 5"),
        ("Final Answer: (B) $12$", "(B) 12"),
        ("Final Answer: $5-$10 a day", "5-$10 a day"),
        ("Final Answer: She pays $36 and gets $4 back", "She pays $36 and gets $4 back"),
        ("Final Answer: $5$ or $-5$", "$5$ or $-5$"),
        ("Final Answer: 36 dollars<|im_end|>", "36 dollars"),
        (r"Final Answer: \boxed{5", None),
        ("Final Answer: 4\nFinal Answer:", "4"),
        ("Final Answer:", None),
        ("\\boxed{5}\nFinal Answer: 6", "6"),
        ("Final Answer: 6, which is \\boxed{7}", "7"),
        (r"So \boxed{Final Answer: 5}", "5"),  # a mark within a box is no line of its own
        (r"So \boxed{\text{Final Answer: } 5}", "5"),
        (r"So \boxed{\textbf{Final Answer}: 5}", "5"),
        (r"So \boxed{\text{The final answer is: }\frac{1}{2}}", r"\frac{1}{2}"),
        (r"So \boxed{\text{Final Answer: red}}", r"\text{red}"),
        (r"So \boxed{**Final Answer:** $5$}", "5"),
        (r"So \boxed{5} or \boxed{Final Answer:}", "5"),
        (r"\boxed{Final Answer: \boxed{5}}", r"\boxed{5}"),
        (r"Final Answer: 4, or \boxed{a \fbox{Final Answer: 5} b}", r"a \fbox{Final Answer: 5} b"),
        ("\\boxed{Final Answer: 5}\nFinal Answer: 6\n{", "6"),
        ("\\boxed{Final Answer: 5\nFinal Answer: 6", "6"),  # a box that is never closed
        ("Final Answer: Answer: 5", "5"),
    ],
)
def test_extract(text: str, answer: str | None):
    assert extract(text) == answer


SENTENCES = [  # with one formula: what it states, and a reference that it is not taken for
    ("Since $x = 3$, the perimeter is 18.", "18", "3"),
    ("For the $5$ people the total is $18.50 a day.", "18.50", "5"),
    ("The value of $x$ is 18.", "18", "x"),
    ("The area of $ABC$ is 18 cm$^2$", "18", "ABC"),
    ("There are 18 ways when $n = 5$.", None, "5"),
    ("There are 18 ways if $n > 5$.", None, "n > 5"),
    ("She pays 18 dollars for $x = 3$ books", None, "3"),
    ("18 (when $x = 3$)", "18", "3"),
    (r"18 cm ($= 3 \times 7$).", "18", "21"),
    ("18 (or $19$)", None, "19"),
    ("$x$ is red", None, "x"),
    ("18 ft$^2$", "18", "^2"),
    ("$18$ ft$^2$", "18", "2"),
    ("18 ft $^2$", "18", "2"),
    (r"$12\pi$ cm$^2$", r"12\pi", "2"),
    (r"18 cm\(^2\)", "18", "2"),
    (r"45$^\circ$", "45", "0"),
    ("3 or $5$", "5, 3", "5"),
    ("$3$ or 5", "5, 3", "3"),
    ("The answer is $C$.", "C", "D"),  # what was read before, and still is
    ("Since 4 take 5 days, 2 take $10$ days.", "10", "2"),
    (r"The probability of 2 heads is $\frac14$.", "0.25", "2"),
    ("420 cards / 10 = $42$ pages", "42", "420"),
    ("The area is $5$ ft^2", "5", "2"),
]


@pytest.mark.parametrize(("line", "right", "wrong"), SENTENCES)
def test_a_formula_is_not_the_answer_where_the_sentence_says_another(line: str, right: str | None, wrong: str):
    stated = extract(f"Final Answer: {line}")
    assert right is None or compare(stated, right) is True
    assert compare(stated, wrong) is not True


LISTS = [  # what stands below a mark, the answer, and what it is not taken for
    ("- 18 dollars", "18", "-18"),
    ("- **18**", "18", "-18"),
    ("  - 18", "18", "-18"),
    ("+ 18", "18", "-18"),
    ("• 18", "18", "-18"),
    ("1. 18", "18", "1"),
    ("1) $18$", "18", "1"),
    ("---\n18", "18", "-18"),
    ("* * *\n**18**", "18", "-18"),
    ("- $x = 3$\n- $x = -2$", "3, -2", "3"),
    ("- $3$\n\n- $-2$\n\nI checked both.", "3, -2", "3"),
    ("  1. 3\n  2. -2", "3, -2", "3"),
    ("* red\n* blue", "red, blue", "red"),
    ("* 18\n* This is what is left.", "18", "-18"),
    ("- 18\n  - of 20", "18", "-18"),  # another list within
    ("- 18\n1. So 20", "18", "-18"),
    ("-18", "-18", "18"),
    ("- -18", "-18", "18"),
    ("- $-18$", "-18", "18"),
]


@pytest.mark.parametrize(("text", "right", "wrong"), LISTS)
def test_a_list_below_a_mark_states_its_items(text: str, right: str, wrong: str):
    for mark in ("**Final Answer:**\n\n", "Final Answer:\n"):
        assert compare(extract(mark + text), right) is True
        assert compare(extract(mark + text), wrong) is not True
    assert compare(said_answer("## Answer\n" + text), right) is True


def test_a_minus_sign_beside_a_mark_is_no_bullet():
    assert extract("Final Answer: - 18") == "- 18"
    assert extract("Final Answer:\n5. So it is") == "5. So it is"


def test_the_answer_is_read_after_the_last_join_only():
    inside = BLOCK.format(r"\boxed{5}", "Final Answer: 5", r"\boxed{5}")
    assert extract(inside) is None
    assert extract(r"\boxed{5} first " + inside) is None
    assert extract(inside + r" so \boxed{6}") == "6"
    assert extract(inside + r"\boxed{6}" + BLOCK.format("a", r"\boxed{7}", "c")) is None
    assert extract(inside + BLOCK.format("a", "b", "c") + "\nFinal Answer: 8") == "8"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("no tags", "no tags"),
        ("a" + BLOCK.format("b", "c", "d") + "e", "e"),
        ("a<Parallel><Path>b", ""),  # cut in a path
        ("a<Parallel><Path>b</Path><Path>c</Path></Parallel>\n<Summary>d", ""),  # cut in the summary
        ("a<Parallel><Path>b</Path><Path>c</Path></Parallel>d", "d"),  # no summary
        (BLOCK.format("a", "b" + BLOCK.format("c", "d", "e") + "f", "g") + "h", "h"),  # nested
        ("<Parallel><Path>a" + BLOCK.format("b", "c", "d") + r"\boxed{1}", ""),  # a nested join is not the last one
        ("a</Path>b</Summary>c", "a</Path>b</Summary>c"),  # stray closing tags are text
        ("<Parallel><Path>a<Path>b</Path></Parallel>\n<Summary>c</Summary>d", "d"),  # a forgotten </Path>
    ],
)
def test_final_part(text: str, part: str):
    assert final_part(text) == part


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=r"\boxed{}$*5.a <>/PathFinalAnswer:" + "\n"))
def test_any_text_is_extracted_and_compared_without_an_error(text: str):
    answer = extract(text)
    assert answer is None or (answer and compare(answer, answer))


def test_clean_takes_markup_away_and_nothing_else():
    assert clean(r"`**$$ \( 5 \) $$.**`") == "5"
    assert clean(r"\$5") == r"\$5"
    assert clean(r"\left[0, 1\right)") == r"\left[0, 1\right)"
