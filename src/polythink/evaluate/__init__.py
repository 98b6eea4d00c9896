"""Evaluation of models: metrics with intervals, comparisons of ways to answer, tunnel vision, attention heads.

`polythink.evaluate(backend, problems, ...)` is `polythink.evaluate.run.evaluate`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """This package, callable.

    `polythink.evaluate` is a room and a name of the front door. A function of that name in `polythink` would be
    replaced by the package as soon as anything imports a module of the room: an import sets the parent's attribute.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        """See `polythink.evaluate.run.evaluate`, which is imported at the first call."""
        from polythink.evaluate.run import evaluate

        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
