"""Tensors with one entry per slot of the cache, whose memory is taken when it is written and can be given back.

On a CPU a range of addresses is reserved, of which the system backs only the pages that have been written (zeroed, as
fresh memory is): a cache can be laid out for the largest case and costs what is in use. Elsewhere, and where the system
cannot do that, this is an ordinary zeroed tensor.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

_STRICT = Path("/proc/sys/vm/overcommit_memory")  # "2": addresses count as memory


def _reserves() -> bool:
    return sys.platform == "linux" and not (_STRICT.exists() and _STRICT.read_text().strip() == "2")


_RESERVES = _reserves()
SMALL = 1 << 16  # bytes
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # not named before Python 3.13


def can_reserve(device: torch.device) -> bool:
    """Does memory that has not been written cost nothing there?"""
    return _RESERVES and device.type == "cpu"


def pages(count: int) -> int:
    """So many bytes in whole pages."""
    return -(-count // mmap.PAGESIZE) * mmap.PAGESIZE


class SlotTensor:
    """`tensor` (slots, *shape), zero where nothing has been written; `reserve`: in reserved memory."""

    def __init__(
        self, slots: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device, reserve: bool
    ) -> None:
        self.reserve = reserve
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self.slot_bytes = math.prod(self.shape) * dtype.itemsize
        self._memory: mmap.mmap | None = None
        self.tensor = self._zeros(slots)

    def _zeros(self, slots: int) -> torch.Tensor:
        self._memory = None
        if self.reserve and slots * self.slot_bytes:  # some architectures keep values of no size
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
            self._memory = mmap.mmap(-1, slots * self.slot_bytes, flags=flags)
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # one written slot would back 2 MB
            return torch.frombuffer(self._memory, dtype=self.dtype).view(slots, *self.shape)
        return torch.zeros(slots, *self.shape, dtype=self.dtype, device=self.device)

    def resize(self, slots: int, moves: Iterable[tuple[int, int, int]]) -> None:
        """Change the number of slots. Of what is there, these ranges (from, to, count) are kept, and no other."""
        old, memory = self.tensor, self._memory
        self.tensor = self._zeros(slots)
        for source, target, count in moves:
            self.tensor[target : target + count] = old[source : source + count]
            self._release(memory, source, count)

    def copy(self, source: int, target: int, count: int) -> None:
        self.tensor[target : target + count] = self.tensor[source : source + count]

    def release(self, start: int, count: int) -> None:
        """Give the memory of a row back, from a page's first byte to the last page that it has touched.

        That of a short row is kept for the next one in its place: for the system to clear its few pages takes longer
        than to fill them.
        """
        if count * self.slot_bytes >= SMALL:
            self._release(self._memory, start, count)

    def _release(self, memory: mmap.mmap | None, start: int, count: int) -> None:
        first = pages(start * self.slot_bytes)
        end = pages((start + count) * self.slot_bytes)
        if memory is not None and end > first:
            memory.madvise(mmap.MADV_DONTNEED, first, min(end, len(memory)) - first)
