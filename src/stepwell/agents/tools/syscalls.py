"""The seccomp filter of the sandbox: the system calls that computing and a folder of files need.

A list of what is allowed, not of what is refused, so that a call not thought of is refused: other
processes cannot be signalled, traced, slowed, pinned or rescheduled, no memory is had past the limits
(memfd, System V), and what a newer kernel adds is not there. Standard library only; runs in the sandbox's
child.

Sources: seccomp(2), syscalls(2), the kernel's tables for x86_64 and for the generic numbers that arm64 uses.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x10000

_ALLOWED = {
    "x86_64": (
        (0, 1, 2, 3, 8, 17, 18, 19, 20, 295, 296, 327, 328),  # read, write, open, close, lseek, pread, readv
        (
            257,
            437,
            85,
            32,
            33,
            292,
            436,
            22,
            293,
            187,
            221,
        ),  # openat, creat, dup, pipe, readahead
        (4, 5, 6, 262, 332, 21, 269, 439, 137, 138),  # stat, statx, access, statfs
        (
            82,
            264,
            316,
            83,
            258,
            84,
            86,
            265,
            87,
            263,
            88,
            266,
            89,
            267,
        ),  # rename to readlink
        (
            76,
            77,
            285,
            73,
            74,
            75,
            40,
            275,
            326,
            78,
            217,
            79,
            80,
            81,
            95,
        ),  # truncate, fsync, copies
        (191, 192, 193, 194, 195, 196),  # getxattr, listxattr
        (9, 10, 11, 12, 25, 26, 27, 28),  # mmap, mprotect, munmap, brk, mremap, msync, mincore, madvise
        (7, 23, 270, 271, 213, 291, 232, 233, 281, 441),  # poll, select, epoll
        (284, 290, 283, 286, 287, 282, 289),  # eventfd, timerfd, signalfd
        (53, 45, 47, 48, 51, 52, 55),  # socketpair and what is done with one, but no larger buffers
        (13, 14, 15, 34, 127, 128, 130, 131, 219),  # its own signals
        (202, 449, 218, 273, 334, 324, 158, 24),  # futex, threads, membarrier, arch_prctl, sched_yield
        (35, 36, 37, 38, 96, 201, 228, 229, 230),  # sleeping, alarms, clocks
        (39, 102, 104, 107, 108, 110, 111, 115, 118, 120, 121, 124, 186),  # who it is
        (
            63,
            97,
            98,
            99,
            100,
            140,
            146,
            147,
            204,
            309,
            318,
        ),  # uname, limits, times, random
        (60, 61, 231, 247),  # exit, wait
    ),
    "aarch64": (
        (62, 63, 64, 65, 66, 67, 68, 69, 70, 286, 287, 56, 57, 437),
        (23, 24, 436, 59, 213, 223),
        (79, 80, 291, 48, 439, 43, 44),
        (38, 276, 34, 37, 35, 36, 78),
        (45, 46, 47, 32, 82, 83, 71, 76, 285, 61, 17, 49, 50, 166),
        (8, 9, 10, 11, 12, 13),
        (222, 226, 215, 214, 216, 227, 232, 233),
        (72, 73, 20, 21, 22, 441),
        (19, 85, 86, 87, 74),
        (199, 207, 212, 210, 204, 205, 209),
        (128, 132, 133, 134, 135, 136, 137, 139),
        (98, 449, 96, 99, 293, 283, 124),
        (101, 102, 103, 113, 114, 115, 169),
        (172, 173, 174, 175, 176, 177, 178, 148, 150, 155, 156, 158),
        (160, 163, 165, 179, 153, 141, 125, 126, 123, 168, 278),
        (93, 94, 95, 260),
    ),
}
_IGNORED = {"x86_64": (90, 91, 268, 132, 235, 261, 280, 452), "aarch64": (52, 53, 88, 452)}
"""chmod and utime, which Landlock does not cover: without effect, and silent for ``shutil.copy``'s sake."""
_CLONE3 = 435
_NEWER = 449
"""The first number of which nothing is known here: not there, so that a C library falls back."""
_WITH_ARGUMENTS = {"x86_64": (56, 234, 302, 44, 72, 16), "aarch64": (220, 131, 261, 206, 25, 29)}
"""clone, tgkill, prlimit64, sendto, fcntl, ioctl."""
_FCNTL_REFUSED = (8, 10, 15, 1024, 1026, 1031)
"""F_SETOWN, F_SETSIG and F_SETOWN_EX (signals to others), F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ (memory)."""
_IOCTL_ALLOWED = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Of all others it is not known what
they do to a file system or a device: freeze, trim, clone, send signals."""
_NOT_SUPPORTED = 95
"""EOPNOTSUPP: what wanted to copy by reference copies by reading."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_Line = tuple[int, int, int, int]


