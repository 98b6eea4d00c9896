"""The rooms: imports go down only, never sideways, and what is marked so is there without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import polythink

PACKAGE = Path(next(iter(polythink.__path__)))
LAYERS = {  # the one list of rooms: README and CONTRIBUTING print it from here
    "trace": 0, "run": 0,
    "models": 1, "problems": 1, "rewards": 1,
    "engine": 2, "teachers": 2,
    "evaluate": 3,
    "train": 4,
    "report": 5,
    "text": 6,
    "pipeline": 7,
    "cli": 8,
}  # fmt: skip
EVERYWHERE = {"polythink.errors"}  # the one exception type that users see
WITHOUT_TORCH = (  # rooms, and single modules of other rooms
    "trace", "run", "problems", "rewards", "teachers", "report", "cli",
    "pipeline.experiment", "pipeline.schedule", "pipeline.board", "pipeline.results_table", "pipeline.curves",
)  # fmt: skip
FILES = sorted(PACKAGE.glob("*/**/*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Every module of ours that a file names in an import, at its top or inside a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name, from polythink. ..."
            names |= {node.module} if node.module != "polythink" else {f"polythink.{a.name}" for a in node.names}
    return {name for name in names if name.startswith("polythink.")}


def breaches(room: str, names: set[str]) -> set[str]:
    """The imports that go up or sideways."""

    def fine(name: str) -> bool:
        other = name.split(".")[1]
        return other == room or LAYERS.get(other, 99) < LAYERS[room] or name in EVERYWHERE

    return {name for name in names if not fine(name)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0]
    assert room in LAYERS, f"{room} has no layer; give it one"
    assert breaches(room, imported(ast.parse(file.read_text(encoding="utf-8")))) == set()


@pytest.mark.parametrize(
    ("room", "line", "broken"),
    [
        ("engine", "from polythink.train.loss import x", True),
        ("rewards", "def f():\n    import polythink.engine.engine", True),
        ("run", "from polythink.trace import tree", True),
        ("trace", "from polythink.run.config import Config", True),
        ("trace", "from polythink.errors import UserError", False),
        ("trace", "from polythink.trace.tree import Trace", False),
        ("cli", "from polythink.pipeline.recipe import Recipe", False),
        ("models", "from polythink.cellar import wine", True),
    ],
)
def test_a_wrong_import_is_seen(room: str, line: str, broken: bool) -> None:
    assert bool(breaches(room, imported(ast.parse(line)))) == broken


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_the_light_rooms_import_without_torch(room: str) -> None:
    modules = [".".join(("polythink", *f.relative_to(PACKAGE).with_suffix("").parts)) for f in FILES]
    modules = [m for m in modules if f"polythink.{room}" in (m, m.rpartition(".")[0])]
    assert modules
    code = f"import sys; sys.modules['torch'] = None; import importlib; [importlib.import_module(m) for m in {modules}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
