"""Named columns of int32 that go to the device in one copy per step."""

from __future__ import annotations

import numpy as np
import torch

ALIGN = 32  # columns begin at multiples of 128 bytes


class Upload:
    """Columns filled on the host (`host[name]`, numpy) and read on the device (`device[name]`, tensors).

    The device's memory stays where it is, so that a CUDA graph may read it, until a column must become longer: then
    `version` changes. Columns in `floats` are float32 on both sides.
    """

    def __init__(self, device: torch.device, floats: tuple[str, ...] = ()) -> None:
        self.target, self.floats = device, floats
        self.sizes: dict[str, int] = {}
        self.host: dict[str, np.ndarray] = {}
        self.device: dict[str, torch.Tensor] = {}
        self.version = 0
        self._staging: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        self._turn = 0

    def fit(self, **sizes: int) -> bool:
        """Make the columns at least that long, rounded to powers of two; True if they moved."""
        if all(size <= self.sizes.get(name, -1) for name, size in sizes.items()):
            return False
        wanted = {name: 1 << max(size - 1, 1).bit_length() for name, size in sizes.items()}
        self.sizes |= {name: max(size, self.sizes.get(name, 0)) for name, size in wanted.items()}
        total = sum(-(-size // ALIGN) * ALIGN for size in self.sizes.values())
        self._host, self._device = np.zeros(total, np.int32), torch.zeros(total, dtype=torch.int32, device=self.target)
        before, begin = self.host, 0
        self.host, self.device = {}, {}
        for name, size in self.sizes.items():
            host, device = self._host[begin : begin + size], self._device[begin : begin + size]
            real = name in self.floats
            self.host[name] = host.view(np.float32) if real else host
            if name in before:
                self.host[name][: len(before[name])] = before[name]
            self.device[name] = device.view(torch.float32) if real else device
            begin += -(-size // ALIGN) * ALIGN
        self._staging = []
        self.version += 1
        return True

    def send(self) -> None:
        """Copy all columns, after what the device's current stream has been given so far.

        The host may change its columns at once: on CUDA the copy is made from one of two pinned buffers in turn.
        """
        source = torch.from_numpy(self._host)
        if self.target.type != "cuda":
            self._device.copy_(source)
            return
        if not self._staging:
            self._staging = [(torch.empty_like(source, pin_memory=True), torch.cuda.Event()) for _ in range(2)]
        buffer, read = self._staging[self._turn]
        self._turn = 1 - self._turn
        read.synchronize()  # the copy before the last one; an event never recorded is complete
        buffer.copy_(source)
        self._device.copy_(buffer, non_blocking=True)
        read.record()
