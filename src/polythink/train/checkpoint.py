"""Checkpoints: everything that a loop needs to resume as if it had never stopped.

A step's data and random numbers, dropout among them, depend on (seed, step) alone: model, optimiser and step count are
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch

from polythink.errors import UserError
from polythink.run.folder import atomic_write
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.train import distributed

FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, step: int, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state after `step` finished steps; the previous checkpoint is replaced only by a complete one."""
    state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    if distributed.is_main():
        with atomic_write(folder / FILE) as temporary:
            _save(state, temporary)


def _save(state: dict, path: Path) -> None:
    """`torch.save` that raises a full disk as `OSError`; torch wraps it in an error of its own."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore model and optimiser; returns the number of finished steps, 0 without a checkpoint."""
    path = folder / FILE
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        reason = "it is damaged" if isinstance(error, EOFError | UnpicklingError) else str(error).splitlines()[0]
        raise UserError(f"cannot go on from {path}: {reason}; delete it to start the stage again") from error
    return int(state["step"])


def resume(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, also: Sequence[str] = ()) -> int:
    """Bring a stage's folder to its checkpoint: model, optimiser, the rows of metrics.jsonl and of the files `also`.

    Returns the number of finished steps. `UserError` where rows of these steps are gone.
    """
    done = load_checkpoint(folder / "checkpoint", model, optimiser)
    for name in ("metrics.jsonl", *also):
        truncate_after(folder / name, done)
    check_rows(folder / "metrics.jsonl", done, folder / "checkpoint" / FILE)
    return done


def check_rows(path: Path, steps: int, checkpoint: Path) -> None:
    """`UserError` unless a file of metrics holds a row of each of the `steps` that a checkpoint has done."""
    found = {row["step"] for row in read_jsonl(path)} if path.is_file() else set()
    if missing := [step for step in range(1, steps + 1) if step not in found]:
        raise UserError(
            f"{path} lacks {len(missing)} of the {steps} steps that {checkpoint} has done (the first is step "
            f"{missing[0]}); put the file back, or delete the checkpoint to start the stage again"
        )


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows of a JSONL file that belong to steps after `step`; the resumed run writes them again."""
    if not path.is_file():
        return
    rows = read_jsonl(path)
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) < len(rows):
        write_jsonl(path, kept)
