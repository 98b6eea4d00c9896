"""Sweeps: of a parametrised test some cases are part of every run, the rest of the long tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sweep(cases: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """The cases, those that are not in `always` marked as long. A tuple is a case of several arguments."""
    cases = list(cases)
    unknown = [case for case in always if case not in cases]
    assert not unknown, f"no such cases: {unknown}"
    return [case if case in always else pytest.param(*arguments(case), marks=pytest.mark.long) for case in cases]


def arguments(case: Any) -> tuple:
    return case if isinstance(case, tuple) else (case,)
