"""Demonstrations by rule from worked solutions: what becomes a path, and what is left alone."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.demonstrations import DemoStyle, NotDemonstrable
from polythink.problems.tasks.math import MATH
from polythink.problems.tasks.worked import by_rule, one_expression, read_lines
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.validity import check

SHOP = (
    "Pants cost 54*2=$<<54*2=108>>108\nShirts cost 4*33=$<<4*33=132>>132.\nAll cost 108+132=$<<108+132=240>>240\n"
    "He gets 250-240=$<<250-240=10>>10 back.\n#### 10"
)
SHOP_ASKED = "2 pants for $54 each and 4 shirts for $33 each are paid with $250. How much is the change?"


def test_what_is_computed_apart_becomes_paths() -> None:
    ways = by_rule(SHOP, SHOP_ASKED, "10", 2)
    assert ways.paths == ("Pants cost 54*2=$108.", "Shirts cost 4*33=$132.")
    assert ways.summary == "All cost 108+132=$240. He gets 250-240=$10 back."
    assert (ways.before, len(ways.flat)) == ("", 1)
    problem = Problem("shop", SHOP_ASKED, "10", solution=SHOP)
    text = MATH.demonstrate(problem, DemoStyle(), random.Random(3), PARALLEL_R1)
    assert text in (
        "<Parallel><Path> Pants cost 54*2=$108. </Path><Path> Shirts cost 4*33=$132. </Path></Parallel>\n<Summary> All "
        "cost 108+132=$240. He gets 250-240=$10 back. </Summary> Final Answer: 10",
        "<Parallel><Path> Shirts cost 4*33=$132. </Path><Path> Pants cost 54*2=$108. </Path></Parallel>\n<Summary> All "
        "cost 108+132=$240. He gets 250-240=$10 back. </Summary> Final Answer: 10",
    )
    flat = MATH.demonstrate(problem, DemoStyle("sequential"), random.Random(0), PARALLEL_R1)
    assert flat.endswith("He gets 250-240=$10 back.\nFinal Answer: 10")
    assert "<" not in flat


def test_lines_that_both_paths_use_stay_before_the_block() -> None:
    solution = (
        "There are 10/2=<<10/2=5>>5 rows.\nBelow are 5*12=<<5*12=60>>60 bricks.\nAbove are 5*8=<<5*8=40>>40 bricks.\n"
        "In all 60+40=<<60+40=100>>100.\n#### 100"
    )
    ways = by_rule(solution, "10 rows, half with 12 and half with 8 bricks?", "100", 2)
    assert ways.before == "There are 10/2=5 rows."
    assert ways.paths == ("Below are 5*12=60 bricks.", "Above are 5*8=40 bricks.")


def test_three_parts_go_on_two_paths_or_on_three() -> None:
    lines = [f"Part {n} is {n}*20=<<{n}*20={n * 20}>>{n * 20}." for n in (2, 3, 4)]
    solution = "\n".join([*lines, "In all 40+60+80=<<40+60+80=180>>180.", "#### 180"])
    assert len(by_rule(solution, "20 each?", "180", 3).paths) == 3
    assert by_rule(solution, "20 each?", "180", 2).paths == (
        "Part 2 is 2*20=40.",
        "Part 3 is 3*20=60. Part 4 is 4*20=80.",
    )
    assert len(by_rule(solution, "20 each?", "180", 9).paths) == 3


def test_a_number_from_nowhere_forbids_a_split() -> None:
    """90 is neither in the question nor an earlier result: the line may use something that is not written."""
    hidden = SHOP.replace("54*2=108", "54*2+90-90=108")
    assert by_rule(SHOP, SHOP_ASKED, "10", 2).summary.startswith("All cost")
    assert by_rule(hidden, SHOP_ASKED, "10", 2).summary == "Both ways give 10."


def test_a_chain_is_worked_out_twice() -> None:
    chain = "She sold 48/2=<<48/2=24>>24 in May.\nTogether 48+24=<<48+24=72>>72 clips.\n#### 72"
    ways = by_rule(chain, "48 clips in April, half as many in May?", "72", 2)
    assert ways.paths == (
        "She sold 48/2=24 in May. Together 48+24=72 clips.",
        "In one expression it is 48 + (48 / 2) = 48 + 24 = 72.",
    )
    assert ways.summary == "Both ways give 72."


@pytest.mark.parametrize(
    ("solution", "answer", "why"),
    [
        ("Just 72.\n#### 72", "72", "no worked solution with its steps marked"),
        ("a <<1+1=2>>2\nb <<2+3=5>>5\n#### 6", "6", "last step is not its answer"),
        ("a <<1+1=2>>2\n#### 2", "2", "neither divides"),  # one step is no calculation in two ways
        ("a <<7*9=63>>63\nb <<5+1=6>>6\nc <<6*2=12>>12\n#### 12", "12", "neither divides"),  # 63 is not used
        ("a <<50%*10=5>>5\nb <<5+1=6>>6\n#### 6", "6", "neither divides"),  # % is no plain arithmetic
    ],
)
def test_solutions_that_are_left_alone(solution: str, answer: str, why: str) -> None:
    with pytest.raises(NotDemonstrable, match=why):
        by_rule(solution, "?", answer, 2)


def test_an_expression_that_does_not_come_to_its_answer_is_none() -> None:
    assert one_expression(read_lines("a <<3+4=7>>7\nb <<7*2=15>>15")) is None
    assert one_expression(read_lines("a <<3+4=7>>7\nb <<7*2=14>>14")) == (
        "In one expression it is (3 + 4) * 2 = 7 * 2 = 14."
    )
    assert one_expression(read_lines("a <<10/3=3.33>>3.33\nb <<3.33*3=10>>10")) is None  # rounded on the way


def test_lines_without_a_step_go_with_a_neighbour() -> None:
    lines = read_lines("First we add.\n3+4=<<3+4=7>>7\nSo far.\n7*2=<<7*2=14>>14\nThat is all.\n#### 14")
    assert [line.text for line in lines] == ["First we add. 3+4=7.", "So far. 7*2=14. That is all."]
    assert lines[1].uses == {Fraction(7), Fraction(2)}
    assert lines[1].results == {Fraction(14)}


def test_a_cold_start_keeps_what_the_rule_can_use_and_counts_the_rest(tmp_path: Path) -> None:
    problems = [Problem("a", SHOP_ASKED, "10", source="s", solution=SHOP), Problem("b", "1+1?", "2", source="s")]
    teacher = MATH.teacher({"parallel": 1.0})
    table = run_coldstart(problems, teacher, get_prompt("two_ways"), "strict", tmp_path, about_teacher=teacher.about)
    assert (table[0]["kept"], table[0]["rejected"]) == (1, {"error: not demonstrable": 1})
    assert [row["problem"] for row in read_jsonl(tmp_path / "kept.jsonl")] == ["a"]


def test_a_demonstration_that_cannot_be_made_names_its_problem() -> None:
    problem = Problem("b", "1+1?", "2", source="s")
    with pytest.raises(UserError, match=r"the problem b has no worked solution .*; a coldstart stage leaves it out"):
        MATH.demonstrate(problem, DemoStyle(), random.Random(0), PARALLEL_R1)


def test_most_of_gsm8k_can_be_demonstrated(shared_data: Path) -> None:
    from polythink.problems.sets import load_problems

    kinds = Counter()
    with Grader() as grader:
        for problem in load_problems(shared_data / "gsm8k_train.parquet", limit=150):
            try:
                text = MATH.demonstrate(problem, DemoStyle(), random.Random(problem.key), PARALLEL_R1)
            except NotDemonstrable:
                kinds["left out"] += 1
                continue
            kinds["expression" if "In one expression" in text else "split"] += 1
            assert check(text, "strict", PARALLEL_R1).valid, text
            assert grader.grade(text, problem).verdict == "right", text
    assert kinds["left out"] < 40
    assert kinds["split"] > 25
    assert kinds["expression"] > 60
