"""What a launcher such as torchrun says about this process. No torch here: it is asked before anything is imported."""

from __future__ import annotations

import os

SAID = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what `torch.distributed` reads from the environment


def launched() -> bool:
    """Whether a launcher has started this process, alone or as one of several."""
    return all(name in os.environ for name in SAID)


def is_follower() -> bool:
    """Whether this is one of several processes and not the first, which alone reads recipes and writes files."""
    return launched() and int(os.environ["RANK"]) > 0
