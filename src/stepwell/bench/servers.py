"""Servers as child processes, one at a time: ours, and llama.cpp's own to compare with.

Both listen on loopback, are asked ``/health`` until they are ready, and end when the block does.
Nothing is shared with this process, so that the client's work slows both alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from stepwell.bench.harness import NULL_MODEL
from stepwell.errors import StepwellError

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
_LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class ServerArm:
    """One server of a comparison: how it is named, started, and what it was given."""

    name: str
    command: tuple[str, ...]
    port: int
    is_ours: bool
    device_kv_tokens: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class StartedServer:
    """A started server. ``peak_rss_bytes`` is read before it is stopped."""

    def __init__(self, name: str, base_url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.name, self.base_url = name, base_url
        self._process = process
        self._log = log
        # Asked many times while a server starts: certificates, which plain HTTP has no use for, cost more.
        self._http = httpx2.Client(timeout=5.0, trust_env=False, verify=False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def peak_rss_bytes(self) -> int | None:
        """The most memory the process has held (Linux; None elsewhere)."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None

    def health(self) -> bool:
        """Whether ``/health`` says 200."""
        try:
            answer = self._http.get(f"{self.base_url}/health")
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200

    def wait_ready(
        self, timeout_s: float = READY_TIMEOUT_S, is_ready: Callable[[], bool] | None = None
    ) -> None:
        """Until it is well, or what is asked instead. ``StepwellError`` when the process ends or takes too
        long."""
        is_ready = is_ready or self.health
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StepwellError(f"{self.name} ended before it was ready: {self._tail()}")
            if is_ready():
                return
            time.sleep(0.1)
        raise StepwellError(f"{self.name} was not ready within {timeout_s:.0f} s: {self._tail()}")

    def close(self) -> None:
        """Nothing more is asked of it."""
        self._http.close()

    def kill(self) -> None:
        """As a power switch would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask, wait, then kill: the next server must have the machine to itself."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _tail(self) -> str:
        self._log.flush()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return " | ".join(line.strip() for line in lines[-_LOG_TAIL_LINES:] if line.strip())


@contextlib.contextmanager
def running(
    arm: ServerArm, ready_s: float = READY_TIMEOUT_S, variables: Mapping[str, str] | None = None
) -> Iterator[StartedServer]:
    """Start a server, wait until it is ready, stop it at the end, whatever happens.

    Its books and documents, where the arm says nothing about them, go with it. ``variables``: of its
    environment, beside ours.
    """
    with tempfile.TemporaryDirectory(prefix="stepwell-server-") as data:
        given = {"XDG_DATA_HOME": data} | dict(variables or {})
        with started(arm.name, arm.base_url, arm.command, given) as server:
            server.wait_ready(ready_s)
            yield server


@contextlib.contextmanager
def started(
    name: str, base_url: str, command: Sequence[str], variables: Mapping[str, str] | None = None
) -> Iterator[StartedServer]:
    """A server's process, stopped at the end, whatever happens.

    Of our settings its environment has only those that are given: others would change what is measured, and a
    person's own books are neither the place for a bench's nor as quick as empty ones.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=kept | dict(variables or {}),
        )
        server = StartedServer(name, base_url, process, log)
        try:
            yield server
        finally:
            server.stop()
            server.close()


def our_server(
    name: str,
    model: str,
    *,
    device_kv_tokens: int,
    host_kv: str,
    disk_kv: str,
    disk_dir: Path,
    threads: int,
    more: Mapping[str, str | Path] | None = None,
) -> ServerArm:
    """``stepwell serve`` with these KV tiers and the flags in ``more``; everything else as a user gets it.
    The model ``null`` is the engine that computes nothing."""
    port = free_port()
    flags = {
        **({"engine": "null"} if model == NULL_MODEL else {"model": model}),
        "host": "127.0.0.1",
        "port": port,
        "device-kv-tokens": device_kv_tokens,
        "host-kv": host_kv,
        "disk-kv": disk_kv,
        "disk-dir": disk_dir,
        "threads": threads,
        **(more or {}),
    }
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    command = (sys.executable, "-m", "stepwell", "serve", *words)
    return ServerArm(name, command, port, is_ours=True, device_kv_tokens=device_kv_tokens)


def llama_server(
    name: str,
    model_path: Path,
    *,
    device_kv_tokens: int,
    parallel: int,
    cache_ram_mib: int,
    threads: int,
    binary: Path | None,
    tuned: bool,
) -> ServerArm:
    """llama.cpp's own server: a ``llama-server`` binary if given, else the package ``xllamacpp``.

    ``tuned`` leaves its defaults where that makes it quicker on this workload: the whole window is
    kept for sliding-window layers (``--swa-full``), and idle conversations stay on the device.
    """
    port = free_port()
    options: dict[str, str | int | bool] = {
        "model": str(model_path),
        "port": port,
        "n_ctx": device_kv_tokens,
        "n_parallel": parallel,
        "cache_ram_mib": cache_ram_mib,
        "threads": threads,
        "tuned": tuned,
    }
    if binary is None:
        command: Sequence[str] = (sys.executable, "-m", "stepwell.bench.peer_server", json.dumps(options))
    else:
        command = _binary_command(binary, options)
    return ServerArm(name, tuple(command), port, is_ours=False, device_kv_tokens=device_kv_tokens)


def _binary_command(binary: Path, options: dict[str, str | int | bool]) -> list[str]:
    flags = {
        "-m": options["model"],
        "--host": "127.0.0.1",
        "--port": options["port"],
        "-c": options["n_ctx"],
        "-np": options["n_parallel"],
        "--cache-ram": options["cache_ram_mib"],
        "-t": options["threads"],
        "-tb": options["threads"],
        "-fa": "on",
        "-ngl": 0,
    }
    words = [word for flag, value in flags.items() for word in (flag, str(value))]
    tuned = ["--swa-full", "--no-cache-idle-slots"] if options["tuned"] else []
    return [str(binary), *words, "--kv-unified", *tuned]


def free_port() -> int:
    """A port without a listener now. Another program may take it before the server does; then that arm fails
    with the server's own sentence."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
