"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from polythink.run import memory

PROGRAM = """
from polythink.run.memory import trim_heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

blocks = [bytes(20_000) for _ in range(10_000)]
last = blocks[-1]  # of those on the heap the highest: what lies below it is kept
full = resident()
del blocks
freed = resident()
trim_heap()
print(full - freed, freed - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed, others do as they like")
def test_what_was_freed_below_a_block_that_is_held_goes_back():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    by_itself, given_back = map(int, said.split())
    assert by_itself < 20_000_000
    assert given_back > 150_000_000


def test_loops_trim_no_more_often_than_it_is_worth(monkeypatch: pytest.MonkeyPatch):
    now, done = [1000.0], []
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "_trimmed", 0.0)
    real = memory._trim
    monkeypatch.setattr(memory, "_trim", lambda: (real(), done.append(now[0])))
    for now[0] in (1000.0, 1000.1, 1019.9, 1020.0, 1030.0, 1041.0):
        memory.trim_heap()
    memory.give_back_memory()
    assert done == [1000.0, 1020.0, 1041.0, 1041.0]
