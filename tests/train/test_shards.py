"""The files of a checkpoint hold what torch's own writer holds, and a byte that is not what was written is noticed."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from polythink.train.shards import METADATA, Reader, Writer


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    wide = torch.randn(6, 8)
    return {
        "float32": wide, "bfloat16": torch.randn(3, 5, dtype=torch.bfloat16), "float64": torch.randn(2).double(),
        "turned": wide.t(), "part": wide[1:3, 2:5], "numbers": torch.arange(3), "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4), "flags": torch.tensor([True, False]),
    }  # fmt: skip


def saved(folder, writer) -> None:
    with warnings.catch_warnings(action="ignore"):
        dcp.save(tensors(), storage_writer=writer(folder), no_dist=True)


def read(reader) -> dict[str, torch.Tensor]:
    found = {name: torch.full_like(tensor, 7) for name, tensor in tensors().items()}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def test_tensors_of_every_kind_come_back_as_with_torchs_own_files(tmp_path):
    (tmp_path / "ours").mkdir()
    saved(tmp_path / "ours", Writer)
    saved(tmp_path / "torchs", dcp.FileSystemWriter)
    ours, torchs = read(Reader(tmp_path / "ours")), read(dcp.FileSystemReader(tmp_path / "torchs"))
    for name, tensor in tensors().items():
        assert torch.equal(ours[name], tensor), name
        assert torch.equal(torchs[name], tensor), name
    sizes = [value.nbytes for value in tensors().values()]
    assert (tmp_path / "ours" / "__0_0.distcp").stat().st_size == sum(sizes), "the tensors and nothing else"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "is not what was written"),
        (lambda data: data[:-1], "is too short"),
        (lambda data: b"", "is too short"),
    ],
)
def test_damage_is_noticed(tmp_path, damage, said):
    saved(tmp_path, Writer)
    assert {path.name for path in tmp_path.iterdir()} == {METADATA, "__0_0.distcp"}
    (tmp_path / "__0_0.distcp").write_bytes(damage((tmp_path / "__0_0.distcp").read_bytes()))
    with pytest.raises(CheckpointException, match=said):
        read(Reader(tmp_path))


def test_damaged_metadata_is_noticed_before_it_is_unpickled(tmp_path):
    saved(tmp_path, Writer)
    data = (tmp_path / METADATA).read_bytes()
    for at in range(0, len(data), 97):
        (tmp_path / METADATA).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(ValueError, match="is not what was written"):
            Reader(tmp_path).read_metadata()
    for other in (b"", data[:3], data[:-1]):
        (tmp_path / METADATA).write_bytes(other)
        with pytest.raises(ValueError, match="is not what was written"):
            Reader(tmp_path).read_metadata()
    saved(tmp_path, dcp.FileSystemWriter)
    with pytest.raises(ValueError, match="is not what was written"):
        Reader(tmp_path).read_metadata()
