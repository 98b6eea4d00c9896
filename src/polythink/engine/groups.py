"""What a step reads of the cache: the places of its tokens, and which rows go together into a call of the attention.

Axis legend: C slots of all rows, S segments, N tokens, r rows of a group, Q queries of a row, K slots of a row that are
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

CALL = 1 << 17  # products of a query's and a key's number that take as long as one more call of the attention


@dataclass
class Group:
    """Rows with blocks of one size and about equally many tokens in this step, padded to Q a row.

    `rows` are the blocks, counted in their size; blocks between them that are none of the group have queries as well,
    which are padding and read anything. For the model's own attention, which takes no such rows, rows that lie apart
    are copied: `rows` (r, K) are slots then.
    """

    rows: torch.Tensor | slice
    block: int  # slots of a block; 0: `rows` are slots
    index: torch.Tensor  # (r, Q) token number; another one's in the padding
    at: torch.Tensor  # (n,) flat places of the real tokens in (r, Q)
    members: torch.Tensor  # (n,) the token numbers at these places
    kv: int  # slots that are enough for all
    mask: torch.Tensor  # (r, Q, K) bool
    age: torch.Tensor | None  # (r, Q, K) query position minus key position, where a layer has a window
    _packed: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def read(self, arena: torch.Tensor) -> torch.Tensor:
        """(r, K, ...): the group's rows of a tensor (C, ...)."""
        return read(arena, self.rows, self.block, self.kv)

    def packed_mask(self, share: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """(r, 1, share * Q, K): the mask for `share` query heads per key head; made once per step, not per layer.

        On a CPU it is what the attention adds to its scores: it would turn a bool mask into that in every layer, which
        can take longer than the attention.
        """
        packed = self._packed.get((share, window, dtype))
        if packed is None:
            mask = self.mask if window is None else self.mask & (self.age < window)
            r, width, kv = mask.shape
            if mask.device.type == "cpu":
                mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
            packed = mask[:, None].expand(r, share, width, kv).reshape(r, 1, share * width, kv)
            self._packed[share, window, dtype] = packed
        return packed


def read(arena: torch.Tensor, rows: torch.Tensor | slice, block: int, kv: int) -> torch.Tensor:
    if not block:
        return arena[rows]
    whole = len(arena) // block
    return arena[: whole * block].view(whole, block, *arena.shape[1:])[rows, :kv]


@dataclass
class Step:
    """The tokens of one step, on the device."""

    tokens: torch.Tensor  # (N,)
    segments: torch.Tensor  # (N,)
    positions: torch.Tensor  # (N,)
    slots: torch.Tensor  # (N,) in the token's row
    places: torch.Tensor  # (N,) among all slots
    groups: list[Group]


def together(start: np.ndarray, block: np.ndarray, count: np.ndarray, ends: np.ndarray, width: int) -> list[np.ndarray]:
    """Which rows are read together, by their places in these columns; each group in the order of its blocks.

    Rows of one block size, a similar number of tokens (up to 8, 32, ..: padded queries cost less than another call)
    and a similar length, that lie close together: what is read in vain must cost less than another call. `width`:
    numbers in a token's key.
    """
    tokens = np.maximum(np.frexp(count - 1)[1] // 2 - 1, 0)
    order = np.lexsort((start, tokens, block))
    where, cuts = start[order] // block[order], np.diff(block[order]) + np.diff(tokens[order]) != 0
    worth = CALL / (np.maximum(count[order], 1) * width)  # slots
    if not cuts.any() and (where[-1] - where[0] + 1) * ends.max() - ends.sum() <= worth.min():
        return [order]
    columns = (ends[order].tolist(), [True, *cuts.tolist()], where.tolist(), worth.tolist())
    begins, longest, first, last = [], 0, 0, 0
    for i, (end, cut, at, most) in enumerate(zip(*columns, strict=True)):
        wider = (at - first + 1) * max(longest, end) - (last - first + 1) * longest - end
        if cut or wider > most:
            begins.append(i)
            longest, first = 0, at
        longest, last = max(longest, end), at
    return np.split(order, begins[1:])
