"""A task is one object: no file outside of `problems/tasks` compares its name, or imports its module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import polythink
from polythink.problems.tasks.table import TASKS

PACKAGE = Path(next(iter(polythink.__path__)))
TASK_ROOM = PACKAGE / "problems" / "tasks"
OUTSIDE = sorted(file for file in PACKAGE.glob("**/*.py") if TASK_ROOM not in file.parents)
SHARED = {"task", "table", "demonstrations"}  # modules of the room that are no task's own
SETS = {  # words that are no task's name there: the published set MATH, the code of an HTTP error
    "problems/sets.py": {"math"},
    "serve/errors.py": {"code"},
    "serve/responses.py": {"code"},
    "run/server_words.py": {"code"},
}


def strings(node: ast.AST | None) -> Iterator[str]:
    """The strings that a node is, or holds as a tuple, list or set."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for item in node.elts:
            yield from strings(item)


def asked(node: ast.AST) -> Iterator[str]:
    """The strings that a node compares something with, or looks something up by."""
    if isinstance(node, ast.Compare):
        for side in (node.left, *node.comparators):
            yield from strings(side)
    elif isinstance(node, ast.MatchValue):  # case "math":
        yield from strings(node.value)
    elif isinstance(node, ast.Dict):  # keyed by names: a table outside of the table
        for key in node.keys:
            yield from strings(key)
    elif isinstance(node, ast.Subscript):
        yield from strings(node.slice)  # TASKS["math"], and Literal["math", ...]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("get", "pop", "setdefault", "startswith", "endswith", "removeprefix", "index", "count"):
            for argument in node.args:
                yield from strings(argument)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_task":
        for argument in node.args:
            yield from strings(argument)


def names_asked(source: str, names: set[str]) -> list[tuple[int, str]]:
    """The lines on which one of these names is compared or looked up."""
    nodes = [
        node for node in ast.walk(ast.parse(source)) if hasattr(node, "lineno")
    ]  # patterns as well: `case "math":`
    return sorted({(node.lineno, name) for node in nodes for name in asked(node) if name in names})


def task_modules(source: str) -> set[str]:
    """The modules of single tasks that a file imports."""
    room, found = "polythink.problems.tasks", set()
    for node in ast.walk(ast.parse(source)) if room in source else ():
        if isinstance(node, ast.ImportFrom) and node.module == room:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{room}."):
            found.add(node.module.split(".")[3])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[3] for alias in node.names if alias.name.startswith(f"{room}.")}
    return found - SHARED


def test_no_other_file_asks_for_a_task_by_its_name() -> None:
    asking, importing = {}, {}
    for file in OUTSIDE:
        name, source = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        asking[name] = names_asked(source, set(TASKS) - SETS.get(name, set()))
        importing[name] = task_modules(source)
    assert len(OUTSIDE) > 200
    assert {name: lines for name, lines in asking.items() if lines} == {}
    assert {name: modules for name, modules in importing.items() if modules} == {}


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('problem.checker == "countdown"', True),
        ('"countdown" != problem.checker', True),
        ('checker in ("math", "countdown")', True),
        ('name not in {"attribution"}', True),
        ('match checker:\n    case "math":\n        pass', True),
        ('match checker:\n    case "a" | "math":\n        pass', True),
        ('{"math": 1, "countdown": 2}[checker]', True),
        ('HOW = {"math": 1}', True),
        ('TASKS["math"]', True),
        ('row.get("checker", "math")', True),
        ('get_task("math")', True),
        ('kind: Literal["countdown", "endpoint"]', True),
        ('name.startswith("countdown")', True),
        ("from polythink.problems.tasks.countdown import is_marked_ok", True),
        ("from polythink.problems.tasks import attribution, countdown", True),
        ("import polythink.problems.tasks.math", True),
        ('tokenizer: str = "countdown"', False),  # a default asks nothing
        ('log("countdown")', False),
        ('problem.checker == other.checker', False),
        ("from polythink.problems.tasks.table import get_task", False),
        ("import math", False),
    ],
)  # fmt: skip
def test_what_is_found(line: str, seen: bool) -> None:
    names = {"math", "countdown", "attribution"}
    assert bool(names_asked(line, names) or task_modules(line)) is seen
