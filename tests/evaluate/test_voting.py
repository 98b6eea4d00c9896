"""The majority vote by value: what is one answer, in any order and at a bounded cost."""

from __future__ import annotations

import random

import pytest

from polythink.evaluate import voting
from polythink.evaluate.metrics import compute_metrics, vote
from polythink.evaluate.samples import Paths
from polythink.evaluate.voting import maj_at_k, normalise, one_answer_each
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.tasks.table import get_task


@pytest.mark.parametrize(
    ("votes", "right", "expected"),
    [
        ([r"\frac{1}{2}", "0.5", r"\dfrac12", "1/2", "7", "7"], [1, 1, 1, 1, 0, 0], 1),
        (["1,000", "1000", "3", "3"], [1, 1, 0, 0], 1 / 2),
        (["3", "3", "1000", "1,000", "1000.0"], [0, 0, 1, 1, 1], 1),
        (["x+1", "1+x", "5", "5"], [1, 1, 0, 0], 1 / 2),  # the grader knows that both are right: it asked algebra
        (["0.25", "1/4", r"\frac14", "8", "8"], [0, 0, 0, 1, 1], 0),  # wrong answers of one value are one answer too
        (["x+2", "2+x", "8"], [0, 0, 1], 1 / 3),  # and those that only algebra could compare are not
        (["7", "7", "8"], [1, 0, 0], 1 / 2),  # one spelling is one answer, even if one of two was not graded in time
    ],
)
def test_answers_of_one_value_are_one_answer(votes, right, expected) -> None:
    order = list(range(len(votes)))
    for seed in range(6):
        random.Random(seed).shuffle(order)
        shuffled = [votes[i] for i in order], [bool(right[i]) for i in order]
        assert maj_at_k(*shuffled, len(votes)) == pytest.approx(expected)


def test_by_spelling_only_where_that_is_asked() -> None:
    assert maj_at_k(["1/2", "0.5", "7"], [True, True, False], 3, by_value=False) == pytest.approx(2 / 3)
    assert Paths(("1/2", "0.5", "7"), (True, True, False), None, 1, 1).majority == 1
    assert Paths(("1/2", "0.5", "7"), (True, True, False), None, 1, 1, by_value=False).majority == pytest.approx(2 / 3)


def test_right_answers_of_one_problem_are_one_answer_whatever_their_spelling() -> None:
    """50% and 0.5 are equal to a reference of 50%, each in its reading, though not every reader equates them."""
    problem = Problem("p", "How much?", r"50\%")
    with Grader() as grader:
        given = (r"\boxed{50\%}", r"\boxed{\frac12}", r"\boxed{7}", r"\boxed{7}", r"\boxed{7.0}")
        found = [grader.grade(text, problem) for text in given]
    rows = [{"verdict": grade.verdict, "extracted": grade.extracted, "checker": "math"} for grade in found]
    assert [row["verdict"] for row in rows] == ["right", "right", "wrong", "wrong", "wrong"]
    assert vote(rows, 5) == 0
    assert vote(rows[:4], 4) == 1 / 2


@pytest.mark.parametrize(
    ("checker", "answers", "expected"),
    [
        ("math", ["1 1/2", "3/2", "2", "2"], 1 / 2),
        ("math", ["100, 200", "200, 100", "7", "7"], 1 / 2),
        ("math", [r"\$36", "36", "7", "7"], 1 / 2),
        ("math", [r"1\text{ hundred}", "100", "99", "99"], 1 / 2),
        ("multiplication", ["0 4 0 8", "4 0 8", "4 1 8", "4 1 8"], 1 / 2),
        ("multiplication", ["408", "4 0 8", "0 4 1 8", "4 1 8", "418"], 0),
        ("code", ["if x:\n    a()\nb()", "if x:\n    a()\n    b()", "c()"], 1 / 3),  # white space counts there
    ],
)
def test_votes_are_counted_as_their_task_compares_answers(checker, answers, expected) -> None:
    """The first two are right; of the programs only the first."""
    right = [i < (1 if checker == "code" else 2) for i in range(len(answers))]
    rows = [
        {"verdict": "right" if r else "wrong", "extracted": text, "checker": checker}
        for text, r in zip(answers, right, strict=True)
    ]
    assert vote(rows, len(rows)) == pytest.approx(expected)
    task = get_task(checker)
    paths = Paths(tuple(normalise(a, task) for a in answers), tuple(right), None, 1, 1, by_value=task.by_value)
    assert paths.majority == pytest.approx(expected)


@pytest.mark.parametrize("checker", ["countdown", "attribution"])
def test_answers_that_are_no_numbers_are_compared_by_their_spelling(checker) -> None:
    rows = [
        {"verdict": verdict, "extracted": text, "checker": checker}
        for verdict, text in (("right", "8 / 4"), ("wrong", "4 / 2"), ("wrong", "2 / 1"))
    ]
    assert vote(rows, 3) == pytest.approx(1 / 3)


def test_the_cost_is_bounded_and_does_not_depend_on_the_order(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(voting, "_same", lambda *pair: asked.append(pair) or False)
    votes = [str(i) for i in range(2000)] + ["1500", "1600"]
    assert one_answer_each(votes, [False] * len(votes)) == votes
    assert len(asked) <= voting.MAX_COMPARED**2 / 2
    first, asked[:] = sorted(asked), []
    one_answer_each(votes[::-1], [False] * len(votes))
    assert sorted(asked) == first


def test_nobody_votes_without_an_answer() -> None:
    assert one_answer_each([None, "1", None, "1.0"], [False] * 4) == [None, "1", None, "1"]
    assert maj_at_k([None, None], [False, False], 2) == 0


def test_maj_at_k_of_an_evaluation_is_by_value() -> None:
    facts = {"complete_blocks": 0, "blocks": 0, "well_formed": True, "segments": [], "tokens": 1, "critical_path": 1,
             "truncated": 0, "checker": "math"}  # fmt: skip
    answers = [("right", "0.5"), ("right", r"\frac{1}{2}"), ("wrong", "3"), ("wrong", "3.0"), ("wrong", "4")]
    rows = [{"problem": "p", "verdict": v, "extracted": text, **facts} for v, text in answers]
    assert compute_metrics(rows)["maj@5"].value == 1 / 2
