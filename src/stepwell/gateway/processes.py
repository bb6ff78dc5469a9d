"""Nodes that are started here: ``stepwell serve`` in processes of their own, started again when they end.

A node outlives a front end that is killed. The next front end of the same deployment finds it by a note in
the node's directory, asks it whether it is well, and takes it over instead of starting a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stepwell.basics.private import private_parent
from stepwell.errors import StepwellError

log = logging.getLogger("stepwell.gateway")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LIVED_S = 60.0
"""A node that has lived for so long is started again at once when it ends."""
LOOK_S = 0.05
EXEC_LOOKS, EXEC_LOOK_S = 20, 0.002
SERVE = (sys.executable, "-P", "-m", "stepwell", "serve")
NOTE = "node.json"
LOG = "node.log"
TAIL_BYTES = 2_000


class NodeProcess:
    """One node's process, from start to stop, over as many lives as it takes."""

    def __init__(
        self,
        name: str,
        folder: Path,
        host: str,
        port: int,
        environment: Mapping[str, str],
        command: Sequence[str] = SERVE,
    ) -> None:
        """``port`` 0: any free one, chosen once and kept."""
        self.name, self._folder, self._host = name, folder, host
        self._environment = dict(environment)
        self.port = port
        self._command = list(command)
        self.pid: int | None = None
        self.starts = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def adopt(self) -> bool:
        """Take over the process of an earlier front end, if it is still there."""
        try:
            note = json.loads((self._folder / NOTE).read_text(encoding="utf-8"))
            pid, port = int(note["pid"]), int(note["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if not _is_node(pid, port) or (self.port and port != self.port):
            return False
        self.pid, self.port = pid, port
        return True

    def start(self) -> None:
        """Raises ``StepwellError`` with one sentence."""
        note = self._folder / NOTE
        private_parent(note)
        self.port = self.port or _free_port(self._host)
        environment = self._environment | {"STEPWELL_SERVER_PORT": str(self.port)}
        try:
            with (self._folder / LOG).open("ab") as output:
                self._child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is the front end's to pass on, after it has drained
                )
        except OSError as error:
            raise StepwellError(f"node {self.name} cannot be started: {error.strerror}") from error
        self.pid, self.starts = self._child.pid, self.starts + 1
        note.write_text(json.dumps({"pid": self.pid, "port": self.port}), encoding="utf-8")

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None and _is_node(self.pid, self.port)

    async def ended(self) -> None:
        """Returns when the process is gone."""
        while self.alive():
            await asyncio.sleep(LOOK_S)

    async def stop(self, within_s: float) -> None:
        """SIGTERM, on which the node drains and keeps its KV on disk; SIGKILL after ``within_s``."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                await self.ended()
        except TimeoutError:
            log.warning("node %s did not end within %.0f s and is killed", self.name, within_s)
            self._signal(signal.SIGKILL)
            await self.ended()
        with contextlib.suppress(OSError):
            (self._folder / NOTE).unlink()

    def _signal(self, number: int) -> None:
        if self.pid is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def last_words(self) -> str:
        """The end of its log, in one line."""
        return self.log_tail(TAIL_BYTES).strip().rpartition("\n")[2].strip()

    def log_tail(self, most_bytes: int) -> str:
        """The end of its log."""
        try:
            with (self._folder / LOG).open("rb") as log_file:
                log_file.seek(max(0, log_file.seek(0, os.SEEK_END) - most_bytes))
                return log_file.read().decode(errors="replace")
        except OSError:
            return ""


class Supervisor:
    """Keeps one node's process running until it is cancelled or ``stopping``."""

    def __init__(self, process: NodeProcess, lost: Callable[[], None], restarted: Callable[[], None]) -> None:
        self.process = process
        self._lost, self._restarted = lost, restarted
        self.stopping = False
        self.lock = asyncio.Lock()
        """Held while the process is stopped and started on purpose."""

    async def run(self) -> None:
        """Restarts with a pause that doubles while lives are short."""
        pause_s = FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            await self.process.ended()
            async with self.lock:
                if self.stopping:
                    return
                if self.process.alive():
                    continue
                self._lost()
                pause_s = FIRST_PAUSE_S if time.monotonic() - started_s >= LIVED_S else pause_s * 2
                said = self.process.last_words()
                log.warning("node %s has ended and is started again: %s", self.process.name, said)
                await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
                self.process.start()
                self._restarted()


def _is_node(pid: int, port: int) -> bool:
    """Whether the process is one of ours (its number may be another program's by now)."""
    wanted = f"STEPWELL_SERVER_PORT={port}".encode()
    try:
        words, environment = _started_with(Path(f"/proc/{pid}"))
    except OSError:
        return False
    return b"stepwell" in words and wanted in environment


def _started_with(place: Path) -> tuple[list[bytes], list[bytes]]:
    """Command line and environment of a process; empty for a zombie. In the middle of ``exec`` it has neither
    for a moment, although the process that started it goes on already."""
    for _ in range(EXEC_LOOKS):
        state = (place / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
        words, environment = ((place / name).read_bytes() for name in ("cmdline", "environ"))
        if state == "Z" or (words and environment):
            break
        time.sleep(EXEC_LOOK_S)
    return words.split(b"\0"), environment.split(b"\0")


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
