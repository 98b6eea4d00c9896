"""No code compares the name of a dialect or of a mode: what differs is a field of its entry."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import polythink
from polythink.trace.dialect import DIALECTS
from polythink.trace.modes import MODES

PACKAGE = Path(next(iter(polythink.__path__)))
NAMES = {*DIALECTS, *MODES}


def constants(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name wherever a name stands in a comparison, a membership test or a case of `match`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found = set().union(*(constants(side) for side in sides if not isinstance(side, ast.Call)))
        elif isinstance(node, ast.MatchValue):
            found = constants(node)
        else:
            continue
        yield from ((node.lineno, name) for name in sorted(found & NAMES))


def test_no_code_compares_a_name():
    found: dict[str, list[tuple[int, str]]] = {}
    for file in sorted(PACKAGE.glob("**/*.py")):
        lines = list(compared(ast.parse(file.read_text(encoding="utf-8"))))
        if lines:
            found[str(file.relative_to(PACKAGE))] = lines
    assert found == {}, "ask the entry's fields (trace/dialect.py, trace/modes.py), not its name"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('x = mode == "sequential"', True),
        ('x = "npr" != dialect.name', True),
        ('x = mode in ("structured", "reread")', True),
        ('x = mode not in {"sequential"}', True),
        ('match d.name:\n    case "multiverse":\n        pass', True),
        ('match d.name:\n    case "a" | "parallel_r1":\n        pass', True),
        ('x = get_dialect("npr") is d', False),
        ('x = mode == "other"', False),
        ('x = f(mode="sequential")', False),
        ("x = STRUCTURED.name == mode", False),
    ],
)
def test_a_comparison_is_seen(line: str, seen: bool):
    assert bool(list(compared(ast.parse(line)))) == seen
