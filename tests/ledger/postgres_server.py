"""A PostgreSQL server of one's own in a temporary directory: a real one, and gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 30
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "listen_addresses": "127.0.0.1",
}


@dataclass(slots=True)
class Server:
    """A running cluster. ``url`` has a superuser without a password."""

    bin: Path
    data: Path
    port: int
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://ledger@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        log = (self.data.parent / "log").open("ab")
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.data.parent, *settings],
            stdout=log,
            stderr=log,
            user=self.user,
            cwd=self.data.parent,
        )
        log.close()
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.data.parent / "log").read_text("utf-8", "replace"))
            time.sleep(0.05)

    def _answers(self) -> bool:
        words = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(words, check=False).returncode == 0

    def stop(self) -> None:
        """Fast shutdown: open connections are cut."""
        if self.process is not None and self.process.poll() is None:
            # As root the child may not be signalled by its own user's rules; its pid is ours to signal.
            self.process.send_signal(2)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        self.process = None


def binaries() -> Path:
    """Where ``initdb`` and ``postgres`` are; skips where they are not."""
    named = shutil.which("initdb")
    places = [Path(named).resolve().parent] if named else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if all((place / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            return place
    pytest.skip("PostgreSQL's initdb and postgres are not installed")


def server_user() -> str | None:
    """PostgreSQL does not run as root: then as the user it was installed with."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("running as root, and there is no user 'postgres' to run PostgreSQL as")


@contextmanager
def running_server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    place, user = binaries(), server_user()
    home = Path(tempfile.mkdtemp(prefix="stepwell-pg-"))
    try:
        if user is not None:
            shutil.chown(home, user)
        server = Server(place, home / "data", _free_port(), user)
        words = ["-D", str(server.data), "-U", "ledger", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            [str(place / "initdb"), *words, "--no-locale"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=home,
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
