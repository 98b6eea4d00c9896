"""Rows of MBPP and HumanEval as problems of the task `code`, and tests as the text of a reference answer.

MBPP (Austin et al. 2021, arXiv 2108.07732): `text` or `prompt`, `code`, `test_list`, and `test_setup_code` or
`test_imports`. HumanEval (Chen et al. 2021, arXiv 2107.03374): `prompt`, `canonical_solution`, `test`, `entry_point`.
Any other row of the task gives its tests in the column `answer`: as `to_text` writes them, or as lines of assertions.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from polythink.errors import UserError
from polythink.problems.sandbox import Test

KEYS = frozenset(Test.__dataclass_fields__)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASK = "Give the whole function in a block that begins with ```python and ends with ```."


def to_text(test: Test) -> str:
    """The test as the text of a reference answer."""
    return json.dumps({key: value for key, value in asdict(test).items() if value}, ensure_ascii=False)


def from_text(text: str) -> Test:
    """The test that such a text, or a text of assertions, stands for. `UserError`: the end of a sentence (`has ..`)."""
    if not text.lstrip().startswith("{"):
        return _plain_test([text], "")
    try:
        given = json.loads(text)
        assertions, names = tuple(given.pop("assertions", ())), tuple(given.pop("names", ()))
        test = Test(assertions, names, **given)
        fine = all(isinstance(part, str) for part in (*assertions, *names, *given.values()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"has tests that cannot be read: {error}; allowed are the keys {', '.join(sorted(KEYS))}"
        ) from None
    if not (fine and assertions):
        raise UserError("has tests without assertions, or with some that are no text")
    for part in (test.setup, *assertions):
        _parse(part)
    return test


def test_of_value(lines: Iterable[Any]) -> Test:
    """The test of a list of assertions, as in MBPP's `test_list`."""
    return _plain_test(_lines({"tests": list(lines)}, "tests"), "")


def own_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of MBPP or HumanEval as one with the columns key, question, answer, solution and checker; else None."""
    if row.get("checker") not in (None, "code"):
        return None
    if isinstance(row.get("entry_point"), str) and "test" in row:
        return _humaneval(row)
    if "test_list" in row:
        return _mbpp(row)
    return None


def _mbpp(row: Mapping[str, Any]) -> dict[str, Any]:
    column = next((column for column in ("text", "prompt", "question") if column in row), "text")
    setup = [_text(row, "test_setup_code", needed=False), *_lines(row, "test_imports", needed=False)]
    code = _text(row, "code", needed=False)
    tests = _lines(row, "test_list")
    test = _plain_test(tests, "\n".join(setup).strip(), code)
    question = f"{_text(row, column)}\n\nYour function must pass this test:\n{tests[0]}\n\n{ASK}"
    return _row(row, ("key", "id", "task_id"), question, test, code)


def _humaneval(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, name, check = (_text(row, column) for column in ("prompt", "entry_point", "test"))
    solution = _text(row, "canonical_solution", needed=False)
    before, assertions = _check_body(check, name)
    test = Test(assertions, (name,), f"{prompt}\n{before}", prompt)
    question = f"Complete this Python function:\n```python\n{prompt.strip()}\n```\n\n{ASK}"
    return _row(row, ("key", "id", "task_id"), question, test, f"{prompt}{solution}" if solution else "")


def _row(row: Mapping[str, Any], keys: Iterable[str], question: str, test: Test, solution: str) -> dict[str, Any]:
    key = next((row[key] for key in keys if row.get(key) is not None), None)
    return {"key": key, "question": question, "answer": to_text(test), "solution": solution, "checker": "code"}


def _plain_test(tests: Iterable[str], setup: str, code: str = "") -> Test:
    """The test of texts of assertions. Names of the program are those that the reference `code` defines and they use;
    without such code, all that they use and that nothing else defines. What `code` imports they may use as well."""
    trees = [_parse(text) for text in tests]
    prepared, reference = _parse(setup), _parse(code, "a solution that is")
    imports = "\n".join(ast.unparse(n) for n in reference.body if isinstance(n, ast.Import | ast.ImportFrom))
    used, bound = _names([prepared, *trees], ast.Load), _names([prepared, *trees], ast.Store)
    if code:
        names = used & (_names([reference], ast.Store) - _imported(reference)) - bound
    else:
        names = used - bound - set(dir(builtins)) - sys.stdlib_module_names
    modules = (used & sys.stdlib_module_names) - bound - names - _imported(reference)
    imports = "\n".join([imports, *(f"import {name}" for name in sorted(modules))])
    assertions = tuple(unit for tree in trees for unit in _units(tree.body))
    if not assertions:
        raise UserError("has tests without an assertion: needed are lines such as `assert f(2) == 4`")
    return Test(assertions, tuple(sorted(names)), f"{imports}\n{setup}".strip())


def _check_body(check: str, name: str) -> tuple[str, tuple[str, ...]]:
    """HumanEval's `check(candidate)`: what comes before it, and its statements as assertions that are counted one by
    one. A `check` that returns or yields is one assertion."""
    tree = _parse(check)
    found = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check" and n.args.args), None)
    if found is None:
        raise UserError("has no function check(candidate) in its column 'test'")
    before = "\n".join(ast.unparse(node) for node in tree.body if node is not found and not _is_call(node))
    whole = any(isinstance(n, ast.Return | ast.Yield | ast.Nonlocal | ast.Global) for n in ast.walk(found))
    units = (f"{ast.unparse(found)}\ncheck({name})",) if whole else _units(found.body)
    if not units:
        raise UserError("has a check(candidate) without an assertion in its column 'test'")
    return before, (f"{found.args.args[0].arg} = {name}\n{units[0]}", *units[1:])


def _units(body: Iterable[ast.stmt]) -> tuple[str, ...]:
    """Statements in groups that each end with one that asserts: what stands before it prepares it."""
    units, waiting = [], []
    for statement in body:
        waiting.append(ast.unparse(statement))
        if any(isinstance(node, ast.Assert) for node in ast.walk(statement)):
            units.append("\n".join(waiting))
            waiting = []
    return tuple(units)


def _names(trees: Iterable[ast.AST], context: type) -> set[str]:
    """The names that are read (`ast.Load`), or bound in any way (`ast.Store`)."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
    if context is ast.Store:
        names |= {node.name for node in nodes if isinstance(node, DEFINITIONS)}
        names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        names |= {name for tree in trees for name in _imported(tree)}
    return names


def _imported(tree: ast.AST) -> set[str]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {(alias.asname or alias.name).partition(".")[0] for node in found for alias in node.names}


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)  # `check(f)`, in some copies


def _parse(text: str, what: str = "a test that is") -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"has {what} no Python: {error}") from None


def _text(row: Mapping[str, Any], column: str, needed: bool = True) -> str:
    value = row.get(column)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value.strip()):
        raise UserError(f"has no text in its column {column!r}")
    return value


def _lines(row: Mapping[str, Any], column: str, needed: bool = True) -> list[str]:
    value = row.get(column)
    if value is None and not needed:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(line, str) for line in value):
        raise UserError(f"has no list of texts in its column {column!r}")
    if needed and not value:
        raise UserError(f"has no tests: its column {column!r} is empty")
    return list(value)
