"""polythink: train, run and evaluate language models that think in parallel.

The names below are the front door. Each is imported from its room when it is first used (PEP 562), so that
`import polythink`, and every room that needs no torch, stays without torch.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as editors and type checkers know it; `typing` takes as long to import as all else here
if TYPE_CHECKING:
    from typing import Any

    from polythink.engine.engine import Engine
    from polythink.engine.params import Request, SamplingParams
    from polythink.errors import UserError
    from polythink.evaluate.run import evaluate
    from polythink.models.lm import LanguageModel, load
    from polythink.problems.answers import grade
    from polythink.problems.sets import load_problems
    from polythink.trace.parse import parse
    from polythink.trace.rollout import Rollout
    from polythink.trace.tree import Trace
    from polythink.train.config import GRPOConfig, SFTConfig
    from polythink.train.grpo import train_grpo
    from polythink.train.sft import train_sft

__version__ = "0.1.0"
__all__ = [
    "Engine", "GRPOConfig", "LanguageModel", "Request", "Rollout", "SFTConfig", "SamplingParams", "Trace", "UserError",
    "__version__", "evaluate", "grade", "load", "load_problems", "parse", "train_grpo", "train_sft",
]  # fmt: skip

_ROOMS = {
    "Engine": "engine.engine",
    "GRPOConfig": "train.config",
    "LanguageModel": "models.lm",
    "Request": "engine.params",
    "Rollout": "trace.rollout",
    "SFTConfig": "train.config",
    "SamplingParams": "engine.params",
    "Trace": "trace.tree",
    "UserError": "errors",
    "grade": "problems.answers",
    "load": "models.lm",
    "load_problems": "problems.sets",
    "parse": "trace.parse",
    "train_grpo": "train.grpo",
    "train_sft": "train.sft",
}


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # a room as well as a name: the package is callable
        return import_module("polythink.evaluate")
    if name not in _ROOMS:
        raise AttributeError(f"module 'polythink' has no attribute {name!r}")
    value = getattr(import_module(f"polythink.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
