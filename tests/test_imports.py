"""The rooms: imports go down only, never sideways, and what is marked so is there without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import polythink

PACKAGE = Path(next(iter(polythink.__path__)))
LAYERS = {  # the one list of rooms: README and CONTRIBUTING print it from here
    "trace": 0, "run": 0,
    "models": 1, "problems": 1, "rewards": 1,
    "engine": 2, "teachers": 2,
    "evaluate": 3, "bench": 3,
    "train": 4, "serve": 4,
    "report": 5,
    "text": 6,
    "pipeline": 7,
    "cli": 8,
}  # fmt: skip
EVERYWHERE = {"polythink.errors", "polythink.__version__"}  # the one exception that users see
WITHOUT_TORCH = ("trace", "run", "problems", "rewards", "teachers", "report", "cli")  # whole rooms
LIGHT_MODULES = (  # of the other rooms: what reads and checks a recipe
    "polythink", "polythink.bench", "polythink.bench.cases", "polythink.bench.devices",
    "polythink.bench.floor", "polythink.bench.options",
    "polythink.bench.shapes", "polythink.bench.table", "polythink.engine", "polythink.engine.params",
    "polythink.engine.protocol", "polythink.engine.remote.config", "polythink.evaluate", "polythink.evaluate.config",
    "polythink.models.config",
    "polythink.models.settings", "polythink.pipeline.plan",
    "polythink.pipeline.recipe", "polythink.pipeline.stage", "polythink.pipeline.experiment", "polythink.train.config",
    "polythink.pipeline.schedule", "polythink.pipeline.board", "polythink.pipeline.results_table",
    "polythink.pipeline.evaluated",
    "polythink.pipeline.curves", "polythink.pipeline.on_paper", "polythink.train.footprint",
    "polythink.serve.page", "polythink.serve.show",
)  # fmt: skip
FILES = sorted(PACKAGE.glob("*/**/*.py"))


def module_of(file: Path) -> str:
    parts = ("polythink", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8"), str(file)) for file in FILES}


def test_imports_go_down_only(trees: dict[Path, ast.Module]) -> None:
    found = {}
    for file, tree in trees.items():
        room = file.relative_to(PACKAGE).parts[0]
        assert room in LAYERS, f"{room} has no layer; give it one"
        found[str(file.relative_to(PACKAGE))] = breaches(room, imported(tree))
    assert {file: names for file, names in found.items() if names} == {}


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


def test_every_room_has_its_layer_and_no_other() -> None:
    assert {file.relative_to(PACKAGE).parts[0] for file in FILES} == set(LAYERS)


# ---- circles ----


def at_the_top(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: none inside functions, none for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_the_top(node)


def modules_named(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of ours that a file imports at its top; `from package import name` may name a module or an object."""
    names = set()
    for node in at_the_top(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & modules) or {node.module}
    return names & modules


def test_no_circle_among_modules(trees: dict[Path, ast.Module]) -> None:
    named = {module_of(file): tree for file, tree in trees.items()}
    graph = {name: modules_named(tree, set(named)) - {name} for name, tree in named.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle
    graph["polythink.trace.dialect"].add("polythink.trace.parse")
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


# ---- torch ----


WITHOUT = """
import importlib, sys, traceback
sys.modules["torch"] = None
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        print(name, traceback.format_exc(limit=-3), file=sys.stderr)
"""


def import_without_torch(modules: list[str]) -> str:
    """What went wrong."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, *modules], capture_output=True, text=True)
    return done.stderr


@pytest.mark.slow
def test_the_light_rooms_and_what_reads_a_recipe_import_without_torch() -> None:
    light = [module_of(file) for file in FILES if file.relative_to(PACKAGE).parts[0] in WITHOUT_TORCH]
    assert {name.split(".")[1] for name in light} == set(WITHOUT_TORCH)
    assert import_without_torch([*light, *LIGHT_MODULES]) == ""


def test_a_room_that_needs_torch_is_told() -> None:
    assert "polythink.models.logprobs" in import_without_torch(["polythink.trace.tree", "polythink.models.logprobs"])


def test_names_of_test_files_are_unique():
    """pytest imports them by name: of two with the same one, the second is not collected."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
