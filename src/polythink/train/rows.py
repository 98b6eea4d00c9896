"""How long the rows are that several traces share: what `pack` says. Imports without torch."""

from __future__ import annotations

from typing import Literal

BLOCK = 128  # tokens: the least step; rows of flex attention are whole blocks of this size (`models.batch`)
STEPS = 8  # lengths between a power of two and the next


def row_tokens(pack: int | Literal["auto"] | None, longest: int, blocks: bool) -> int:
    """Tokens that a row of several traces holds at most; 0: every trace has a row of its own.

    `longest`: tokens of the longest trace. `blocks`: attention reads masks of blocks, and so skips the other traces of
    a row. "auto" packs there alone: under a dense mask a longer row costs more than the padding that it saves. Its rows
    are as long as the longest trace, so that `micro_batch` of them need what as many traces may need; rounded up by an
    eighth at most, since a run in compiled layers is best made of few lengths.
    """
    if pack != "auto":
        return pack or 0
    if not blocks:
        return 0
    step = max(BLOCK, (1 << longest.bit_length() - 1) // STEPS)
    return -(-longest // step) * step
