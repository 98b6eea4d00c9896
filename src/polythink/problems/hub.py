"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polythink.errors import UserError, install_extra


def hub_rows(name: str, repo: str, config: str | None, split: str, otherwise: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a split. `UserError` without the `datasets` package or the set; it ends in `otherwise`, what to do
    instead. `name` is what the user calls the set."""
    try:
        import datasets
    except ImportError:
        install = f"{install_extra('data')}, or `pip install datasets`"
        raise UserError(f"loading {name} from the hub needs {install}; without it, {otherwise}") from None
    try:
        return datasets.load_dataset(repo, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # what offline, missing and broken sets raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"cannot load {repo} from the hub ({reason}); {otherwise}") from None
