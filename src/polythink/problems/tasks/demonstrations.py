"""What the synthetic tasks share: splits by hash, and how demonstrations are written."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean

SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 12
STYLES = ("sequential", "parallel")


def split_of(key: str) -> str:
    """`train` or `heldout`: a hash of the key, so that a problem's split never changes."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    return "heldout" if share < HELDOUT_PERCENT else "train"


@dataclass(frozen=True)
class DemoStyle:
    """How demonstrations are written."""

    style: str = "parallel"  # one of `STYLES`
    paths: tuple[int, ...] = (3,)  # possible numbers of paths per block, equally likely
    p_right: float = 0.5  # probability that a chain is the solution
    retries: int = 0  # further chains that a path may try after one that missed
    labels: str = "ordered"  # numbers of numbered paths: "ordered" (1..P), or "random" (any of the inventory)
    strategies: bool = False  # a path's number determines its first two operators (`countdown.strategy`)
    summary: str = "chosen"  # the answer in the summary: "chosen" from the paths, or always the "reference"

    def __post_init__(self) -> None:
        for value, known in (
            (self.style, STYLES), (self.labels, ("ordered", "random")), (self.summary, ("chosen", "reference")),
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"no style {value!r} of demonstrations{did_you_mean(value, known)}")

    @property
    def flat(self) -> bool:
        """One chain after another in flat text, without a block."""
        return self.style == STYLES[0]

    @property
    def most_paths(self) -> int:
        """The largest number of paths in a block; 0 in flat text."""
        return 0 if self.flat else max(self.paths)

    def draw_paths(self, rng: random.Random) -> int:
        """Number of paths of the next block."""
        return self.paths[0] if len(self.paths) == 1 else rng.choice(self.paths)
