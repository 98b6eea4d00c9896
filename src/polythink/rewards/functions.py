"""Rewards and terms of one's own: Python functions, given as they are or as "module:function".

A function takes a `RewardInput` and returns one finite number. A module is looked up as Python looks it up, and in the
working folder, so that `lengths.py` beside the recipe is `lengths:short`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

from polythink.errors import UserError, did_you_mean
from polythink.rewards.terms import TERMS, RewardInput


def resolve(function: str | Callable) -> Callable[[RewardInput], Any]:
    """The function itself, or the one that "module:function" names; `UserError` where there is none."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    if not (module and name):
        raise UserError(f'a function is named "module:function", not {function!r}')
    try:
        found = importlib.import_module(module) if _spec(module) else None
    except ImportError as error:
        raise UserError(f"cannot import {module!r} of {function!r}: {error}") from error
    if found is None:
        raise UserError(f"no module {module!r} for {function!r}, neither installed nor in the working folder")
    if not callable(getattr(found, name, None)):
        known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"module {module!r} has no function {name!r}{did_you_mean(name, known)}")
    return getattr(found, name)


def call(function: str | Callable, given: RewardInput) -> float:
    """The value of a term or function; `UserError` unless that is one finite number."""
    if isinstance(function, str) and function in TERMS:
        return TERMS[function](given)
    value = resolve(function)(given)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"the reward {name_of(function)!r} returned {value!r}; it must return one finite number")
    return number


def name_of(function: str | Callable) -> str:
    """The name under which it is logged."""
    return function.rpartition(":")[2] if isinstance(function, str) else getattr(function, "__name__", "function")


def code_of(function: str | Callable) -> str | None:
    """A hash of what a function does, whatever its comments and spacing; None where its source is not to be read."""
    import ast
    import inspect
    import textwrap

    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(resolve(function))))
    except (OSError, TypeError, SyntaxError, UserError):
        return None
    found = tree.body
    if getattr(function, "__name__", "") == "<lambda>":  # its source is the whole statement around it
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    return hashlib.sha256(ast.dump(found[0]).encode()).hexdigest()[:16] if len(found) == 1 else None


def source_of(function: str) -> Path | None:
    """The source file of "module:function": its content is part of a stage's identity."""
    spec = _spec(function.partition(":")[0])
    return Path(spec.origin) if spec and spec.has_location else None


def _spec(module: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:  # as for `python -m`; the installed program lacks it
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent package that is not there
        return None


def _check(function: str | Callable) -> str | Callable:
    resolve(function)
    return function


def _check_term(term: str | Callable) -> str | Callable:
    if isinstance(term, str) and ":" not in term and term not in TERMS:
        raise ValueError(f'no term {term!r}{did_you_mean(term, TERMS)} (or a function of your own: "module:function")')
    return term if isinstance(term, str) and term in TERMS else _check(term)


def written(function: str | Callable) -> str:
    """Its name as a recipe has it."""
    return function if isinstance(function, str) else f"{function.__module__}:{name_of(function)}"


Function = Annotated[str | Callable[[RewardInput], Any], AfterValidator(_check), PlainSerializer(written)]
TermName = Annotated[str | Callable[[RewardInput], Any], AfterValidator(_check_term), PlainSerializer(written)]
