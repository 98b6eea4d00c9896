"""Which slots of the cache belong to which row: blocks of 1, 2, 4, .. slots in one range, each aligned to its size.

A row is one block, so that rows of one size lie at multiples of it and can be read as one strided tensor. A row that
outgrows its block takes a larger one: in place where its neighbours are free, elsewhere where there is room, or after
its neighbours have been moved away. Sizes are powers of two, so whatever fits by its sum can be made to fit: no block
is needed beside the ones that are held, not even while rows move. (Buddy allocation: Knowlton 1965.)
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple


class Block(NamedTuple):
    """Slots from `start` on; `start` is a multiple of `size`, a power of two."""

    start: int
    size: int


class Move(NamedTuple):
    """Slots to be copied. Moves are made in their order; the two ranges of one do not overlap."""

    source: int
    target: int
    count: int


def size_class(slots: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(slots - 1, 0).bit_length()


class Buddies:
    """The blocks of all rows within the slots 0 .. `size` - 1. Methods that move rows return what is to be copied."""

    def __init__(self) -> None:
        self.size = self.held = 0
        self.blocks: dict[int, Block] = {}  # by row
        self._free: defaultdict[int, set[int]] = defaultdict(set)  # starts of the free blocks of each size

    def resize(self, size: int) -> list[Move]:
        """Add slots at the end, or take some away. `size` must be a multiple of the largest block that is to come."""
        moves: list[Move] = []
        while self.size < size:
            aligned = self.size & -self.size or size_class(size)
            step = min(aligned, 1 << (size - self.size).bit_length() - 1)
            self.size += step
            self._give(self.size - step, step)
        if size < self.size:
            assert self.held <= size, (self.held, size)
            end = Block(size, self.size - size)
            self._split(end)
            self.size = size
            self._clear(end, (), moves)
        return moves

    def fits(self, size: int, row: int | None = None) -> bool:
        """Is there room for a block of that size, in exchange for the row's own?"""
        own = self.blocks[row].size if row in self.blocks else 0
        return self.held - own + size <= self.size and size <= self.size

    def take(self, row: int, size: int) -> list[Move]:
        """Give a row a block of that size, in exchange for its own; what lies in that is kept."""
        assert self.fits(size, row), (row, size)
        moves: list[Move] = []
        own = self.blocks.pop(row, None)
        if own is None:
            start = self._room(size, (), moves)
        else:
            window = Block(own.start - own.start % size, size)
            start = None if self._vacant(window, own) else self._pop(size, ())
            if start is None:
                start = self._clear(window, (), moves)
            else:
                self._give(*own)
            if start != own.start:
                moves.append(Move(own.start, start, own.size))
        self.blocks[row] = Block(start, size)
        self.held += size - (own.size if own else 0)
        return moves

    def give(self, row: int) -> Block | None:
        """Free a row's block; returns it."""
        block = self.blocks.pop(row, None)
        if block is not None:
            self.held -= block.size
            self._give(*block)
        return block

    def _give(self, start: int, size: int) -> None:
        while start ^ size in self._free[size]:
            self._free[size].remove(start ^ size)
            start &= ~size
            size *= 2
        self._free[size].add(start)

    def _pop(self, size: int, barred: tuple[Block, ...]) -> int | None:
        """A free block of that size outside of these windows, cut from the smallest that holds one; None: none."""
        for whole in sorted(s for s, starts in self._free.items() if s >= size and starts):
            starts = [s for s in self._free[whole] if not any(_within(s, window) for window in barred)]
            if starts:
                start = min(starts)
                self._free[whole].remove(start)
                while whole > size:
                    whole //= 2
                    self._free[whole].add(start + whole)
                return start
        return None

    def _room(self, size: int, barred: tuple[Block, ...], moves: list[Move]) -> int:
        """A free block of that size outside of these windows; rows are moved away where there is none."""
        start = self._pop(size, barred)
        if start is not None:
            return start
        used: dict[int, int] = dict.fromkeys(range(self.size // size), 0)  # slots of smaller blocks, of each window
        for block in self.blocks.values():
            for window in range(block.start // size, (block.start + block.size - 1) // size + 1):
                if block.size >= size:
                    used.pop(window, None)
                elif window in used:
                    used[window] += block.size
        best = min((w for w in used if not any(_within(w * size, window) for window in barred)), key=used.__getitem__)
        return self._clear(Block(best * size, size), barred, moves)

    def _vacant(self, window: Block, own: Block) -> bool:
        """Is the window free but for the row's own block?"""
        inside = (size for size, starts in self._free.items() for start in starts if _within(start, window))
        return sum(inside) == window.size - own.size

    def _clear(self, window: Block, barred: tuple[Block, ...], moves: list[Move]) -> int:
        """Move all rows out of a window, which is taken; returns its start."""
        for size, starts in self._free.items():
            self._free[size] = {start for start in starts if not _within(start, window)}
        inside = [(row, block) for row, block in self.blocks.items() if _within(block.start, window)]
        for row, block in sorted(inside, key=lambda item: -item[1].size):
            start = self._room(block.size, (*barred, window), moves)
            moves.append(Move(block.start, start, block.size))
            self.blocks[row] = Block(start, block.size)
        return window.start

    def _split(self, window: Block) -> None:
        """Cut free blocks that begin before a window that ends the range, so that none reaches into it."""
        size = size_class(self.size)
        while size > 1:
            for start in [s for s in self._free[size] if s < window.start < s + size]:
                self._free[size].remove(start)
                self._free[size // 2] |= {start, start + size // 2}
            size //= 2


def _within(start: int, window: Block) -> bool:
    return window.start <= start < window.start + window.size
