"""What a process that computes for minutes is told: it must change no result, only what freeing memory costs."""

from __future__ import annotations

import gc
import platform
import resource

import numpy as np
import pytest

from helpers.program import forked
from polythink.run.process import NEW_OBJECTS, settle

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")


def faults() -> int:
    """Pages that the system has to clear while arrays of 8 MB are made, filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        a, b = np.ones(1 << 20), np.ones(1 << 20)
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_freed_memory_is_used_again():
    def work() -> None:
        settle()
        faults()  # the heap has grown by then
        assert faults() < 2048, "one of a hundred arrays has 2,048 pages"

    assert forked(work) == 0


def test_what_was_imported_is_no_longer_looked_through_and_new_garbage_still_is():
    class Node:
        alive = 0

        def __init__(self) -> None:
            Node.alive += 1
            self.itself = self

        def __del__(self) -> None:
            Node.alive -= 1

    def work() -> None:
        settle()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] == NEW_OBJECTS
        most = 0
        for _ in range(2 * NEW_OBJECTS):
            Node()
            most = max(most, Node.alive)
        assert NEW_OBJECTS / 4 < most <= NEW_OBJECTS + 1000
        assert Node.alive < NEW_OBJECTS + 1000

    assert forked(work) == 0
