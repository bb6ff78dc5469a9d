"""A PostgreSQL server of one's own in a temporary directory: a real one, and gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwell.bench.servers import free_port
from stepwell.errors import StepwellError

START_S = 30
STOP_S = 20
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "listen_addresses": "127.0.0.1",
}
PROGRAMS = ("initdb", "postgres", "pg_isready")


@dataclass(slots=True)
class PostgresServer:
    """A cluster. ``url`` has a superuser without a password."""

    bin: Path
    data: Path
    port: int
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://ledger@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it answers. ``StepwellError`` with the end of its log when it does not."""
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(self.bin / "postgres"), "-D", str(self.data), "-p", str(self.port)),
                    *("-k", str(self.data.parent), *settings),
                ],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.data.parent,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.data.parent / "log").read_text("utf-8", "replace")
                raise StepwellError(f"PostgreSQL did not start: {said[-1_000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        words = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(words, check=False).returncode == 0

    def stop(self, *, at_once: bool = False) -> None:
        """Fast shutdown: open connections are cut. ``at_once``: without writing anything, as a crash does."""
        if self.process is not None and self.process.poll() is None:
            # As root the child may not be signalled by its own user's rules; its pid is ours to signal.
            self.process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S)
        self.process = None


def why_not() -> str | None:
    """Why no cluster can be made here; None: one can."""
    if importlib.util.find_spec("psycopg") is None:
        return "the extra 'postgres' is not installed"
    if _programs() is None:
        return "PostgreSQL's initdb and postgres are not installed"
    if os.geteuid() == 0 and _user() is None:
        return "running as root, and there is no user 'postgres' to run PostgreSQL as"
    return None


def _programs() -> Path | None:
    named = shutil.which("initdb")
    places = [Path(named).resolve().parent] if named else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in places if all((one / name).exists() for name in PROGRAMS)), None)


def _user() -> str | None:
    """PostgreSQL does not run as root: then as the user it was installed with."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A new cluster that runs until the block ends. ``StepwellError`` where ``why_not`` has a reason."""
    reason, place, user = why_not(), _programs(), _user()
    if reason is not None or place is None:
        raise StepwellError(f"no PostgreSQL can be started: {reason}")
    home = Path(tempfile.mkdtemp(prefix="stepwell-pg-"))
    try:
        if user is not None:
            shutil.chown(home, user)
        server = PostgresServer(place, home / "data", free_port(), user)
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
