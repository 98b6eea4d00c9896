"""Long multiplication against Python's integers."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.sets import load_problems
from polythink.problems.tasks.demonstrations import SPLITS, DemoStyle
from polythink.problems.tasks.multiplication import (
    LEVELS,
    MULTIPLICATION,
    POOL,
    VOCABULARY,
    demonstrate,
    partial_products,
    path_answer,
    problem_of,
    problems,
    slips,
)
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
from polythink.trace.parse import parse
from polythink.trace.validity import check

ASKED = problem_of(347, 526)
EQUATION = re.compile(r"((?:\d [*+] )+\d) = (\d) (\d)")


def written(problem: Problem, paths: int, style: str = "parallel", seed: int = 0) -> str:
    return demonstrate(problem, DemoStyle(style, (paths,)), random.Random(seed), PARATHINKER)


def drawn(count: int, seed: int, most: int = 6) -> Iterator[tuple[int, int]]:
    """Pairs of numbers of every length up to `most` digits."""
    rng = random.Random(seed)
    for _ in range(count):
        yield tuple(rng.randrange(10 ** (n - 1), 10**n) for n in (rng.randint(1, most), rng.randint(1, most)))


def critical_path(text: str) -> int:
    """Words of the longest path and of the summary, tags included."""
    (block,) = parse(text, PARATHINKER).blocks
    return max(len(path.parts[0].split()) for path in block.paths) + len(block.summary.parts[0].split()) + 4


# ---- problems ----


def test_the_parts_of_a_small_problem_by_hand() -> None:
    assert written(problem_of(34, 26), 2) == (
        "<think1> 4 * 6 + 0 = 2 4 3 * 6 + 2 = 2 0 : 0 2 0 4 </think1>"
        "<think2> 4 * 2 + 0 = 0 8 3 * 2 + 0 = 0 6 : 0 6 8 0 </think2>"
        "<summary> 4 + 0 + 0 = 0 4 0 + 8 + 0 = 0 8 2 + 6 + 0 = 0 8 0 + 0 + 0 = 0 0 : \\boxed{ 8 8 4 } </summary>"
    )
    assert written(problem_of(34, 26), 2, "sequential") == (
        "4 * 6 + 0 = 2 4 3 * 6 + 2 = 2 0 : 0 2 0 4 , 4 * 2 + 0 = 0 8 3 * 2 + 0 = 0 6 : 0 6 8 0 , "
        "4 + 0 + 0 = 0 4 0 + 8 + 0 = 0 8 2 + 6 + 0 = 0 8 0 + 0 + 0 = 0 0 : \\boxed{ 8 8 4 }"
    )


def test_splits_never_share_two_numbers_in_either_order() -> None:
    for level, (n, m) in LEVELS.items():
        pairs = {}
        for split in SPLITS:
            found = problems(level, split)
            assert found == problems(level, split)
            assert [p.key for p in found] != [p.key for p in problems(level, split, seed=1)]
            assert found[:5] == problems(level, split, limit=5)
            pairs[split] = {tuple(int(x.replace(" ", "")) for x in p.question.split(" * ")) for p in found}
            assert len(pairs[split]) == len(found)
            assert all((len(str(a)), len(str(b))) == (n, m) for a, b in pairs[split])
        assert not pairs["train"] & {(b, a) for a, b in pairs["heldout"]} | pairs["train"] & pairs["heldout"]
        total = sum(map(len, pairs.values()))
        assert total == min(POOL, 9 * 10 ** (n - 1) * 9 * 10 ** (m - 1))
        assert 0.1 < len(pairs["heldout"]) / total < 0.14


def test_named_sets() -> None:
    found = load_problems("multiply-hard:train", limit=3, seed=4)
    assert (found.name, {p.checker for p in found}) == ("multiply-hard:train", {"multiplication"})
    assert {p.source for p in found} == {"multiply-hard"}
    assert load_problems("multiply-easy").name == "multiply-easy:heldout"


# ---- demonstrations ----


@pytest.mark.parametrize("many", [1_500, pytest.param(10_000, marks=pytest.mark.long)])
def test_demonstrations_grade_right_and_so_does_every_path_of_them(many) -> None:
    styles = random.Random(1)
    with Grader(dialect=PARATHINKER) as grader:
        for one, other in drawn(many, seed=0, most=5):
            problem = problem_of(one, other)
            style, paths = styles.choice(("sequential", "parallel")), styles.randint(1, len(str(other)))
            text = written(problem, paths, style)
            assert grader.grade(text, problem).verdict == "right", text
            assert slips(text) == []
            if style == "parallel":
                blocks = parse(text, PARATHINKER).blocks
                assert [len(block.paths) for block in blocks] == [paths]
                said = [int(path_answer(path.parts[0]).replace(" ", "")) for path in blocks[0].paths]
                assert sum(said) == one * other
                assert all(grader.grade_path(path.parts[0], problem) is True for path in blocks[0].paths)


def test_every_carry_is_the_one_of_the_step_before() -> None:
    """Each run of steps is done again with integers: operands, carries and digits."""
    for one, other in drawn(500, seed=2):
        for path in parse(written(problem_of(one, other), len(str(other))), PARATHINKER).blocks[0].paths:
            carry, digits = 0, str(one)[::-1]
            steps = EQUATION.findall(path.parts[0])
            assert len(steps) == len(digits)
            for own, (expression, tens, ones) in zip(digits, steps, strict=True):
                a, times, d, plus, c = expression.split(" ")
                assert (a, times, plus, int(c)) == (own, "*", "+", carry)
                assert divmod(int(a) * int(d) + carry, 10) == (int(tens), int(ones))
                carry = int(tens)
        summary = parse(written(problem_of(one, other), len(str(other))), PARATHINKER).blocks[0].summary.parts[0]
        carry, total = 0, ""
        for expression, tens, ones in EQUATION.findall(summary):
            *column, c = map(int, expression.split(" + "))
            assert (len(column), c) == (len(str(other)), carry) or len(str(other)) == 1
            assert divmod(sum(column) + c, 10) == (int(tens), int(ones))
            carry, total = int(tens), ones + total
        assert len(str(other)) == 1 or (carry, int(total)) == (0, one * other)


@pytest.mark.parametrize(("digits", "factor"), [(3, 1.5), (4, 1.7), (6, 2.0)])
def test_the_critical_path_of_paths_is_shorter_than_one_text(digits: int, factor: float) -> None:
    """Words of the sequential text over words of the longest path and the summary; a path for each digit."""
    for one, other in drawn(2000, seed=3, most=digits):
        if len(str(one)) == len(str(other)) == digits:
            problem = problem_of(one, other)
            alone = len(written(problem, digits, "sequential").split())
            assert alone >= factor * critical_path(written(problem, digits))


def test_fewer_paths_take_groups_of_digits() -> None:
    first, second = parse(written(ASKED, 2), PARATHINKER).blocks[0].paths
    assert path_answer(first.parts[0]) == "0 0 9 0 2 2"  # 347 * 26
    assert path_answer(second.parts[0]) == "1 7 3 5 0 0"  # 347 * 500
    (whole,) = parse(written(ASKED, 1), PARATHINKER).blocks[0].paths
    assert path_answer(whole.parts[0]) == "1 8 2 5 2 2"


def test_demonstrations_depend_on_their_seed_alone() -> None:
    style, several = "parallel", DemoStyle(paths=(1, 2, 3))
    texts = [demonstrate(ASKED, several, random.Random(seed), PARATHINKER) for seed in (0, 0, 1, 2, 3, 4)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1  # of numbers of paths
    teacher = MULTIPLICATION.teacher({style: 1, "sequential": 1}, seed=3, dialect=PARATHINKER)
    again = MULTIPLICATION.teacher({style: 1, "sequential": 1}, seed=3, dialect=PARATHINKER)
    calls = [(ASKED, "", sample) for sample in range(20)]
    texts = [teacher(*call) for call in calls]
    assert texts == [again(*call) for call in calls]
    assert {"<think1>" in text for text in texts} == {True, False}
    assert all(check(text, "strict", PARATHINKER).valid for text in texts)


def test_every_word_is_in_the_vocabulary() -> None:
    for one, other in drawn(300, seed=5):
        for style in ("sequential", "parallel"):
            text = written(problem_of(one, other), len(str(other)), style)
            for tag in PARATHINKER.tags:
                text = text.replace(tag, " ")
            assert {*text.split(), *problem_of(one, other).question.split()} <= set(VOCABULARY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: written(ASKED, 4), "a factor of 3 digits cannot be divided among 4 paths; give paths from 1 to 3"),
        (lambda: demonstrate(ASKED, DemoStyle(), random.Random(0), PARALLEL_R1), "dialect parallel_r1 has none"),
        (lambda: written(Problem("", "3 * x", "5", "multiplication"), 1), "as in '3 4 7 * 5 2 6'"),
        (lambda: Problem("", "3 * 4", "twelve", "multiplication"), "reference answer 'twelve'; a product is a number"),
        (lambda: problems("eazy", "train"), "did you mean 'easy'"),
        (lambda: problems("easy", "trian"), "did you mean 'train'"),
        (lambda: MULTIPLICATION.teacher({"parallel": 1}, p_right=0.1), "only style and paths can be chosen"),
    ],
)
def test_what_cannot_be_done_is_said(call, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call()


def test_a_sequential_text_needs_no_numbered_paths() -> None:
    text = demonstrate(ASKED, DemoStyle("sequential"), random.Random(0), PARALLEL_R1)
    with Grader() as grader:
        assert grader.grade(text, ASKED).verdict == "right"


# ---- grading ----


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("1 8 2 5 2 2", "right"),
        ("182522", "right"),
        ("0 1 8 2 5 2 2", "right"),
        ("1 8 2 5 2 3", "wrong"),
        ("1 8 2 5 2 2 0", "wrong"),
        ("347 * 526", "wrong"),  # not worked out
        ("1.82522e5", "wrong"),
        ("²", "wrong"),  # a digit to Python
    ],
)
def test_responses_are_graded_by_their_number(answer: str, verdict: str) -> None:
    with Grader(dialect=PARATHINKER) as grader:
        text = f"<think1> a </think1><summary> \\boxed{{ {answer} }} </summary>"
        assert grader.grade(text, ASKED).verdict == verdict
        assert grader.grade("<think1> a </think1><summary> 5 </summary>", ASKED).verdict == "unparsed"


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("<think1> 7 * 6 + 0 = 4 2 : 0 0 2 0 8 2 </think1>", True),
        (": 2 0 8 2", True),
        (": 1 7 3 5 0 0", True),  # the part of another path: the response will lack this one's own
        (": 1 7 3 5", False),  # not at its place
        (": 1 0 9 3", False),
        ("7 * 6 + 0 = 4 2", None),  # cut before its end
        ("\n1: 7", None),  # a heading is no result
        ("", None),
    ],
)
def test_a_path_is_right_if_it_states_a_partial_product(path: str, right: bool | None) -> None:
    with Grader(dialect=PARATHINKER) as grader:
        assert grader.grade_path(path, ASKED) is right


def test_a_response_that_loops_through_thousands_of_digits_is_wrong() -> None:
    with Grader() as grader:
        assert grader.grade("\\boxed{ " + "1 " * 5000 + "}", ASKED).verdict == "wrong"
        assert grader.grade_path("x : " + "1 " * 5000, ASKED) is False


def test_partial_products_are_those_of_neighbouring_digits() -> None:
    assert partial_products(3, 12) == {3 * 2, 3 * 10, 3 * 12}
    assert 3 * 102 not in partial_products(3, 142)


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("7 * 6 + 0 = 4 3 4 * 6 + 4 = 2 8", ["4 3"]),
        ("2 + 0 + 0 + 0 = 0 2 8 + 4 + 0 + 0 = 1 1", ["1 1"]),
        ("7 * 6 + 0 = 4", []),
        ("<think1>1 * 1 + 0 = 0 2", ["0 2"]),
    ],
)
def test_false_results_are_found_where_they_stand(text: str, false: list[str]) -> None:
    assert [text[start:end] for start, end in slips(text)] == false
