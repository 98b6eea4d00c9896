"""The one table of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.tasks.attribution import ATTRIBUTION
from polythink.problems.tasks.code import CODE
from polythink.problems.tasks.countdown import COUNTDOWN
from polythink.problems.tasks.math import MATH
from polythink.problems.tasks.multiplication import MULTIPLICATION
from polythink.problems.tasks.stories import STORIES
from polythink.problems.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (MATH, STORIES, COUNTDOWN, ATTRIBUTION, MULTIPLICATION, CODE)}


TEACHERS = tuple(task.name for task in TASKS.values() if task.styles)  # those that answer for a teacher, by a rule


def get_task(name: str | None = None) -> Task:
    """The task of that name (None: of problems that name none, `math`); `UserError` if there is none."""
    if name is None:
        return MATH
    try:
        return TASKS[name]
    except (KeyError, TypeError):  # it may come from a file, and be anything
        raise UserError(f"no checker {name!r}{did_you_mean(str(name), TASKS)}") from None


def task_of(row: Mapping[str, Any]) -> Task:
    """The task of a row with a problem: of its `checker`, otherwise of its question where that shows, or `math`."""
    question = row.get("question")
    if row.get("checker") is None and isinstance(question, str):
        return next((task for task in TASKS.values() if task.is_question(question)), MATH)
    return get_task(row.get("checker"))
