"""The files of a checkpoint: one of each process, in which its parts of the tensors lie one after another.

torch's own writer makes a zip archive of every tensor, which takes milliseconds for a few bytes: most of what a save
of a small model took. Here a part is its bytes, with their CRC-32 in `.metadata`, which begins with its own: what is
damaged, or another writer's, is known before it is unpickled.
"""

from __future__ import annotations

import os
import pickle
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

METADATA = ".metadata"  # written last


@dataclass(frozen=True)
class Part:
    """Where a part of a tensor lies."""

    file: str
    begin: int
    crc: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Writer(StorageWriter):
    """Writes into a folder that is there. Files reach the disk before `dcp.save` ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=f"__{rank}_0.distcp") for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        found, name = [], plan.storage_data
        with (self.folder / name).open("wb") as file:
            for item in plan.items:
                tensor = planner.resolve_data(item).detach().cpu().contiguous()
                data, begin = bytes_of(tensor), file.tell()
                file.write(data)
                part = Part(name, begin, zlib.crc32(data), tuple(tensor.shape), tensor.dtype)
                found.append(WriteResult(item.index, data.nbytes, part))
            file.flush()
            os.fsync(file.fileno())
        return done(found)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        metadata.storage_data = {result.index: result.storage_data for own in results for result in own}
        data = pickle.dumps(metadata)
        with (self.folder / METADATA).open("wb") as file:
            file.write(zlib.crc32(data).to_bytes(4, "big") + data)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


class Reader(StorageReader):
    """Reads what `Writer`s wrote, in any number of processes. `EOFError` and `ValueError` where a file is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts = folder, {}

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        data = (self.folder / METADATA).read_bytes()
        if zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            raise ValueError(f"{METADATA} is not what was written")
        return pickle.loads(data[4:])

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.parts = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        wanted = sorted(((self.parts[item.storage_index], item) for item in plan.items), key=lambda pair: pair[0].file)
        for part, item in wanted:
            tensor = self._read(part)
            for axis, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                tensor = tensor.narrow(axis, begin, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(tensor)
            planner.commit_tensor(item, target)
        return done(None)

    def _read(self, part: Part) -> torch.Tensor:
        tensor = torch.empty(part.shape, dtype=part.dtype)
        data = bytes_of(tensor)
        with (self.folder / part.file).open("rb") as file:
            file.seek(part.begin)
            if file.readinto(data) != data.nbytes:
                raise EOFError(f"{part.file} is too short")
        if zlib.crc32(data) != part.crc:
            raise ValueError(f"{part.file} is not what was written")
        return tensor

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def done(value: Any) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future
