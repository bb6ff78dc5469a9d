"""What happens to the server. Each fault begins, lasts a moment, ends, and the server must be well again."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwell.bench.chaos.tally import ChaosTally
from stepwell.bench.chaos.target import HEALTHY_S, ChaosTarget, Window
from stepwell.bench.ledger.postgres_server import PostgresServer

HOUR_NS = 3_600 * 10**9
STATE_MIB = 192
"""Size of the file system that is filled: more than KV on disk takes with either engine."""
SILENT, HALF_HEADS, LEAVERS = 150, 50, 60
"""Connections of a storm: that say nothing, that stop in the middle of a head, whose client leaves."""


@dataclass(slots=True)
class Scene:
    """What a fault may touch."""

    target: ChaosTarget
    tally: ChaosTally
    dice: random.Random
    longest_s: float
    """How long a fault lasts at most."""
    tmpfs: bool = False
    """``target.home`` is a small file system of its own, which can be filled and made read-only."""
    postgres: PostgresServer | None = None

    @property
    def books(self) -> Path:
        return Path(self.target.ledger)

    def last(self, *, may_kill: bool = True) -> None:
        """The fault lasts; now and then the server is killed in the middle of it, and started into it."""
        seconds = self.longest_s * self.dice.uniform(0.2, 1.0)
        if may_kill and self.dice.random() < 0.3:
            time.sleep(seconds / 2)
            self.tally.count("kills inside another fault")
            _kill(self)
        time.sleep(seconds)


Act = Callable[[Scene], None]


# --- the process ---------------------------------------------------------------------------------


def _kill(scene: Scene) -> None:
    scene.target.kill()
    time.sleep(scene.dice.random() * 0.5)
    scene.target.start()


def _restart(scene: Scene) -> None:
    scene.target.terminate()
    scene.target.start()


def _freeze(scene: Scene) -> None:
    scene.target.freeze(scene.longest_s * scene.dice.uniform(0.2, 1.0))


def _clock(scene: Scene) -> None:
    """Forward or back, by a second or by more than a year."""
    hours = scene.dice.choice((0.0003, 1, 8, 24 * 400))
    scene.target.control.clock_offset_ns = int(scene.dice.choice((-1, 1)) * hours * HOUR_NS)
    scene.last()
    scene.target.control.clock_offset_ns = 0


# --- the disk ------------------------------------------------------------------------------------


def _slow_disk(scene: Scene) -> None:
    scene.target.control.disk_delay_us = scene.dice.randint(20_000, 400_000)
    scene.last()
    scene.target.control.disk_delay_us = 0


def _writes_fail(scene: Scene) -> None:
    """No file of this process may grow or be written: the kernel answers EFBIG, as a quota answers EDQUOT."""
    process = scene.target.process
    if process is None:
        return
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    scene.last()
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)


def _disk_full(scene: Scene) -> None:
    filler = scene.target.home / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            for _ in range(STATE_MIB * 16):
                while file.write(bytes(1 << 16)) == 1 << 16:
                    pass
        scene.last()
    finally:
        filler.unlink(missing_ok=True)


def _read_only_start(scene: Scene) -> None:
    """It must say so in a sentence, or serve what needs no disk; and start when it may write again."""
    scene.target.terminate()
    _remount(scene.target.home, "ro")
    try:
        scene.target.start()
        if scene.target.running:
            scene.target.terminate()
    finally:
        _remount(scene.target.home, "rw")
    scene.target.start()


def _remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True, stdout=subprocess.DEVNULL)


def _damaged_kv(scene: Scene) -> None:
    """Bits of KV records flip while the server runs: a miss, never another answer."""
    for path in sorted((scene.target.home / "kv").glob("v*/*.kv")):
        if scene.dice.random() < 0.3:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                size = path.stat().st_size
                file.seek(scene.dice.randrange(max(1, size)))
                byte = file.read(1) or b"\0"
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes((byte[0] ^ 1 << scene.dice.randrange(8),)))
                scene.tally.count("KV records damaged")


# --- the books -----------------------------------------------------------------------------------


def _books_locked(scene: Scene) -> None:
    """Another process writes to them and takes its time."""
    connection = sqlite3.connect(scene.books, isolation_level=None, timeout=10.0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        scene.last(may_kill=False)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _books_moved_away(scene: Scene) -> None:
    """Deleted under a running server, which says so; put back, everything is entered."""
    hidden = scene.books.with_name("moved-away.db")
    scene.books.rename(hidden)
    try:
        scene.last(may_kill=False)
        if scene.target.health() == (200, "ok"):
            scene.tally.wrong("deleted books", "/health said ok while the books were gone")
    finally:
        hidden.rename(scene.books)


def _books_truncated(scene: Scene) -> None:
    """What is left of them is no ledger: no server starts on it, and with the copy put back it does."""
    scene.target.kill()
    files = [scene.books.with_name(scene.books.name + end) for end in ("", "-wal", "-shm")]
    copies = scene.target.scratch / "copies"
    copies.mkdir(exist_ok=True)
    for file in files:
        if file.exists():
            shutil.copy2(file, copies / file.name)
    size = scene.books.stat().st_size
    with scene.books.open("r+b") as books:
        books.write(scene.dice.randbytes(64))
        books.truncate(int(size * scene.dice.random()))
    for file in files[1:]:
        file.unlink(missing_ok=True)
    if scene.target.start():
        scene.tally.wrong("damaged books", "a server started on books that are no ledger")
        scene.target.kill()
    for file in files:
        file.unlink(missing_ok=True)
        if (copies / file.name).exists():
            shutil.copy2(copies / file.name, file)
    shutil.rmtree(copies)
    scene.target.start()


def _postgres_restart(scene: Scene) -> None:
    assert scene.postgres is not None
    scene.postgres.stop(at_once=scene.dice.random() < 0.5)
    scene.last(may_kill=False)
    scene.postgres.start()


# --- clients -------------------------------------------------------------------------------------


def _storm(scene: Scene) -> None:
    """Hundreds of connections: silent ones, half heads, and clients that leave before their answer."""
    with contextlib.ExitStack() as stack:
        for number in range(SILENT + HALF_HEADS):
            with contextlib.suppress(OSError):
                one = stack.enter_context(_connected(scene.target.port))
                if number >= SILENT:
                    one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        for number in range(LEAVERS):
            with contextlib.suppress(OSError):
                agent = (f"storm-{time.monotonic_ns()}-{number}", "lead")
                scene.tally.attempt(agent)
                stack.enter_context(_connected(scene.target.port)).sendall(_request(agent))
        scene.last(may_kill=False)
    scene.tally.count("connections of storms", SILENT + HALF_HEADS + LEAVERS)


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10.0)


def _request(agent: tuple[str, str]) -> bytes:
    body = b'{"prompt": "a storm of clients", "max_tokens": 200, "ignore_eos": true, "stream": true}'
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Session-ID: {agent[0]}\r\nX-Agent-ID: {agent[1]}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# --- all of them ---------------------------------------------------------------------------------

PROCESS: dict[str, Act] = {"kill": _kill, "restart": _restart, "freeze": _freeze, "clock": _clock}
ANYWHERE: dict[str, Act] = {
    **PROCESS,
    "slow disk": _slow_disk,
    "writes fail": _writes_fail,
    "damaged KV": _damaged_kv,
    "storm": _storm,
}
OWN_FILES: dict[str, Act] = {"disk full": _disk_full, "read-only start": _read_only_start}
SQLITE_BOOKS: dict[str, Act] = {
    "books locked": _books_locked,
    "books moved away": _books_moved_away,
    "books truncated": _books_truncated,
}
POSTGRES_BOOKS: dict[str, Act] = {"PostgreSQL restart": _postgres_restart}
ALL = ANYWHERE | OWN_FILES | SQLITE_BOOKS | POSTGRES_BOOKS


def possible(scene: Scene) -> dict[str, Act]:
    """The faults that this machine and these books allow."""
    found = dict(ANYWHERE)
    if not hasattr(resource, "prlimit"):
        del found["writes fail"]
    if scene.tmpfs:
        found |= OWN_FILES
    return found | (POSTGRES_BOOKS if scene.postgres is not None else SQLITE_BOOKS)


def strike(scene: Scene, name: str, act: Act) -> None:
    """One fault, from its beginning until the server is well again; says so where it is not."""
    began = time.monotonic()
    scene.tally.count(f"fault: {name}")
    act(scene)
    ended = time.monotonic()
    _require_up(scene, name)
    now = time.monotonic()
    scene.target.came_back_s.append(now - ended)
    scene.target.windows.append(Window(name, began, now))


def _require_up(scene: Scene, name: str) -> None:
    target = scene.target
    if not target.running and target.process is not None:
        # It did not start into the fault, or has died of it; it has to start now.
        if target.refused_starts == 0 and name not in ("kill",):
            target.deaths.append(f"after {name}: ended with {target.process.returncode}")
        target.process = None
    if target.process is None and not target.start():
        scene.tally.wrong("did not come back", f"after {name} no server started")
        return
    if not target.wait_healthy(HEALTHY_S):
        scene.tally.wrong("did not come back", f"/health after {name}: {target.health()}")


@contextmanager
def small_file_system(place: Path) -> Iterator[bool]:
    """``place`` as a tmpfs of its own while the block runs; False where this user may not mount one."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m,mode=700", "stepwell-chaos", str(place)]
    mounted = (
        shutil.which("mount") is not None
        and os.geteuid() == 0
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
