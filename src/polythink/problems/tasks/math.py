"""Mathematics: a response states a formula, and formulas of one value are equal."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polythink.problems.equality import states
from polythink.problems.extract import final_part, said_answer, stated_answer
from polythink.problems.grade import Grade
from polythink.problems.notation import plain
from polythink.problems.published import published_answer, published_equal
from polythink.problems.references import reference_answer
from polythink.problems.tasks.demonstrations import STYLES, DemoStyle, NotDemonstrable
from polythink.problems.tasks.task import Task
from polythink.problems.tasks.worked import Ways, by_rule, demonstrate

if TYPE_CHECKING:
    from polythink.problems.answers import Grader
    from polythink.problems.problem import Problem
    from polythink.trace.dialect import Dialect


class Math(Task):
    name = "math"
    about = "mathematics: answers are formulas, compared by value"
    by_value = True
    styles = STYLES
    demo_keys = ("style", "paths")

    def reference(self, row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
        return reference_answer(row, column)

    def ways(self, problem: Problem, most: int) -> Ways:
        """What the paths of a demonstration say, at most so many; `NotDemonstrable` where there is nothing to say."""
        return by_rule(problem.solution, problem.question, problem.answer, most)

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        try:
            ways = self.ways(problem, max(2, style.draw_paths(rng)))
        except NotDemonstrable as error:
            raise NotDemonstrable(f"the problem {problem.key} {error}; a coldstart stage leaves it out") from None
        return demonstrate(ways, problem.answer, style, rng, dialect)

    def grade(self, text: str, problem: Problem, grader: Grader) -> Grade:
        if grader.answers in ("published", "published_gsm8k"):
            return _as_published(text, problem, grader.answers)
        part = final_part(text, grader.dialect)
        given = stated_answer(part)
        if given is not None or grader.answers == "strict":
            return grader.judge(given, problem)
        return replace(grader.judge(said_answer(part), problem), lenient=True)

    def equal(self, given: str, reference: str, grader: Grader) -> bool | None:
        return states(given, reference, grader.algebra())

    def vote(self, answer: str) -> str:
        return plain(answer)

    def readings(self, text: str, problem: Problem, grade: Grade, grader: Grader) -> dict[str, str]:
        if grader.answers not in ("strict", "lenient"):
            return {}
        if grade.verdict != "unparsed" or grader.answers == "lenient":
            return {"strict": "unparsed" if grade.lenient else grade.verdict, "lenient": grade.verdict}
        said = said_answer(final_part(text, grader.dialect))
        return {"strict": "unparsed", "lenient": grader.judge(said, problem).verdict}


def _as_published(text: str, problem: Problem, rule: str) -> Grade:
    given = published_answer(text, rule)
    if given is None:
        return Grade("unparsed", None)
    return Grade("right" if published_equal(given, problem.answer, rule) else "wrong", given)


MATH = Math()
