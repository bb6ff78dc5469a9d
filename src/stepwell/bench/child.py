"""A process of a measurement: it says lines, and is killed at any moment.

Everything that a benchmark kills, or keeps apart from what it measures, is ``python -m MODULE WORDS...`` and
talks by whole lines. A kill may cut the last one; then that line was not said.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

from stepwell.errors import StepwellError


class Child:
    """Runs until it ends or the block does. What it complains of (standard error) is told when it fails."""

    def __init__(
        self, module: str, *words: object, hears: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        """``hears``: it reads its standard input, to which ``tell`` writes."""
        self.name = module.rpartition(".")[2]
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            stdin=subprocess.PIPE if hears else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=env,
        )
        assert self._process.stdout is not None
        self._said = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def line(self) -> str:
        """The next whole line. ``StepwellError`` when it has ended without one."""
        line = self._said.readline()
        if not line.endswith("\n"):
            raise self.failure("said nothing more")
        return line.rstrip("\n")

    def lines(self) -> Iterator[str]:
        """Every further whole line, until it ends."""
        return (line.rstrip("\n") for line in self._said if line.endswith("\n"))

    def json_lines(self) -> Iterator[dict[str, Any]]:
        """Every further line that is an object."""
        for line in self.lines():
            with suppress(ValueError):
                yield json.loads(line)

    def expect(self, word: str) -> None:
        """Its next line must contain this. ``StepwellError`` when it does not."""
        if word not in (said := self.line()):
            raise self.failure(f"said {said!r} instead of {word!r}")

    def tell(self, line: str) -> None:
        """A line to its standard input. ``StepwellError`` when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self.failure("does not hear") from error

    def hang_up(self) -> None:
        """Nothing more is told to it."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> int:
        """SIGKILL, unless it has ended. What it ended with; below zero: the signal. Its lines can be read."""
        self._process.kill()
        return self._process.wait()

    def wait(self, timeout_s: float | None = None) -> int:
        """Until it ends by itself. What it ended with. ``StepwellError`` when that takes too long."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"did not end within {timeout_s:.0f} s") from error

    def failure(self, what: str) -> StepwellError:
        """What went wrong, with the last of its complaints."""
        self._complaints.seek(0)
        told = self._complaints.read().decode(errors="replace").strip().splitlines()
        reason = f": {told[-1]}" if told else ""
        return StepwellError(f"the process {self.name} of the benchmark {what}{reason}")
