"""A sandbox for Python that a model wrote: one process per run, locked in, gone when the call returns.

What holds, in layers, each where the system allows it (``describe`` says which are in force here):

- an isolated interpreter (no site packages, no environment, an empty private working directory), limits
  on wall time, processor time, memory, output, and files written;
- an audit hook, which refuses network, processes, foreign files and ``ctypes`` with a clear sentence;
- a network namespace without a network, a folder in memory of its own whose size the kernel holds, Landlock
  (files outside that folder and the standard library cannot be opened) and a seccomp filter that lets
  through the system calls of computing and of files alone (no sockets, no processes, nothing done to other
  processes).

What it is not. The audit hook alone stops accidents and stops a model; it does not stop a person who
knows CPython: where neither Landlock nor seccomp is in force, do not run code of people you do not trust.
With them the boundary is the kernel's, which shares its faults with every container. The code can see
which files exist and how large they are, the time, and how much the machine has of everything. Code under
test shares its process with the tests: one that sets out to cheat can.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.agents.tools import confine, sandbox_child, syscalls
from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.workspace import Limits, Workspace

START_S = 30.0
"""An interpreter that locks itself in takes 0.1 s, and many times that on a busy machine. The time of
the code begins after it."""
WATCH_S = 0.1
DRAIN_S = 1.0
MAX_FILES = 5_000
READ_BYTES = 65_536
REPORT_FACTOR = 8
"""The report holds a value and verdicts besides what is printed."""


@dataclass(frozen=True, slots=True)
class SandboxRun:
    """What came of one run."""

    printed: str
    """Standard output and standard error, as they came."""
    reports: tuple[Mapping[str, Any], ...]
    """What the child said about it, in order."""
    ended: str | None
    """Why the run was ended before the code was done, or None."""

    def said(self, key: str) -> Any:
        """The last thing that was reported under this key, or None."""
        return next((report[key] for report in reversed(self.reports) if key in report), None)


async def run_python(
    code: str, workspace: Workspace, *, tests: str | None = None, without: tuple[str, ...] = ()
) -> SandboxRun:
    """Runs ``code``, and ``tests`` after it, in a new process that is dead when this returns or raises.

    ``without`` leaves out layers by name, to see that the others hold. ``ToolError`` for code that is
    longer than the workspace's limit, and when no process can be started.
    """
    limits = workspace.limits
    if max(len(code), len(tests or "")) > limits.code_chars:
        raise ToolError(f"the code is longer than {limits.code_chars} characters")
    workspace.directory.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="python-", dir=workspace.directory)).resolve()
    try:
        run = await _in_process(_job(code, tests, scratch, limits, without), scratch, limits)
    finally:
        _remove(scratch)
    if run.said("layers") is None:
        why = run.printed.strip().rpartition("\n")[2] or run.ended or "it said nothing"
        raise ToolError(f"the sandbox could not be started: {why}")
    return run


def _job(
    code: str, tests: str | None, scratch: Path, limits: Limits, without: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "code": code,
        "tests": tests,
        "confine": confine.__file__,
        "syscalls": syscalls.__file__,
        "files": MAX_FILES,
        "scratch": str(scratch),
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.scratch_bytes,
        "without": without,
        # Lines without it are the code's own writing. It keeps honest code honest, no more.
        "key": secrets.token_hex(8),
    }


async def _in_process(job: dict[str, Any], scratch: Path, limits: Limits) -> SandboxRun:
    # Output has a pipe of our own, as the report has: asyncio's own pipe that is not emptied any more keeps
    # ``process.wait`` from returning, however dead the process is.
    (read_end, write_end), (output_end, print_end) = os.pipe(), os.pipe()
    job["report"] = write_end
    try:
        process = await _start(write_end, print_end)
    except OSError as error:
        os.close(read_end)
        os.close(output_end)
        raise ToolError(f"the sandbox could not be started: {error.strerror}") from error
    finally:
        os.close(write_end)
        os.close(print_end)
    try:
        return await _watched(process, job, read_end, output_end, scratch, limits)
    finally:
        _kill(process)
        await asyncio.shield(process.wait())


async def _start(write_end: int, print_end: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-B", "-X", "utf8", sandbox_child.__file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=print_end,
        stderr=asyncio.subprocess.STDOUT,
        env={},
        pass_fds=(write_end,),
        start_new_session=True,
    )


def _kill(process: asyncio.subprocess.Process) -> None:
    """The whole process group: where seccomp is not in force the code may have children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _watched(
    process: asyncio.subprocess.Process,
    job: dict[str, Any],
    read_end: int,
    output_end: int,
    scratch: Path,
    limits: Limits,
) -> SandboxRun:
    printed, said = bytearray(), bytearray()
    report, transport = await _reader(read_end)
    output, output_transport = await _reader(output_end)
    over_output = asyncio.ensure_future(_read(output, printed, limits.output_bytes))
    begun = asyncio.Event()
    over_report = asyncio.ensure_future(_read(report, said, limits.output_bytes * REPORT_FACTOR, begun))
    over_files = asyncio.ensure_future(_watch(process.pid, scratch, limits.scratch_bytes))
    exited = asyncio.ensure_future(_fed(process, json.dumps(job).encode()))
    try:
        ended = await _first_end(begun, exited, over_output, over_report, over_files, limits)
        _kill(process)
        await asyncio.wait({over_output, over_report}, timeout=DRAIN_S)
    finally:
        for task in (over_output, over_report, over_files, exited):
            task.cancel()
        transport.close()
        output_transport.close()
    text = printed[: limits.output_bytes].decode("utf-8", "replace")
    return SandboxRun(text, _reports(bytes(said), job["key"]), ended)


