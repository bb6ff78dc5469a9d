"""What the Linux kernel can be asked to hold a process to, with nothing installed and no privilege.

Runs inside the sandbox's child, before the code does: standard library only, one thread. Each function
says whether its layer is in force; none raises, because a kernel may be old, or another system's.

The filter of system calls is next door, in ``syscalls``.

Sources: landlock(7), user_namespaces(7), network_namespaces(7), mount_namespaces(7), tmpfs(5), setrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIGKILL = 9
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWNS = 0x10000000, 0x40000000, 0x08000000, 0x20000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
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
    # Without a map every file would have no owner, and none could be made.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def private_folder(path: str, size_bytes: int, files: int) -> bool:
    """A file system in memory at ``path`` that no other process sees, whose size the kernel holds.

    What is open and has no name any more counts as well. Needs the namespaces of ``leave_network``, or the
    superuser's rights.
    """
    libc = _libc()
    if libc.unshare(CLONE_NEWNS) != 0:
        return False
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return False
    options = f"size={size_bytes},nr_inodes={files},mode=700".encode()
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    return bool(libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options) == 0)


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
