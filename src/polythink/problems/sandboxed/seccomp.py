"""The list of system calls that a confined process may make, enforced by the kernel: seccomp through ctypes alone.

It is an allow-list. A deny-list would have to name every way to a file, a process or a socket, and each new kernel adds
some (`openat2`, `clone3`, `io_uring_setup`, `pidfd_open`). A program whose modules are imported already needs only
memory, the clock, random bytes, and reading and writing what is open: that list is short and does not grow. All else
fails with EPERM, which Python turns into `PermissionError`; nothing is opened, created, forked, signalled or connected.
Threads are refused with the processes: both are `clone`.

Needs Linux on x86_64 or aarch64 and no rights: with `no_new_privs` set, every user may confine itself. Kernel
interface: Documentation/userspace-api/seccomp_filter.rst of Linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER = 2
RETURN_ALLOW, RETURN_EPERM = 0x7FFF0000, 0x00050001
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: a word of the call's record; compare; the verdict
NUMBER_AT, MACHINE_AT = 0, 4  # offsets in the record

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # what `platform.machine()` says -> the kernel's name for it
# name: number on x86_64, on aarch64 (None: not there)
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # what is open
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "close": (3, 57), "lseek": (8, 62),
    "fstat": (5, 80), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "brk": (12, 214),
    "madvise": (28, 233), "membarrier": (324, 283),
    # this thread: locks, signal handlers, sleep, its end
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "sched_yield": (24, 124), "exit": (60, 93),
    "exit_group": (231, 94),
    # what it may know
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "getrandom": (318, 278), "getpid": (39, 172), "gettid": (186, 178),
    "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "uname": (63, 160), "getcwd": (79, 17), "getcpu": (309, 168), "sched_getaffinity": (204, 123),
}  # fmt: skip


class _Program(ctypes.Structure):
    """`struct sock_fprog`: the number of instructions, and where they stand."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def available() -> bool:
    """Whether this kernel and this machine have it. Changes nothing."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False
    try:
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 0)  # no filter given
    except OSError as error:
        return error.errno == 14  # EFAULT: it looked for the filter, so it would have taken one
    return False


def confine() -> None:
    """From here on this process can make the calls of `ALLOWED` alone; there is no way back. `OSError` if refused."""
    instructions = ctypes.create_string_buffer(_filter(platform.machine()))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(len(instructions) // 8, ctypes.addressof(instructions))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def prctl(option: int, *values: int) -> None:
    """The system call of that name. `OSError` if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    rest = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(ctypes.c_int(option), *rest):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"prctl({option})")


def _filter(machine: str) -> bytes:
    """The filter: another machine's calls are refused (a 64-bit process can make 32-bit ones), then one test a call."""
    column = list(MACHINES).index(machine)
    numbers = sorted({pair[column] for pair in ALLOWED.values() if pair[column] is not None})
    lines = [
        (LOAD, 0, 0, MACHINE_AT), (JUMP_IF_EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, RETURN_EPERM),
        (LOAD, 0, 0, NUMBER_AT),
    ]  # fmt: skip
    for number in numbers:
        lines += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, RETURN_ALLOW)]
    lines.append((RETURN, 0, 0, RETURN_EPERM))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
