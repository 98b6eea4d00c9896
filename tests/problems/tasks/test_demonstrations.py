"""Demonstrations in every published format: each is well formed, read back, graded right, and made of known words."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from polythink.models.tokenizers import UNKNOWN, word_tokenizer
from polythink.problems.answers import Grader
from polythink.problems.tasks.countdown import COUNTDOWN
from polythink.problems.tasks.demonstrations import DemoStyle, Work, write
from polythink.problems.tasks.multiplication import MULTIPLICATION
from polythink.problems.tasks.task import Task
from polythink.trace.dialect import DIALECTS, PARALLEL_R1
from polythink.trace.parse import parse
from polythink.trace.production import PlanTags
from polythink.trace.render import render
from polythink.trace.tokens import headings_of

OUTLINED = [name for name, dialect in DIALECTS.items() if dialect.declares_paths]
STYLE = DemoStyle(paths=(2,), p_right=1.0)


@pytest.mark.parametrize(
    ("task", "name", "dialect"),
    [(COUNTDOWN, "countdown-hard", dialect) for dialect in DIALECTS]
    + [(MULTIPLICATION, "multiply-easy", dialect) for dialect in (*OUTLINED, "parathinker")],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_format_holds_them(task: Task, name: str, dialect: str) -> None:
    dialect = DIALECTS[dialect]
    tokenizer = word_tokenizer(task.words, dialect)
    with Grader(dialect=dialect) as grader:
        for problem in task.problems(name, "train", limit=20):
            text = task.demonstrate(problem, STYLE, random.Random(problem.key), dialect)
            trace = parse(text, dialect)
            assert render(trace, dialect) == text
            assert grader.grade(text, problem).verdict == "right"
            paths = [path.parts[0] for path in trace.blocks[0].paths]
            assert [grader.grade_path(path, problem) for path in paths] == [True, True]
            opened, closed = dialect.path_tags(1)
            assert grader.grade_path(f"{opened}{paths[0]}{closed}", problem) is True
            assert UNKNOWN not in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@pytest.mark.parametrize("name", OUTLINED)
def test_paths_begin_with_the_numbers_of_their_outlines(name: str) -> None:
    (problem,) = COUNTDOWN.problems("countdown-hard", "train", limit=1)
    (block,) = parse(COUNTDOWN.demonstrate(problem, STYLE, random.Random(0), DIALECTS[name]), DIALECTS[name]).blocks
    assert block.plan.goal.strip() == problem.question
    for place, (outline, path) in enumerate(zip(block.plan.outlines, block.paths, strict=True), start=1):
        assert outline.split()[0] == path.parts[0].split()[0] == f"{place}:"
        assert path.parts[0].split()[1:4] == outline.split()[1:]  # the first operation
        assert path.parts[0].startswith(headings_of(block, DIALECTS[name])[place - 1])


def test_a_plan_of_one_text_and_outlines_without_numbers() -> None:
    work = Work("why", ("first", "second"), ("a", "b"), (), "so", "then")
    opening, paths, *rest = PARALLEL_R1.block
    free = replace(PARALLEL_R1, name="free", block=(opening, PlanTags("<Plan>", "</Plan>"), paths, *rest))
    assert write(work, free).startswith("<Parallel><Plan> why</Plan><Path> a </Path><Path> b </Path></Parallel>")
    assert write(work, PARALLEL_R1) == (
        "<Parallel><Path> a </Path><Path> b </Path></Parallel>\n<Summary> so </Summary> then"
    )