def filter_syscalls() -> bool:
    """Installs the filter for good, for this process and whatever it could become."""
    machine = platform.machine()
    if machine not in _ALLOWED:
        return False
    lines = list(_program(machine))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0) == 0)


def _program(machine: str) -> Iterator[_Line]:
    """Classic BPF. A comparison jumps over one line when it does not hold."""
    refuse, pretend, allow = (_RETURN, 0, 0, _ERRNO | EPERM), (_RETURN, 0, 0, _ERRNO), (_RETURN, 0, 0, _ALLOW)
    absent = (_RETURN, 0, 0, _ERRNO | ENOSYS)
    yield (_LOAD, 0, 0, _ARCH_AT)
    yield (_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER_AT)
    yield from _when(_AT_LEAST, _X32, refuse)
    for group in _ALLOWED[machine]:
        for number in group:
            yield from _when(_EQUAL, number, allow)
    for number in _IGNORED[machine]:
        yield from _when(_EQUAL, number, pretend)
    # The C library falls back to clone, whose flags a filter can read.
    yield from _when(_EQUAL, _CLONE3, absent)
    clone, tgkill, prlimit, sendto, fcntl, ioctl = _WITH_ARGUMENTS[machine]
    yield from _unless(clone, [(0, _ANY_BIT, CLONE_THREAD)], refuse)
    yield from _unless(tgkill, [(0, _EQUAL, os.getpid())], refuse)
    yield from _unless(prlimit, [(0, _EQUAL, 0), (16, _EQUAL, 0), (20, _EQUAL, 0)], refuse)
    yield from _unless(sendto, [(32, _EQUAL, 0), (36, _EQUAL, 0)], refuse)
    yield from _but_for(fcntl, 8, _FCNTL_REFUSED, refuse)
    yield from _only(ioctl, 8, _IOCTL_ALLOWED, (_RETURN, 0, 0, _ERRNO | _NOT_SUPPORTED))
    yield from _when(_AT_LEAST, _NEWER, absent)
    yield refuse


def _when(test: int, value: int, then: _Line) -> Iterator[_Line]:
    yield (test, 0, 1, value)
    yield then


def _unless(number: int, tests: list[tuple[int, int, int]], then: _Line) -> Iterator[_Line]:
    """``then`` for this system call unless all tests of (offset into arguments, test, value) hold."""
    body: list[_Line] = []
    for offset, test, value in tests:
        body += [(_LOAD, 0, 0, _ARGUMENTS_AT + offset), (test, 1, 0, value), then]
    body.append((_RETURN, 0, 0, _ALLOW))
    yield (_EQUAL, 0, len(body), number)
    yield from body


def _but_for(number: int, offset: int, values: tuple[int, ...], then: _Line) -> Iterator[_Line]:
    """This system call is allowed unless the argument at ``offset`` is one of ``values``."""
    body: list[_Line] = [(_LOAD, 0, 0, _ARGUMENTS_AT + offset)]
    for value in values:
        body += _when(_EQUAL, value, then)
    body.append((_RETURN, 0, 0, _ALLOW))
    yield (_EQUAL, 0, len(body), number)
    yield from body


def _only(number: int, offset: int, values: tuple[int, ...], then: _Line) -> Iterator[_Line]:
    """``then`` for this system call unless the argument at ``offset`` is one of ``values``."""
    body: list[_Line] = [(_LOAD, 0, 0, _ARGUMENTS_AT + offset)]
    for value in values:
        body += _when(_EQUAL, value, (_RETURN, 0, 0, _ALLOW))
    body.append(then)
    yield (_EQUAL, 0, len(body), number)
    yield from body
