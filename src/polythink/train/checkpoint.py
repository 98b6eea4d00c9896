"""Checkpoints: everything that a loop needs to resume as if it had never stopped.

A step's data and random numbers, dropout among them, depend on (seed, step) alone: model, optimiser and step count are
all. `checkpoint/step-000050/` holds them as a distributed checkpoint (torch's DCP, in the files of `shards.py`): each
process writes its part of the weights, and any number of processes, one among them, can read them again.
"""

from __future__ import annotations

import os
import re
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from polythink.errors import UserError
from polythink.run.folder import os_errors
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.train import distributed
from polythink.train.shards import Reader, Writer

FOLDER = re.compile(r"step-(\d+)")
OLD = "checkpoint.pt"  # of versions that knew one process only
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter, beside the number of its updates


def save_checkpoint(folder: Path, step: int, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the state after `step` finished steps; the previous checkpoint goes when this one is complete."""
    place = folder / f"step-{step:06d}"
    temporary = distributed.on_main(lambda: _new_folder(place))
    state = _state(model, optimiser)
    distributed.gathered(lambda: _write(state, temporary, place))
    distributed.on_main(lambda: _put(temporary, place))


def _new_folder(place: Path) -> Path:
    """A temporary folder; those of killed processes go."""
    for left in place.parent.glob(".step-*.tmp"):
        rmtree(left)
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    with os_errors(place):
        temporary.mkdir(parents=True)
    return temporary


def _write(state: dict[str, dict], temporary: Path, place: Path) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is one process is no news
            dcp.save(state, storage_writer=Writer(temporary), **_processes())
    except (CheckpointException, RuntimeError) as error:
        if distributed.is_loss(error):
            raise
        if distributed.is_main():
            rmtree(temporary, ignore_errors=True)
        cause = next((e for e in _causes(error) if isinstance(e, OSError)), None)
        if cause is None:
            raise AssertionError(f"cannot write {place}: {_causes(error)[-1]}") from error
        raise UserError(f"cannot write {place}: {cause.strerror or cause}") from error


def _put(temporary: Path, place: Path) -> None:
    """Rename the complete folder, and delete the previous ones."""
    with os_errors(place):
        if place.exists():
            rmtree(place)
        os.replace(temporary, place)
        directory = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        for other in place.parent.glob("step-*"):
            if other != place:
                rmtree(other)


def _processes() -> dict:
    return {"process_group": distributed.patient()} if dist.is_initialized() else {"no_dist": True}


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that led to it; torch wraps those of files in its own."""
    found, waiting = [], [error]
    while waiting:
        now = waiting.pop(0)
        found.append(now)
        if isinstance(now, CheckpointException):
            waiting += [failure for failure, _ in now.failures.values()]
        waiting += [x for x in (now.__cause__, now.__context__) if x is not None and x not in found]
    return found


def _state(model: torch.nn.Module, optimiser: torch.optim.Optimizer, make: bool = False) -> dict[str, dict]:
    """Weights, and what the optimiser keeps of each parameter that has been updated (with `make`: of all), by name.

    Updates are counted for each parameter: one vector of all counts.
    """
    seen, weights = set(), {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:  # tied weights once
            weights[name] = tensor.detach()
        seen.add(id(tensor))
    moments: dict[str, dict[str, torch.Tensor]] = {moment: {} for moment in MOMENTS}
    counts = []
    for name, parameter in model.named_parameters():
        own = optimiser.state.get(parameter, {})
        counts.append(float(own.get("step", 0)))
        for moment in MOMENTS if own or make else ():
            moments[moment][name] = own.get(moment, torch.zeros_like(parameter, requires_grad=False))
    return {"model": weights, **moments, "updates": torch.tensor(counts)}


def newest_checkpoint(folder: Path) -> tuple[int, Path | None]:
    """The number of finished steps and the folder of the newest checkpoint; 0 and None without one."""
    if (folder / OLD).exists():
        raise UserError(
            f"cannot go on from {folder / OLD}: an older version of polythink wrote it; delete it to start the stage "
            "again, or finish the stage with that version"
        )
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := FOLDER.fullmatch(path.name))}
    return (max(found), found[max(found)]) if found else (0, None)


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore model and optimiser; returns the number of finished steps, 0 without a checkpoint."""
    step, place = distributed.on_main(lambda: newest_checkpoint(folder))
    if place is not None:
        distributed.gathered(lambda: _read(place, model, optimiser))
    return step


def _read(place: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    state = _state(model, optimiser, make=True)
    try:
        reader = Reader(place)
        found = {name: getattr(x, "size", None) for name, x in reader.read_metadata().state_dict_metadata.items()}
        for moment in MOMENTS:
            state[moment] = {name: x for name, x in state[moment].items() if f"{moment}.{name}" in found}
        own = {f"{part}.{name}": x.shape for part in ("model", *MOMENTS) for name, x in state[part].items()}
        _check(place, {**own, "updates": state["updates"].shape}, found)
        with warnings.catch_warnings(action="ignore"):
            dcp.load(state, storage_reader=reader, **_processes())
    except (CheckpointException, RuntimeError, KeyError, ValueError, OSError, EOFError) as error:
        if distributed.is_loss(error):
            raise
        raise UserError(f"cannot go on from {place}: it is damaged; delete it to start the stage again") from error
    for (name, parameter), count in zip(model.named_parameters(), state["updates"], strict=True):
        if name in state[MOMENTS[0]]:
            step = count.clone().to(parameter.device if optimiser.defaults["fused"] else "cpu")
            optimiser.state[parameter] = {"step": step, **{moment: state[moment][name] for moment in MOMENTS}}


def _check(place: Path, own: dict[str, torch.Size], found: dict[str, torch.Size | None]) -> None:
    """`UserError` for the checkpoint of another model."""
    for name in (*own, *found):
        if own.get(name) != found.get(name):
            shapes = [tuple(sizes[name]) if sizes.get(name) is not None else "nothing" for sizes in (found, own)]
            raise UserError(
                f"cannot go on from {place}: it holds {shapes[0]} for {name}, and this model has {shapes[1]}; "
                "delete it to start the stage again"
            )


class Begins(Protocol):
    """A training that knows its own checkpoints (`begun.Training`)."""

    def enter(self, folder: Path, done: int) -> None: ...


def resume(
    folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, also: Sequence[str] = (),
    training: Begins | None = None,
) -> int:  # fmt: skip
    """Bring a stage's folder to its checkpoint: model, optimiser, the rows of metrics.jsonl and of the files `also`.

    Returns the number of finished steps. `UserError` where rows of these steps are gone, or where they are of another
    training than this one, which the first process alone knows.
    """
    checkpoints = folder / "checkpoint"
    distributed.on_main(lambda: training and training.enter(checkpoints, newest_checkpoint(checkpoints)[0]))
    done = load_checkpoint(checkpoints, model, optimiser)

    def cut() -> None:
        for name in ("metrics.jsonl", *also):
            truncate_after(folder / name, done)
        check_rows(folder / "metrics.jsonl", done, checkpoints)

    distributed.on_main(cut)
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
