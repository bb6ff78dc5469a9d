"""Compiling a client's constraint where it can do no harm: in a child process with a time and a memory limit.

The compiler is recursive: a chain of a few thousand references would end the process by a stack overflow,
and some texts of a hundred bytes keep it busy for seconds. The child has a smaller stack than the server's
threads, so what passes there passes here. Time is the processor's: a machine that is busy with something else
refuses nobody's grammar. One child per server, started when first needed, replaced when it dies.

Run as a module it is the child: one grammar a line on standard input (JSON text), one verdict a line back.
"""

from __future__ import annotations

import json
import resource
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache

MAX_CPU_SECONDS = 2.5
MAX_WALL_SECONDS = 20.0
"""Only so that a child that neither computes nor ends is not waited for; nothing is concluded from it."""
MAX_START_SECONDS = 120.0
MAX_MEMORY_BYTES = 2 * 1024**3
STACK_BYTES = 4 * 1024 * 1024
_READY = "ready"
_TOO_MUCH = "it takes too much time or memory to compile"
_NOT_NOW = "it could not be compiled in time on this machine as busy as it is now; try again"


class Trial:
    """Say what is wrong with a grammar, or nothing. Thread-safe; one at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.verdict = lru_cache(maxsize=1024)(self._try)

    def __call__(self, grammar: str) -> str:
        try:
            return self.verdict(grammar)
        except TimeoutError:  # which is not kept: the next one may be luckier
            return _NOT_NOW
        except ChildProcessError as error:  # nor is this
            return str(error)

    def _try(self, grammar: str) -> str:
        with self._lock:
            child = self._child or self._start()
            if child is None:
                raise ChildProcessError("the compiler's process does not start")
            answer = ""
            try:
                answer = _ask(child, json.dumps(grammar), MAX_WALL_SECONDS)
            finally:
                if not answer:
                    self.close()
            return str(json.loads(answer)) if answer else _TOO_MUCH

    def _start(self) -> subprocess.Popen[str] | None:
        child = subprocess.Popen(
            [sys.executable, "-m", "stepwell.engines.llamacpp.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._child = child
        try:
            ready = _line(child, MAX_START_SECONDS)
        except TimeoutError:
            ready = ""
        if ready != _READY:
            self.close()
        return self._child

    def close(self) -> None:
        """End the child; the next grammar starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            child.wait()


def _ask(child: subprocess.Popen[str], line: str, seconds: float) -> str:
    """The answer; empty when the child has ended. ``TimeoutError`` when there is none in time."""
    assert child.stdin is not None
    try:
        child.stdin.write(line + "\n")
        child.stdin.flush()
    except OSError:
        return ""
    return _line(child, seconds)


def _line(child: subprocess.Popen[str], seconds: float) -> str:
    """The next line; empty when the child has ended. ``TimeoutError`` when none comes in time."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], seconds)[0]:
        raise TimeoutError
    return child.stdout.readline().rstrip("\n")


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))


def _serve() -> None:
    """The child: judge until standard input ends."""
    _limit()
    from stepwell.engines.llamacpp.judge import judge

    sys.stdout.write(_READY + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)  # whose signal ends the process
        verdict = judge(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
