"""What the synthetic tasks share: splits by hash, and how demonstrations are written."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean

SPLITS = ("train", "heldout")


STYLES = ("sequential", "parallel")


HELDOUT_PERCENT = 12


def split_of(key: str) -> str:
    """`train` or `heldout`, from the key alone."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    return "heldout" if share < HELDOUT_PERCENT else "train"


@dataclass(frozen=True)
class DemoStyle:
    """How demonstrations are written."""

    style: str = "parallel"  # one of `STYLES`
    paths: tuple[int, ...] = (3,)  # numbers of paths that a block may have, each as likely
    p_right: float = 0.5  # probability that a chain is the solution
    retries: int = 0  # chains that may follow one that missed
    labels: str = "ordered"  # numbers of numbered paths: "ordered" 1..P or "random", any of the inventory
    strategies: bool = False  # a path's number settles its first two operators (`strategy`)
    summary: str = "chosen"  # what the summary says: what a path came to, or the "reference" whatever the paths say

    def __post_init__(self) -> None:
        for value, known in (
            (self.style, STYLES), (self.labels, ("ordered", "random")), (self.summary, ("chosen", "reference")),
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"no manner {value!r} of demonstrations{did_you_mean(value, known)}")

    def draw_paths(self, rng: random.Random) -> int:
        """How many paths the next block has."""
        return self.paths[0] if len(self.paths) == 1 else rng.choice(self.paths)
