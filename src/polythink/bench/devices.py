"""What machines can do by their makers' data sheets: the ceilings that plans on paper are made with. Without torch.

`bench.machine` measures what a device really does; on one H200 that was 4.23 TB/s of 4.8, and 788 TFLOP/s of 989.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Device:
    """One device: bytes of memory, bytes per second, products and sums per second by type (dense), and who says so."""

    memory: float
    bandwidth: float
    bfloat16: float
    float32: float
    source: str

    def rate(self, bytes_per_number: int) -> float:
        """Operations per second on numbers of that width."""
        return self.bfloat16 if bytes_per_number == 2 else self.float32


DEVICES = {
    "H100": Device(80e9, 3.35e12, 989e12, 67e12, "NVIDIA H100 data sheet, SXM5"),
    "H200": Device(141e9, 4.8e12, 989e12, 67e12, "NVIDIA H200 data sheet, SXM5"),
    "A100-80": Device(80e9, 2.039e12, 312e12, 19.5e12, "NVIDIA A100 data sheet, SXM4 of 80 GB"),
    "4090": Device(24e9, 1.008e12, 165e12, 82.6e12, "NVIDIA Ada architecture paper, RTX 4090, float32 sums"),
    "cpu": Device(
        64e9, 51.2e9, 768e9, 768e9,
        "a desktop by its parts: two channels of DDR4-3200; 8 cores at 3 GHz, 32 float32 operations a cycle (AVX2)",
    ),
}  # fmt: skip
MOST = 4096  # devices


def machine(name: str) -> tuple[int, str, Device]:
    """`8xH100` or `H100`: how many of which device. `UserError` for one that is not known."""
    form = re.fullmatch(r"(?:(\d{1,4})x)?(.+)", name.strip(), re.IGNORECASE)
    known = {key.lower(): key for key in DEVICES}
    count, given = (int(form[1] or 1), form[2]) if form else (0, name)
    if given.lower() not in known or not 0 < count <= MOST:
        hint = did_you_mean(given, DEVICES) if given.lower() not in known else ""
        raise UserError(
            f"no machine {name!r}{hint}; give a device of {', '.join(DEVICES)}, or several, such as 8xH100 (at most "
            f"{MOST})"
        )
    key = known[given.lower()]
    return count, key, DEVICES[key]
