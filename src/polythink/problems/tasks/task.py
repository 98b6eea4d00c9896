"""A task: one kind of problems, with all that the rest of the package asks about it.

A problem names its task (`Problem.checker`, in data files the column `checker`), and `Problem.task` is that object. To
add a task: a module in this folder with a subclass of `Task`, and its object in the table of `tasks.table`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.equality import same_tokens
from polythink.problems.extract import extract, final_part, stated_answer, without
from polythink.problems.grade import Grade
from polythink.problems.references import raw_reference
from polythink.problems.tasks.demonstrations import SPLITS, DemonstrationTeacher, DemoStyle
from polythink.trace.dialect import Dialect
from polythink.trace.scan import scan

if TYPE_CHECKING:
    from polythink.problems.answers import Grader
    from polythink.problems.problem import Problem


class Task:
    """What a problem's kind settles. The methods here are those of a task whose answer is words in a box.

    A task overrides what it does in another way. It holds no state: threads share it.
    """

    name: str  # in the column `checker` of data files
    about: str  # what its problems are, in a line

    # ---- problem sets ----
    sets: Mapping[str, str] = {}  # synthetic sets: name -> what it is, in a line
    splits: tuple[str, ...] = tuple(reversed(SPLITS))  # of these sets; the first is the default

    # ---- demonstrations ----
    styles: tuple[str, ...] = ()  # of `DemoStyle`, that it can write; none: it has no demonstrations and no teacher
    demo_keys: tuple[str, ...] = ()  # keys of `demonstrations:` that it takes; the others keep their defaults
    words: tuple[str, ...] = ()  # its closed vocabulary (`model.tokenizer: NAME`); none: any text
    teacher_prompt = "parallel"  # the prompt that goes with its teacher's responses, unless another is given
    sequential_teacher_prompt = "sequential"  # the same for those in the style `sequential`

    # ---- answers ----
    # Answers are formulas: those of one value are equal, and one vote, and the rules of `problems.extract` (strict,
    # lenient, published) say what is read. False: answers are words, as they stand.
    by_value = False
    answer_form = "\\boxed{5} or a line `Final Answer: 5`"  # how a response states one, for messages

    # ---- reports ----
    shows_slips = False  # whether false results on the way show in a text (`slips`): a right path may have some
    graded_part = ""  # what of a path is graded, where that is not its answer: "operators"
    report_hint = ""  # what a reader of its traces should know

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        """The problems of one of its `sets`, shuffled by `seed`, the first `limit` of them."""
        raise NotImplementedError(f"{self.name} has no synthetic sets")

    def is_question(self, text: str) -> bool:
        """Whether a text is a question of this task, where that shows: for rows that do not name their task."""
        return False

    # ---- reference answers ----

    def own_row(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row in a published format of this task's own as one with the columns `key`, `question`, `answer`,
        `solution` and `checker`; None for any other. `UserError`: the end of a sentence, as in `reference`."""
        return None

    def find_faults(self, problems: Iterable[Problem]) -> dict[str, list[str]]:
        """Keys of problems with faults that this task can find, by the fault's name in `faults.json`."""
        return {}

    def reference(self, row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
        """(reference answer, worked solution or "", whether it was completed) of a row of a file; "" if it has none.

        `column`: where the answer stands; None: the usual columns in turn. `UserError` for what is no answer.
        """
        return raw_reference(row, column)

    def reference_mistake(self, answer: str) -> str:
        """What is wrong with a reference answer, as the end of a sentence (`has the ..`); "" if nothing is."""
        return ""

    # ---- demonstrations ----

    def check_dialect(self, dialect: Dialect) -> None:
        """`UserError` if its traces cannot be written in the dialect, or not be graded there."""

    def check_style(self, style: str, chosen: Iterable[str] = ()) -> None:
        """`UserError` if it has no demonstrations of that style, or if a key that was chosen is not one of its own."""
        if not self.styles:
            raise UserError(f"the task {self.name} has no demonstrations")
        if not set(chosen) <= set(self.demo_keys):
            *keys, last = self.demo_keys
            keys = f"{', '.join(keys)} and {last}" if keys else last
            raise UserError(f"demonstrations of {self.name}: only {keys} can be chosen")
        if style not in self.styles:
            raise UserError(f"demonstrations of {self.name} have no style {style!r}{did_you_mean(style, self.styles)}")

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        """A response to the problem, in the style `sequential` (flat text) or `parallel` (a block of paths)."""
        raise UserError(f"the task {self.name} has no demonstrations")

    def teacher(self, styles: Mapping[str, float], **how: Any) -> DemonstrationTeacher:
        """A cold-start teacher that needs no model: it responds with demonstrations, `styles` by their weights."""
        return DemonstrationTeacher(self, styles, **how)

    # ---- grading. `grader` has the rule for answers, the dialect, and the time (see `Grader`) ----

    def grade(self, text: str, problem: Problem, grader: Grader) -> Grade:
        """The verdict on one response."""
        return grader.judge(stated_answer(final_part(text, grader.dialect)), problem)

    def equal(self, given: str, reference: str, grader: Grader) -> bool | None:
        """Whether two answers are equal; None if that could not be decided in time."""
        return same_tokens(given, reference)

    def vote(self, answer: str) -> str:
        """An answer as it is counted in a majority vote: what `equal` takes for the same answer is one vote."""
        return " ".join(answer.split())

    def readings(self, text: str, problem: Problem, grade: Grade, grader: Grader) -> dict[str, str]:
        """The verdicts on a graded response under the rules `strict` and `lenient`; none where those do not apply."""
        return {}

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        """The answer of a single path, None if it states none. `text`: the path, with or without its own tags."""
        inside, opening = path_content(text, grader.dialect)
        return extract(without(inside, *opening), grader.dialect)

    def grade_path(self, text: str, problem: Problem, grader: Grader) -> bool | None:
        """Whether the answer of a single path is right; None if it states none, or if the comparison timed out."""
        verdict = grader.judge(self.path_answer(text, problem, grader), problem).verdict
        return verdict == "right" if verdict in ("right", "wrong") else None

    def marked(self, text: str) -> bool | None:
        """Whether a path (or a sequential response) marks itself as correct; None where the task has no such marks."""
        return None

    def slips(self, text: str) -> list[tuple[int, int]]:
        """Where the false results of a path's text stand, to be struck through in a report."""
        return []


def path_content(text: str, dialect: Dialect) -> tuple[str, list[str]]:
    """A path's text without the tags of paths, and the opening ones of those."""
    tokens = list(scan(text, dialect))
    inside = "".join(token.text for token in tokens if token.kind[:5] != "path_")
    return inside, [token.text for token in tokens if token.kind == "path_open"]
