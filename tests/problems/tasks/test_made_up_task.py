"""A task made up here, in the table and nowhere else: loaded, demonstrated, taught, trained on, sampled and graded."""

from __future__ import annotations

import random
from itertools import product

import pytest

from helpers.training import SHAPE
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.pipeline.recipe import Recipe, run_recipe
from polythink.problems.answers import Grader, grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.sets import load_problems, sources
from polythink.problems.tasks.demonstrations import STYLES, DemoStyle, split_of
from polythink.problems.tasks.table import TASKS
from polythink.problems.tasks.task import Task
from polythink.run.config import parse_config
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.render import render
from polythink.trace.tree import Block, Trace

LETTERS = "abcd"
SETS = {"reversal-short": "made up: three letters to reverse"}


class Reversal(Task):
    name = "reversal"
    about = "letters in reverse"
    sets = SETS
    styles = STYLES
    demo_keys = ("style", "paths")
    words = (*LETTERS, ":", "together", "alone", "\\boxed{", "}")
    teacher_prompt = "countdown_parallel"

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        texts = [" ".join(letters) for letters in product(LETTERS, repeat=3)]
        found = [Problem(f"{name}:{text}", text, text[::-1], self.name, name) for text in texts]
        found = [problem for problem in found if split_of(problem.key) == split]
        random.Random(seed).shuffle(found)
        return tuple(found[:limit])

    def demonstrate(self, problem, style, rng, dialect) -> str:
        box = f"\\boxed{{ {problem.answer} }}"
        if style.style == "sequential":
            return box
        paths = tuple(Trace((f" {box} ",)) for _ in range(style.draw_paths(rng)))
        return render(Trace((Block(paths, Trace((" : ",))), f" {box}")), dialect)

    def marked(self, text: str) -> bool:
        return "a" in text


@pytest.fixture
def reversal(monkeypatch) -> Task:
    task = Reversal()
    monkeypatch.setitem(TASKS, task.name, task)
    return task


def test_its_rows_are_loaded_and_graded(reversal, tmp_path) -> None:
    rows = [{"id": "x", "question": "a b c", "answer": "c b a", "checker": "reversal"}]
    write_jsonl(tmp_path / "letters.jsonl", rows)
    (problem,) = load_problems(tmp_path / "letters.jsonl").problems
    assert problem.task is reversal
    with Grader() as grader:
        assert [grader.grade(text, problem).verdict for text in (r"\boxed{ c b a }", r"\boxed{cba}", "c b a")] == [
            "right", "wrong", "unparsed",
        ]  # fmt: skip
        assert grader.grade_path("<Path>\\boxed{ c b a }</Path>", problem) is True
    assert grade(r"\boxed{a b}", "a b", checker="reversal").verdict == "right"
    assert "reversal-short" in sources()
    assert len(load_problems("reversal-short:train")) + len(load_problems("reversal-short")) == 4**3


def test_without_the_table_nothing_knows_it(tmp_path) -> None:
    write_jsonl(tmp_path / "letters.jsonl", [{"question": "a b c", "answer": "c b a", "checker": "reversal"}])
    with pytest.raises(UserError, match="has checker 'reversal'"):
        load_problems(tmp_path / "letters.jsonl")
    with pytest.raises(UserError, match="no checker 'reversal'"):
        Problem("", "a", "a", "reversal")


def test_its_teacher_fills_a_cold_start(reversal, tmp_path) -> None:
    teacher = reversal.teacher({"parallel": 1, "sequential": 1}, paths=2)
    found = load_problems("reversal-short:train", limit=10).problems
    run_coldstart(found, teacher, get_prompt("none"), "strict", tmp_path / "cold", about_teacher=teacher.about)
    rows = read_jsonl(tmp_path / "cold" / "kept.jsonl")
    assert (len(rows), {row["checker"] for row in rows}) == (10, {"reversal"})
    assert {"<Path>" in row["trace"] for row in rows} == {True, False}
    assert reversal.demonstrate(found[0], DemoStyle(paths=(2,)), random.Random(0), PARALLEL_R1).count("<Path>") == 2


def test_a_recipe_trains_on_it_and_evaluates_it(reversal, tmp_path) -> None:
    write_jsonl(tmp_path / "letters.jsonl", [{"question": "a b c", "answer": "c b a", "checker": "reversal"}])
    sft = {"kind": "sft", "steps": 1, "batch": 4, "data": [
        {"problems": "reversal-short:train", "weight": 1, "demonstrations": {"paths": 2}},
    ]}  # fmt: skip
    rl = {"kind": "grpo", "steps": 1, "problems": ["reversal-short:train"], "reward": "accuracy",
          "prompts_per_step": 2, "group_size": 2}  # fmt: skip
    check = {"kind": "eval", "problems": ["reversal-short", str(tmp_path / "letters.jsonl")], "limit": 2, "samples": 2}
    data = {
        "name": "test", "model": {**SHAPE, "tokenizer": "reversal"}, "prompt": "countdown_parallel",
        "decoding": {"paths": 2, "max_blocks": 1, "max_path_tokens": 8, "max_main_tokens": 8, "max_summary_tokens": 4},
        "stages": {"sft": sft, "rl": rl, "check": check},
    }  # fmt: skip
    run_recipe(parse_config(Recipe, data, "test"), tmp_path / "run", log=lambda text: None)
    assert "d" in load(tmp_path / "run" / "rl" / "model").tokenizer.get_vocab()
    for name in ("reversal-short", "letters"):
        rows = read_jsonl(tmp_path / "run" / "check" / f"samples-{name}.jsonl")
        assert {row["checker"] for row in rows} == {"reversal"}
        assert all(isinstance(row["marked"], bool) for row in rows)
        assert read_json(tmp_path / "run" / "check" / f"eval-{name}.json")["metrics"]["mean@2"]
    sft["data"][0]["demonstrations"] = {"paths": 2, "p_right": 0.1}
    with pytest.raises(UserError, match="demonstrations of reversal: only style and paths can be chosen"):
        parse_config(Recipe, data, "test")