async def _reader(read_end: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    pipe = os.fdopen(read_end, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def _fed(process: asyncio.subprocess.Process, job: bytes) -> int:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job)
        await process.stdin.drain()
    process.stdin.close()
    return await process.wait()


async def _read(
    stream: asyncio.StreamReader, into: bytearray, limit: int, begun: asyncio.Event | None = None
) -> bool:
    """True when there was more than ``limit``. Sets ``begun`` at the first byte."""
    while data := await stream.read(READ_BYTES):
        into += data
        if begun is not None:
            begun.set()
        if len(into) > limit:
            return True
    return False


async def _watch(pid: int, scratch: Path, limit: int) -> None:
    """Returns when the files together are too large or too many.

    For systems without the private folder, where the kernel limits only each of them.
    """
    while _size(scratch) + _nameless(pid) <= limit:
        await asyncio.sleep(WATCH_S)


def _nameless(pid: int) -> int:
    """Bytes of files that the process holds open and that have no name any more, memfd among them."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = Path(entry.path).stat()
                total += found.st_size if stat.S_ISREG(found.st_mode) and not found.st_nlink else 0
    return total


def _size(scratch: Path) -> float:
    total, count, folders = 0, 0, [str(scratch)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue  # the code removed it meanwhile
        except OSError:
            return float("inf")  # nested so deep that no path leads there
        if count > MAX_FILES:
            return float("inf")
    return total


async def _first_end(
    begun: asyncio.Event,
    exited: asyncio.Future[int],
    over_output: asyncio.Future[bool],
    over_report: asyncio.Future[bool],
    over_files: asyncio.Future[None],
    limits: Limits,
) -> str | None:
    """Waits for the process to end, or for the first reason to end it."""
    waiting: set[asyncio.Future[Any]] = {exited, over_output, over_report, over_files}
    if not await _within(START_S, begun, exited):
        return f"it had not begun after {START_S:g} s"
    deadline = asyncio.get_running_loop().time() + limits.wall_s
    while True:
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if over_files in done:
            return f"it wrote more than {limits.scratch_bytes} bytes or {MAX_FILES} files"
        if any(one in done and one.result() for one in (over_output, over_report)):
            return f"it printed more than {limits.output_bytes} bytes"
        if exited.done():
            return _exit_sentence(exited.result(), limits)
        if not done:
            return f"it was still running after {limits.wall_s:g} s"


async def _within(limit_s: float, begun: asyncio.Event, exited: asyncio.Future[int]) -> bool:
    """Whether the child says that it is locked in, or has ended, in so many seconds."""
    waiting = asyncio.ensure_future(begun.wait())
    try:
        either: set[asyncio.Future[Any]] = {waiting, exited}
        done, _ = await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return bool(done)


def _exit_sentence(code: int, limits: Limits) -> str | None:
    if code == 0:
        return None
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        return f"it used more than {limits.cpu_s} s of processor time, or was killed"
    if code == -signal.SIGXFSZ:
        return f"it wrote more than {limits.scratch_bytes} bytes"
    if code < 0:
        return f"it crashed the interpreter ({signal.Signals(-code).name})"
    return f"it ended the interpreter with code {code}"


def _reports(said: bytes, key: str) -> tuple[Mapping[str, Any], ...]:
    found = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            report = json.loads(line)
            if isinstance(report, dict) and report.pop("key", None) == key:
                found.append(report)
    return tuple(found)


def _remove(scratch: Path) -> None:
    try:
        shutil.rmtree(scratch, ignore_errors=True)
    except RecursionError:
        # Folders nested thousands deep: rm climbs down without recursion.
        subprocess.run(["rm", "-rf", "--", str(scratch)], check=False, timeout=30)


async def describe(workspace: Workspace) -> str:
    """Which layers are in force on this machine, found by asking for them, and what that means."""
    layers = (await run_python("", workspace)).said("layers") or ["none: the sandbox does not start here"]
    kernel = {"landlock", "seccomp"} <= set(layers)
    meaning = (
        "files and network are closed by the kernel"
        if kernel
        else "not a boundary against hostile code: landlock or seccomp is missing"
    )
    return f"python sandbox: {', '.join(layers)} ({meaning})"
