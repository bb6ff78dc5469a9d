"""Small sockets of one vLLM server, files in a directory that is ours alone (``STEPWELL_VLLM_AHEAD``).

    wake    the engine asks to be woken in so many milliseconds; the API server's process listens and does it
            by a call that every engine answers, because an engine without work sleeps until it is called
    hints-N  what agents have said between two turns; the engine reads it whenever it looks at the time

With data parallelism each rank is an engine in a process N of its own. Which of them has an agent's KV is
known to them alone, so each is told, and a call that wakes one wakes all.

Nothing waits for either: a message that cannot be sent is a promotion that comes later or not at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepwell.policy.types import Caller, Hint
from stepwell.vllm.owner import caller_of, hint_of, params_of

log = logging.getLogger("stepwell.vllm")
VARIABLE = "STEPWELL_VLLM_AHEAD"
WAKE, HINTS = "wake", "hints"
MOST_BYTES = 1 << 16
LONGEST_MS = 3_600_000


def listening(path: Path) -> socket.socket | None:
    """A socket at ``path`` for users who may enter its directory; None: it cannot be made."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        path.unlink(missing_ok=True)  # of an engine that was killed
        one.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        one.close()
        log.warning("%s cannot be made (%s): KV is not fetched ahead of use while vLLM is idle", path, error)
        return None
    return one


def send(path: Path, message: bytes) -> None:
    """Now or never."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, suppress(OSError):
        one.setblocking(False)
        try:
            one.sendto(message, str(path))
        except ConnectionRefusedError:
            path.unlink()  # of an engine that was killed


class EngineEar:
    """The engine's side, in its scheduler's thread."""

    def __init__(self, folder: Path) -> None:
        self._wake, self._path = folder / WAKE, folder / f"{HINTS}-{os.getpid()}"
        self._socket = listening(self._path)

    def ask_to_be_woken(self, in_ms: int) -> None:
        send(self._wake, str(in_ms).encode())

    def hears(self) -> bool:
        """Whether something has come since the last call of ``hints``."""
        if self._socket is None:
            return False
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def hints(self) -> list[tuple[Caller, Hint]]:
        """What has come since the last call."""
        found = []
        while self._socket is not None:
            try:
                said = json.loads(self._socket.recv(MOST_BYTES))
            except BlockingIOError:
                break
            except ValueError:
                continue
            if isinstance(said, dict):
                found.append((caller_of(said), hint_of(said)))
        return found

    def close(self) -> None:
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(OSError):  # the directory is another program's where anything else lies in it
            self._path.unlink(missing_ok=True)
            if not any(self._path.parent.glob(f"{HINTS}-*")):  # the last of the ranks
                self._wake.unlink(missing_ok=True)
                self._path.parent.rmdir()


def engine_ear() -> EngineEar | None:
    """None: nothing would wake this engine."""
    folder = os.environ.get(VARIABLE)
    return EngineEar(Path(folder)) if folder else None


def tell_hint(folder: Path, tenant: str, agent: str, hint: Hint) -> None:
    """The front end's side: what an agent has said between two turns, and that it is looked at now."""
    said = json.dumps(params_of(Caller(tenant, agent=agent), hint)).encode()
    for path in folder.glob(f"{HINTS}-*"):
        send(path, said)
    send(folder / WAKE, b"0")


class Waker:
    """The side of the API server's process, in its event loop. Of what was asked for, the earliest alarm and
    the latest are kept: an engine that is woken between them asks again if it has to."""

    def __init__(self, path: Path, wake: Callable[[], Awaitable[Any]]) -> None:
        self._wake, self._loop = wake, asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._latest_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._rung = False
        self.woken = 0
        self._socket = listening(path)
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        while self._socket is not None:
            try:
                said = self._socket.recv(64)
            except BlockingIOError:
                return
            if said.isdigit() and len(said) < 10:
                self._set(self._loop.time() + min(int(said), LONGEST_MS) / 1000)

    def _set(self, at_s: float) -> None:
        self._latest_s = max(self._latest_s, at_s)
        if self._alarm is not None and self._alarm.when() <= at_s:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(at_s, self._ring, at_s)

    def _ring(self, at_s: float) -> None:
        self._alarm = None
        if self._latest_s > max(at_s, self._loop.time()):  # else this ring is late enough for it as well
            self._set(self._latest_s)
        self._rung = True
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._call())

    async def _call(self) -> None:
        """Once more if it rang meanwhile: the engine may have looked before that was said."""
        while self._rung:
            self._rung = False
            with suppress(Exception):  # an engine that has died is told of elsewhere
                await self._wake()
                self.woken += 1

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._alarm is not None:
            self._alarm.cancel()


class WakerOf:
    """For middleware of vLLM's server: the waker is made when the application is first asked anything."""

    def __init__(self) -> None:
        folder = os.environ.get(VARIABLE)
        self._path = Path(folder) / WAKE if folder else None
        self.waker: Waker | None = None

    def see(self, scope: Any) -> None:
        if self._path is None or self.waker is not None or scope.get("type") != "http":
            return
        engine = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
        if engine is not None:
            self.waker = Waker(self._path, engine.is_sleeping)
