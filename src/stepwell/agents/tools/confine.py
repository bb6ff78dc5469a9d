"""What the Linux kernel can be asked to hold a process to, with nothing installed and no privilege.

Runs inside the sandbox's child, before the code does: standard library only, one thread. Each function
says whether its layer is in force; none raises, because a kernel may be old, or another system's.

Sources: landlock(7), seccomp(2), user_namespaces(7), network_namespaces(7), setrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SIGKILL = 9
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_THREAD = 0x10000000, 0x40000000, 0x08000000, 0x10000
EPERM, ENOSYS = 1, 38
NICENESS = 10
"""A model's loop must not keep the engine waiting that it runs beside."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> bool:
    """When the process that started this one ends, however it ends, this one is killed."""
    return bool(_libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0)


def limit_resources(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Processor time, address space, size of one file, open files, no core dumps; others go first."""
    wanted = {
        # The soft limit is a signal that code may ignore; the hard one is the end.
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
    }
    os.nice(NICENESS)
    for what, (soft, hard) in wanted.items():
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(what, (soft, hard))


def forbid_processes() -> None:
    """One process and no thread more. The kernel does not hold the superuser to it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def leave_network() -> bool:
    """New user, network and IPC namespaces: a network without any interface that is up."""
    uid, gid = os.getuid(), os.getgid()
    if _libc().unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0:
        return False
    # Without a map every file would belong to nobody, and none could be made.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


# Landlock: which paths a process may touch. Its three system calls have the same numbers everywhere.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_OF_FILES = (1 << 1) | _READ_FILE | (1 << 14)
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The rights on files that each version of the interface knows."""
_NO_EXECUTE = ~1


def restrict_paths(readable: Iterable[str], scratch: str) -> bool:
    """Reading below ``readable``, everything but running programs below ``scratch``; nothing elsewhere."""
    libc = _libc()
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    rights = max(mask for since, mask in _RIGHTS_BY_ABI.items() if since <= abi)
    fields = [rights] + ([0b11] if abi >= 4 else []) + ([0b11] if abi >= 6 else [])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    _allow(libc, ruleset, scratch, rights & _NO_EXECUTE)
    _allow(libc, ruleset, "/dev/null", rights & _OF_FILES)
    for path in readable:
        _allow(libc, ruleset, path, _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done: int = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return done == 0


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, beneath), 0)
    os.close(beneath)


# Seccomp: a filter over system calls, by number, which differ between machines. What it refuses:
# network, other programs and processes, signals to others, what outlives the process (System V IPC),
# whatever could loosen the other layers, and io_uring, which would go past the filter.
_REFUSED = {
    "x86_64": (
        (41, 42, 43, 46, 49, 50, 288, 307),  # socket connect accept sendmsg bind listen accept4 sendmmsg
        (57, 58, 59, 322),  # fork vfork execve execveat
        (62, 200, 129, 297),  # kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
        (101, 310, 311),  # ptrace process_vm_readv process_vm_writev
        (29, 64, 68, 240),  # shmget semget msgget mq_open
        (92, 93, 94, 260, 188, 189, 190, 197, 198, 199, 133, 259),  # chown setxattr removexattr mknod
        (
            272,
            308,
            165,
            166,
            155,
            161,
            157,
            160,
        ),  # unshare setns mount umount2 pivot_root chroot prctl setrlimit
        (321, 298, 250, 248, 249, 323, 300, 303, 304),  # bpf perf keyctl userfaultfd fanotify handles
        (
            175,
            313,
            246,
            320,
            169,
            167,
            168,
            164,
            227,
            159,
            305,
            170,
            171,
            172,
            173,
            163,
            179,
            103,
        ),  # the machine
    ),
    "aarch64": (
        (198, 203, 202, 211, 200, 201, 242, 269),
        (221, 281),
        (129, 130, 138, 240),
        (117, 270, 271),
        (194, 190, 186, 180),
        (54, 55, 5, 6, 7, 14, 15, 16, 33),
        (97, 268, 40, 39, 41, 51, 167, 164),
        (280, 241, 219, 217, 218, 282, 262, 264, 265),
        (105, 273, 104, 294, 142, 224, 225, 170, 112, 171, 266, 161, 162, 89, 60, 116),
    ),
}
_REFUSED_EVERYWHERE = (424, 425, 426, 428, 429, 430, 431, 432, 433, 434, 438, 442)
"""pidfd_send_signal, io_uring, open_tree to fspick, pidfd_open, pidfd_getfd, mount_setattr."""
_CLONE3 = 435
_IGNORED = {"x86_64": (90, 91, 268, 132, 235, 261, 280, 452), "aarch64": (52, 53, 88, 452)}
"""chmod and utime, which Landlock does not cover: without effect, and silent for ``shutil.copy``'s sake."""
_WITH_ARGUMENTS = {"x86_64": (56, 234, 302, 44), "aarch64": (220, 131, 261, 206)}
"""clone, tgkill, prlimit64, sendto."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_Line = tuple[int, int, int, int]


def filter_syscalls() -> bool:
    """Installs the filter for good, for this process and whatever it could become."""
    machine = platform.machine()
    if machine not in _REFUSED:
        return False
    lines = list(_program(machine))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
    libc = _libc()
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0) == 0)


def _program(machine: str) -> Iterator[_Line]:
    """Classic BPF. A comparison jumps over one line when it does not hold."""
    refuse, pretend = (_RETURN, 0, 0, _ERRNO | EPERM), (_RETURN, 0, 0, _ERRNO)
    yield (_LOAD, 0, 0, _ARCH_AT)
    yield (_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER_AT)
    yield from _when(_AT_LEAST, _X32, refuse)
    for group in (*_REFUSED[machine], _REFUSED_EVERYWHERE):
        for number in group:
            yield from _when(_EQUAL, number, refuse)
    for number in _IGNORED[machine]:
        yield from _when(_EQUAL, number, pretend)
    # The C library falls back to clone, whose flags a filter can read.
    yield from _when(_EQUAL, _CLONE3, (_RETURN, 0, 0, _ERRNO | ENOSYS))
    clone, tgkill, prlimit, sendto = _WITH_ARGUMENTS[machine]
    yield from _unless(clone, [(0, _ANY_BIT, CLONE_THREAD)], refuse)
    yield from _unless(tgkill, [(0, _EQUAL, os.getpid())], refuse)
    yield from _unless(prlimit, [(16, _EQUAL, 0), (20, _EQUAL, 0)], refuse)
    yield from _unless(sendto, [(32, _EQUAL, 0), (36, _EQUAL, 0)], refuse)
    yield (_RETURN, 0, 0, _ALLOW)


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
