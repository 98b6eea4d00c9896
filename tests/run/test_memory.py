"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from polythink.run.memory import give_back_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

blocks = [bytes(20_000) for _ in range(10_000)]
last = blocks[-1]  # of those on the heap the highest: what lies below it is kept
full = resident()
del blocks
freed = resident()
give_back_memory()
print(full - freed, freed - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed, others do as they like")
def test_what_was_freed_below_a_block_that_is_held_goes_back():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    by_itself, given_back = map(int, said.split())
    assert by_itself < 20_000_000
    assert given_back > 150_000_000
