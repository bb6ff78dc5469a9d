"""An MCP server as a process: its lines in and out, and what it says beside, all of bounded size.

As the official package's own transport (close its input, wait, SIGTERM, SIGKILL, the whole process group),
but what a server writes without end costs neither memory nor disk nor a core: a line has a longest length,
many lines in a row that are no messages end it, both pipes are read no faster than ``BYTES_PER_S``, its log
keeps the beginning.

Source: modelcontextprotocol.io, specification 2025-11-25, transports and lifecycle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, Process

from stepwell.basics.private import private_file

MOST_LINE_BYTES = 16 << 20
"""Of one message; a file of 12 MiB in base64."""
MOST_NOISE_LINES = 10_000
"""In a row, of what is no message."""
BYTES_PER_S = 32 << 20
MOST_LOG_BYTES = 1 << 20
"""Of the file that keeps what a server says beside."""
MOST_LAST_BYTES = 4_096
"""Of the end of it, for a sentence."""
LOG_EVERY_S = 60.0
LEAVE_S, TERM_S, KILL_S = 2.0, 2.0, 2.0
FLUSH_S = 0.5
LOOK_S = 0.01
_READ_BYTES = 65_536
# No more than what every program needs, as the package has it.
_INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")

log = logging.getLogger("stepwell.agents")


class ServerLog:
    """What one server says beside, over all its lives: a file of bounded size, and the end in memory."""

    def __init__(self, name: str, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self.last = b""
        """The end of what it wrote."""
        self.left_out_bytes = 0
        self._name, self._path, self._now_s = name, path, now_s
        self._written = path.stat().st_size if path.exists() else 0
        self._said_s: float | None = None

    def write(self, data: bytes) -> None:
        """Raises ``OSError``."""
        self.last = (self.last + data)[-MOST_LAST_BYTES:]
        room = max(0, MOST_LOG_BYTES - self._written)
        if kept := data[:room]:
            with private_file(self._path) as file:
                file.seek(0, os.SEEK_END)
                file.write(kept)
            self._written += len(kept)
        if len(data) > room:
            self.left_out_bytes += len(data) - room
            self._warn()

    def _warn(self) -> None:
        now_s = self._now_s()
        if self._said_s is None or now_s - self._said_s >= LOG_EVERY_S:
            self._said_s = now_s
            log.warning(
                "the MCP server %s writes much: of its log the first %d bytes are kept, %d were left out",
                self._name, MOST_LOG_BYTES, self.left_out_bytes,
            )  # fmt: skip


class _Pace:
    """Reading no faster than so many bytes a second: a server that writes faster waits."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._ahead_s = 0.0
        self._last_s = anyio.current_time()

    async def took(self, size: int) -> None:
        now_s = anyio.current_time()
        self._ahead_s = max(0.0, self._ahead_s - (now_s - self._last_s)) + size / self._bytes_per_s
        self._last_s = now_s
        if self._ahead_s > 0.1:
            await anyio.sleep(self._ahead_s)


@asynccontextmanager
async def stdio(
    command: str, args: Sequence[str], env: Mapping[str, str], folder: Path | None, beside: ServerLog
) -> AsyncIterator[tuple[Any, Any]]:
    """Its messages as a stream, and a stream for ours. Raises ``OSError`` where it cannot be started."""
    process = await anyio.open_process(
        [command, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(env),
        cwd=folder,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    incoming_end, incoming = anyio.create_memory_object_stream[Any](0)
    outgoing, outgoing_end = anyio.create_memory_object_stream[Any](0)
    written = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read_messages, process.stdout, incoming_end, beside)
        tasks.start_soon(_read_beside, process.stderr, beside)
        tasks.start_soon(_write_messages, process, outgoing_end, incoming_end, written)
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                incoming.close()
                outgoing.close()
                with anyio.move_on_after(FLUSH_S):
                    await written.wait()
                await _end(process)
                for stream in (incoming_end, outgoing_end):
                    stream.close()
            tasks.cancel_scope.cancel()
    # One round of the loop, in which the pipes of the process are closed.
    await anyio.lowlevel.cancel_shielded_checkpoint()


async def _read_messages(pipe: ByteReceiveStream, to: Any, beside: ServerLog) -> None:
    """Whatever is wrong with a line is the reader's; what is too much ends the connection."""
    try:
        async with to:
            await _lines(pipe, to, beside)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
        pass
    # There is no reader any more: what still comes is thrown away, so that the process can end.
    await _drain(pipe)


async def _lines(pipe: ByteReceiveStream, to: Any, beside: ServerLog) -> None:
    pace, rest, noise = _Pace(BYTES_PER_S), bytearray(), 0
    while True:
        data = await pipe.receive(_READ_BYTES)
        await pace.took(len(data))
        first, *others = data.split(b"\n")
        rest += first
        for line in others:
            item = _message(bytes(rest))
            noise = noise + 1 if isinstance(item, Exception) else 0
            rest = bytearray(line)
            if noise > MOST_NOISE_LINES:
                beside.write(b"\n[ended: it writes lines that are no messages]\n")
                return
            await to.send(item)
        if len(rest) > MOST_LINE_BYTES:
            beside.write(b"\n[ended: a line of more than %d bytes]\n" % MOST_LINE_BYTES)
            return


def _message(line: bytes) -> Any:
    import mcp_types
    from mcp.shared.message import SessionMessage

    try:
        text = line.decode("utf-8", "replace")
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(text, by_name=False))
    except ValueError as error:
        return error


async def _read_beside(pipe: ByteReceiveStream, beside: ServerLog) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
        pace = _Pace(BYTES_PER_S)
        while True:
            data = await pipe.receive(_READ_BYTES)
            with suppress(OSError):  # a full disk is no reason to keep it waiting
                beside.write(data)
            await pace.took(len(data))


async def _drain(pipe: ByteReceiveStream) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
        pace = _Pace(BYTES_PER_S)
        while True:
            await pace.took(len(await pipe.receive(_READ_BYTES)))


async def _write_messages(process: Process, source: Any, incoming_end: Any, written: anyio.Event) -> None:
    assert process.stdin is not None
    try:
        async with source:
            async for item in source:
                line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send(line.encode("utf-8", "replace") + b"\n")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        incoming_end.close()  # a request must not wait for an answer to what was never sent
    finally:
        written.set()


async def _end(process: Process) -> None:
    """Politely first. Returns when it is gone, or after the last wait."""
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await process.stdin.aclose()
    for wait_s, number in ((LEAVE_S, None), (TERM_S, signal.SIGTERM), (KILL_S, signal.SIGKILL)):
        if number is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        if await _has_ended(process, wait_s):
            break
    for pipe in (process.stdout, process.stderr):
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            if pipe is not None:
                await pipe.aclose()
    # Which closes the descriptors as well; nothing public does while a grandchild holds the other end.
    transport = getattr(getattr(process, "_process", None), "_transport", None)
    if isinstance(transport, asyncio.SubprocessTransport):
        with suppress(PermissionError):
            transport.close()


async def _has_ended(process: Process, within_s: float) -> bool:
    """Not ``process.wait``: it also waits for pipes that a grandchild may hold."""
    until_s = anyio.current_time() + within_s
    while process.returncode is None:
        if anyio.current_time() >= until_s:
            return False
        await anyio.sleep(LOOK_S)
    return True
