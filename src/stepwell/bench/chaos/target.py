"""The server that is tormented: started, killed, frozen and started again, with one state directory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.bench.chaos.control import Control
from stepwell.bench.servers import free_port

HEALTHY_S = 60.0
"""Longest that ``/health`` may take to be well again after a fault."""
START_S = 600.0
STOP_S = 60.0
LOOK_S = 0.1
DOWN = "down"
"""The name of a time in which no server ran."""
DRAIN_S = 5
NULL_ENGINE = 'kind = "null"'
ENGINES = {"null": NULL_ENGINE, "llamacpp": 'kind = "llamacpp"\nmodel = "smollm2"'}
HOST_KV = {"null": "96KiB", "llamacpp": "24MiB"}
DISK_KV = {"null": "2MiB", "llamacpp": "96MiB"}
STEP_TOKENS = {"null": 256, "llamacpp": 32}
"""llama.cpp rounds otherwise from 64 tokens a step on (docs/models.md). With fewer a token depends on no
request that shares the step, so that an answer that differs is a fault."""
DEVICE_KV_TOKENS = 4_096
MAX_AGENTS = 500
"""So few that the oldest are forgotten all the time."""

CONFIG = """{record}
[engine]
{engine}
device_kv_tokens = {tokens}
[kv]
host_kv = "{host_kv}"
disk_kv = "{disk_kv}"
disk_dir = "{home}/kv"
[policy]
max_agents = {max_agents}
step_tokens = {step_tokens}
[ledger]
path = "{ledger}"
node = "chaos"
price_book = "openai-gpt-5"
backlog_postings = 20000
[library]
dir = "{home}/documents"
quota = "8MiB"
[batches]
dir = "{home}/batches"
[server]
port = {port}
drain_s = {drain_s}
"""


def one_by_one(timeout_s: float, **more: Any) -> httpx2.Client:
    """A client with a new connection for each request: one that is kept, and closed by the server's end when
    it is used again, would look like a lost answer."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.Client(timeout=timeout_s, trust_env=False, verify=False, limits=limits, **more)


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which something was done to the server; ``end_s`` is when it was well again."""

    fault: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class ChaosTarget:
    """One server with its state in ``home``. Times are seconds of ``time.monotonic``."""

    home: Path
    scratch: Path
    """Beside the state, on a disk that is not filled: configuration, log, shared page."""
    engine: str
    ledger: str
    """A file or a PostgreSQL URL."""
    record: Path | None = None
    skips_time: bool = False
    """The null engine's time is skipped instead of slept: as many turns as the loop and HTTP can take."""
    port: int = field(default_factory=free_port)
    control: Control = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    windows: list[Window] = field(default_factory=list)
    kills_s: list[float] = field(default_factory=list)
    came_back_s: list[float] = field(default_factory=list)
    _down_since_s: float | None = None
    deaths: list[str] = field(default_factory=list)
    """How the server ended when it was not ended from outside."""
    refused_starts: int = 0
    unclear_starts: list[str] = field(default_factory=list)
    """Starts that failed with something else than one sentence."""

    _http: httpx2.Client = field(default_factory=lambda: one_by_one(10.0))

    def __post_init__(self) -> None:
        self.control = Control(self.scratch / "control", create=True)
        self.config.write_text(
            CONFIG.format(
                record="" if self.record is None else f'record = "{self.record}"',
                engine=ENGINES[self.engine],
                tokens=DEVICE_KV_TOKENS,
                max_agents=MAX_AGENTS,
                step_tokens=STEP_TOKENS[self.engine],
                host_kv=HOST_KV[self.engine],
                disk_kv=DISK_KV[self.engine],
                home=self.home,
                ledger=self.ledger,
                port=self.port,
                drain_s=DRAIN_S,
            ),
            encoding="utf-8",
        )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.scratch / "stepwell.toml"

    @property
    def log(self) -> Path:
        return self.scratch / "log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # --- its life -----------------------------------------------------------------------------

    def start(self) -> bool:
        """Start it and wait until it is well. False: it has refused to start, with a sentence."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_")}
        began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=kept | {"XDG_DATA_HOME": str(self.scratch / "data")},
            )
        if self.wait_healthy(START_S):
            return True
        if self.running:
            self.deaths.append(f"was not well {START_S:.0f} s after its start")
            return False
        self.refused_starts += 1
        said = self._said(began)
        if not said or not said[-1].startswith("stepwell: ") or any("Traceback" in line for line in said):
            self.unclear_starts.append(" | ".join(said[-3:]))
        return False

    def _command(self) -> list[str]:
        if self.skips_time:
            return [sys.executable, "-m", "stepwell.bench.server.batches_child", str(self.config)]
        child = "stepwell.bench.chaos.child"
        return [sys.executable, "-m", child, str(self.scratch / "control"), str(self.config)]

    def last_words(self) -> list[str]:
        """The end of its log, and how it ended where it was not ended from outside."""
        return [*self._said(0)[-3:], *self.deaths]

    def _said(self, began: int) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(began)
            return [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]

    def wait_healthy(self, limit_s: float = HEALTHY_S) -> bool:
        """Until ``/health`` answers 200; False when it does not in time, or the process ends before."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and self.running:
            if self.health() == (200, "ok"):
                self._is_up()
                return True
            time.sleep(LOOK_S)
        return False

    def health(self) -> tuple[int, str]:
        """Status and the state of the ledger; (0, "") when there is no answer."""
        try:
            answer = self._http.get(f"{self.base_url}/health")
            return answer.status_code, str(answer.json().get("ledger", "ok"))
        except (httpx2.HTTPError, ValueError):
            return 0, ""

    def kill(self) -> None:
        """As a power switch would."""
        if self.process is not None:
            self._is_down()
            self.kills_s.append(time.monotonic())
            self.process.kill()
            self.process.wait()
            self.process = None

    def terminate(self) -> None:
        """As an operator would; killed when it does not end."""
        if self.process is None:
            return
        self._is_down()
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.deaths.append(f"did not end within {STOP_S:.0f} s of SIGTERM")
            self.kill()
        self.process = None

    def _is_down(self) -> None:
        """From now on there are no answers."""
        if self._down_since_s is None:
            self._down_since_s = time.monotonic()
        if self.process is not None and (code := self.process.poll()) is not None:
            self.deaths.append(f"ended by itself with {code}: {' | '.join(self._said(0)[-3:])}")

    def _is_up(self) -> None:
        if self._down_since_s is not None:
            self.windows.append(Window(DOWN, self._down_since_s, time.monotonic()))
            self._down_since_s = None

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, however it stands."""
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                self.terminate()
        self.control.close()
        self._http.close()

    def ended(self) -> None:
        """The last time that it is down is over."""
        self._is_up()

    # --- what was going on --------------------------------------------------------------------

    def disturbed(self, start_s: float, end_s: float, faults: frozenset[str]) -> bool:
        """Whether one of ``faults`` was at work in that time."""
        return any(
            window.start_s <= end_s and window.end_s >= start_s
            for window in tuple(self.windows)
            if window.fault in faults
        )

    def tracebacks(self) -> list[str]:
        """The last line of each traceback in the log: none is expected, whatever is done."""
        lines = self._said(0)
        starts = [at for at, line in enumerate(lines) if line.startswith("Traceback")]
        return [
            next((line for line in lines[at + 1 :] if not line.startswith((" ", "\t"))), "") for at in starts
        ]
