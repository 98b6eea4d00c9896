"""A problem with its answer, a response that states one, and a grader with time to think."""

from __future__ import annotations

import pytest

from polythink.problems.answers import Grader
from polythink.problems.problem import Problem


def problem(answer: str, checker: str = "math") -> Problem:
    return Problem("p", "?", answer, checker)


def boxed(answer: str) -> str:
    return f"so \\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1, seconds=20) as grader:  # generous: these tests are about equality, not about the deadline
        yield grader
