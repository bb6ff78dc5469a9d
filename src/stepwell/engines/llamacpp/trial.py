"""Compiling a client's constraint where it can do no harm: in a child process with a time and a memory limit.

The compiler is recursive: a chain of a few thousand references would end the process by a stack overflow,
and some texts of a hundred bytes keep it busy for seconds. The child has a smaller stack than the server's
threads, so what passes there passes here. Time is the processor's: a machine that is busy with something else
refuses no grammar. One child per server, started when first needed, replaced when it dies.

Run as a module it is the child: one grammar a line on standard input (JSON text), one verdict a line back.
"""

from __future__ import annotations

import json
import resource
import signal
import threading
from contextlib import suppress
from functools import lru_cache

from stepwell.basics.line_child import LineChild, answer, questions, ready

MAX_CPU_SECONDS = 2.5
MAX_WALL_SECONDS = 20.0
"""Only so that a child that neither computes nor ends is not waited for; nothing is concluded from it."""
MAX_MEMORY_BYTES = 2 * 1024**3
STACK_BYTES = 4 * 1024 * 1024
_MOST_BYTES = 1 << 20
_TOO_MUCH = "it takes too much time or memory to compile"
_NOT_NOW = "it could not be compiled in time on this machine as busy as it is now; try again"


class Trial:
    """Say what is wrong with a grammar, or nothing. Thread-safe; one at a time."""

    def __init__(self) -> None:
        self._child: LineChild | None = None
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
            child = self._child = self._child or _started()
            try:
                answer = child.ask(json.dumps(grammar).encode(), MAX_WALL_SECONDS, _MOST_BYTES)
            except (EOFError, OverflowError):
                self.close()
                return _TOO_MUCH
            except BaseException:
                self.close()
                raise
            return str(json.loads(answer))

    def close(self) -> None:
        """End the child; the next grammar starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.close()


def _started() -> LineChild:
    try:
        return LineChild("stepwell.engines.llamacpp.trial")
    except (OSError, EOFError):  # a TimeoutError is an OSError
        raise ChildProcessError("the compiler's process does not start") from None


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

    answers = ready()
    for line in questions():
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)  # whose signal ends the process
        verdict = judge(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer(answers, json.dumps(verdict).encode())


if __name__ == "__main__":
    _serve()
