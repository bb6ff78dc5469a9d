"""A process of ours that answers questions, a line each, and can be ended at any moment.

For work that may take all time and all memory, or end the process that does it: compilers of strangers'
texts, SQL that a model wrote. The child limits itself before it begins; how long it is waited for, and how
much of its answer is read, is decided here. ``poll`` and not ``select``: a server may have more than 1,024
descriptors.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

READY = b"ready"
MAX_START_S = 120.0
IDLE_S = 60.0
"""After so long without a question a child that was told so ends by itself."""
_CHUNK_BYTES = 1 << 16


class LineChild:
    """``python -m MODULE ARGUMENTS``. One question at a time; not safe over threads."""

    def __init__(
        self, module: str, env: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> None:
        """Starts it and waits until it is ready. ``EOFError``, ``TimeoutError``, ``OSError``: it is not."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self.last_used_s = time.monotonic()
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)
        try:
            if self._line(time.monotonic() + MAX_START_S, len(READY) + 1) != READY:
                raise EOFError
        except BaseException:
            self.close()
            raise

    def ask(self, question: bytes, limit_s: float, most_bytes: int) -> bytes:
        """The answer to one line, both without the line's end.

        ``TimeoutError``: none in time. ``EOFError``: the child has ended. ``OverflowError``: its answer is
        longer than ``most_bytes``. After each of them the child is of no use and has to be closed.
        """
        until_s = time.monotonic() + limit_s
        self._write(question + b"\n", until_s)
        answer = self._line(until_s, most_bytes)
        self.last_used_s = time.monotonic()
        return answer

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def lives(self) -> bool:
        """Whether it has not ended so far."""
        return self._process.poll() is None

    def close(self) -> int:
        """Ends it. What it ended with: below zero the signal."""
        with suppress(subprocess.TimeoutExpired):
            # One that has closed its output is about to end by itself, and its own reason tells more.
            self._process.wait(0.2 if self._hung_up() else 0)
        self._process.kill()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()
        return self._process.wait()

    def _hung_up(self) -> bool:
        if self._from.closed:
            return False
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def _write(self, data: bytes, until_s: float) -> None:
        left = memoryview(data)
        while left:
            _wait(self._to.fileno(), select.POLLOUT, until_s)
            try:
                left = left[os.write(self._to.fileno(), left[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise EOFError from None

    def _line(self, until_s: float, most_bytes: int) -> bytes:
        read = bytearray()
        while True:
            _wait(self._from.fileno(), select.POLLIN, until_s)
            chunk = os.read(self._from.fileno(), _CHUNK_BYTES)
            if not chunk:
                raise EOFError
            read += chunk
            if chunk.endswith(b"\n"):
                return bytes(read[:-1])
            if len(read) > most_bytes:
                raise OverflowError


def _wait(descriptor: int, event: int, until_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, until_s - time.monotonic()) * 1e3):
        raise TimeoutError


class LineChildren:
    """At most so many children of one module at once, kept for the next question. Safe over threads."""

    def __init__(self, module: str, at_once: int, env: Mapping[str, str]) -> None:
        self._module, self._env = module, env
        self._places = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._idle: list[LineChild] = []
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    @contextmanager
    def lent(self, wait_s: float) -> Iterator[LineChild]:
        """A child of one's own. It is kept unless the block raises. ``TimeoutError``: none became free."""
        if not self._places.acquire(timeout=wait_s):
            raise TimeoutError
        try:
            child = self._kept() or LineChild(self._module, self._env)
            try:
                yield child
            except BaseException:
                child.close()
                raise
            with self._lock:
                self._idle.append(child)
        finally:
            self._places.release()

    def close(self) -> None:
        """Ends those that wait for a question."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _kept(self) -> LineChild | None:
        """The one used last, well before it ends by itself."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                child = self._idle.pop()
            if child.lives() and time.monotonic() - child.last_used_s < IDLE_S / 2:
                return child
            child.close()

    def _forget(self) -> None:
        """A fork of this program does not talk to its parent's children."""
        self._idle = []
        self._lock = threading.Lock()


def ready() -> int:
    """In the child: says that it is ready. Returns the descriptor of its answers; other printing is lost."""
    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.write(answers, READY + b"\n")
    return answers


def questions(idle_s: float | None = None) -> Iterator[bytes]:
    """In the child: every line of standard input, until it ends or none comes for so long."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    read = bytearray()
    while poll.poll(None if idle_s is None else idle_s * 1e3):
        chunk = os.read(0, _CHUNK_BYTES)
        if not chunk:
            return
        read += chunk
        if chunk.endswith(b"\n"):
            line, read = bytes(read[:-1]), bytearray()
            yield line


def answer(answers: int, line: bytes) -> None:
    """In the child: one answer, whole."""
    left = memoryview(line + b"\n")
    while left:
        left = left[os.write(answers, left) :]
