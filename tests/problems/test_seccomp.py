"""The filter for system calls, run here as the kernel would; and its numbers, where the system's headers are."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

from polythink.problems.sandboxed import seccomp
from polythink.problems.sandboxed.seccomp import ALLOWED, MACHINES, RETURN_ALLOW, RETURN_EPERM

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
DANGEROUS = {  # on x86_64
    "open": 2, "socket": 41, "connect": 42, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
    "fcntl": 72, "rename": 82, "mkdir": 83, "unlink": 87, "chmod": 90, "ptrace": 101, "setsid": 112, "prctl": 157,
    "setrlimit": 160, "mount": 165, "tgkill": 234, "openat": 257, "prlimit64": 302, "seccomp": 317,
    "memfd_create": 319, "process_vm_writev": 311, "pidfd_open": 434, "clone3": 435, "openat2": 437, "io_uring": 425,
}  # fmt: skip


def verdict(machine: str, number: int, caller: int | None = None) -> int:
    """What the filter of a machine says to the call of that number, made by a program of the machine `caller`."""
    lines = list(struct.iter_unpack("=HBBI", seccomp._filter(machine)))
    record = {seccomp.NUMBER_AT: number, seccomp.MACHINE_AT: MACHINES[machine] if caller is None else caller}
    word, place = None, 0
    while True:
        code, if_so, if_not, value = lines[place]
        place += 1
        if code == seccomp.LOAD:
            word = record[value]
        elif code == seccomp.JUMP_IF_EQUAL:
            place += if_so if word == value else if_not
        else:
            assert code == seccomp.RETURN
            return value


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_on_the_list_pass_and_all_others_do_not(machine: str):
    column = list(MACHINES).index(machine)
    listed = {pair[column] for pair in ALLOWED.values()} - {None}
    assert {n for n in range(600) if verdict(machine, n) == RETURN_ALLOW} == listed
    assert all(verdict(machine, n) in (RETURN_ALLOW, RETURN_EPERM) for n in range(600))
    assert verdict(machine, 0x40000000) == RETURN_EPERM  # x86_64 has its calls a second time there
    assert all(verdict(machine, n, caller=0x40000003) == RETURN_EPERM for n in range(600))  # 32-bit calls


def test_nothing_dangerous_is_on_the_list():
    assert not {pair[0] for pair in ALLOWED.values()} & set(DANGEROUS.values())


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernel(machine: str):
    header = next((Path(name) for name in HEADERS[machine] if Path(name).is_file()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    text, column = header.read_text(), list(MACHINES).index(machine)
    for name, pair in ALLOWED.items():
        found = re.search(rf"#define __NR(?:3264)?_{name}\s+(\d+)", text)
        assert (int(found[1]) if found else None) == pair[column], name


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it")
def test_a_failed_call_says_which():
    with pytest.raises(OSError, match=r"prctl\(9999\)"):
        seccomp.prctl(9999)
