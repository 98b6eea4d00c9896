"""Blocks of slots: whatever fits by its sum finds a place, and rows keep what is in them while they move."""

from __future__ import annotations

import random

import pytest

from polythink.engine.buddies import Buddies, size_class


def check(buddies: Buddies, memory: list, used: dict[int, int]) -> None:
    """Blocks and free blocks tile the range; each row still has its numbers."""
    held = [(block.start, block.size) for block in buddies.blocks.values()]
    free = [(start, size) for size, starts in buddies._free.items() for start in starts]
    end = 0
    for start, size in sorted(held + free):
        assert (start, start % size) == (end, 0)
        end += size
    assert end == buddies.size
    assert buddies.held == sum(size for _, size in held)
    for row, block in buddies.blocks.items():
        assert memory[block.start : block.start + used[row]] == [(row, i) for i in range(used[row])]


def move(memory: list, moves) -> None:
    for source, target, count in moves:
        assert source + count <= target or target + count <= source
        memory[target : target + count] = memory[source : source + count]


@pytest.mark.parametrize("largest", [1, 4, 16])
def test_what_fits_by_its_sum_always_finds_a_place(largest):
    for seed in range(40):
        rng, buddies, used = random.Random(seed), Buddies(), {}
        memory: list = [None] * (largest * 20)

        move(memory, buddies.resize(largest * rng.randint(1, 9)))
        for _ in range(200):
            row, size = rng.randrange(12), 1 << rng.randint(0, largest.bit_length() - 1)
            if rng.random() < 0.3 and row in used:
                buddies.give(row)
                del used[row]
            elif rng.random() < 0.05:
                least = -(-buddies.held // largest)
                move(memory, buddies.resize(largest * rng.randint(max(1, least), max(1, least) + 3)))
            elif buddies.fits(size, row) and (row not in used or size > buddies.blocks[row].size):
                move(memory, buddies.take(row, size))
                start, before = buddies.blocks[row].start, used.get(row, 0)
                used[row] = rng.randint(max(before, 1), size)
                for i in range(before, used[row]):
                    memory[start + i] = (row, i)
            check(buddies, memory, used)


def test_sizes_are_powers_of_two():
    assert [size_class(n) for n in (0, 1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 4, 4, 8, 64, 128]
