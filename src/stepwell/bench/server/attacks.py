"""``stepwell bench attacks``: how long ``/health`` waits while one request does its worst."""

from __future__ import annotations

import http.client
import resource
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import httpx2

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.clocks import process_cpu_ns
from stepwell.bench.harness import NULL_MODEL, BenchRun, bench
from stepwell.bench.server.attack_kinds import ATTACKS, FLOOD, Act, prepared
from stepwell.bench.servers import ServerArm, our_server, running
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import BadInput

LIMIT_MS = 250.0
DESCRIPTORS = 1_024
"""What a process may open where the limit was not raised."""
POLL_EVERY_S = 0.01
POLL_TIMEOUT_S = 30.0
AFTER_S, QUICK_AFTER_S = 1.0, 0.1
"""How long ``/health`` is watched after the attack was answered."""
QUIET_S, QUICK_QUIET_S = 3.0, 0.3
QUIET = "nothing"


@dataclass(frozen=True, slots=True)
class WatchedAttack:
    """What ``/health`` did meanwhile."""

    attack: str
    answer: str
    seconds: float
    """From the attack to its answer."""
    polls: int
    failed: int
    worst_ms: float
    worst_cpu_ms: float | None
    """The most CPU time that the server's process has taken during one poll (Linux): what the worst would be
    on a machine where nothing else runs and one thread computes."""
    alive: bool


@bench("attacks", fails=True)
def main(
    run: BenchRun,
    *,
    engine: Literal["llamacpp", "null"] = "llamacpp",
    only: list[str] | None = None,
) -> None:
    """How long does /health wait while one request does its worst?

    A server as a user starts it, with 1,024 descriptors, is attacked by one request after the other: grammars
    that explode, documents that make parsers go back, bodies that are too large, that are just small enough,
    or that are all brackets, connections that say nothing. Meanwhile /health is asked a hundred times a
    second. The target is 250 ms at worst, and that the server lives. Three minutes on a quiet machine.

    Example: ``stepwell bench attacks --only "7.9 MiB" --only grammar``

    Beside the wait stands the CPU time that the server took during the worst poll: on a machine that does
    other work as well it tells what the server did from what it waited for.

    Exit code 1 if a target is missed.

    Parameters
    ----------
    engine
        llamacpp serves SmolLM2; null has neither a model nor grammars.
    only
        Attacks whose name contains this (repeat the flag).
    """
    names = [name for name in ATTACKS if not only or any(part in name for part in only)]
    if not names:
        raise BadInput(f"--only {only[0] if only else ''!r} is in no name of {', '.join(ATTACKS)}")
    _allow_descriptors()
    found = _measure(engine, names, run.quick, run.progress)
    run.settings = {"engine": engine, "quick": run.quick, "descriptors": DESCRIPTORS}
    fill(run, found)
    run.show(sheet("/health while one request does its worst", COLUMNS, found))


def _allow_descriptors() -> None:
    """For this process, which holds 1,100 connections; the server gets 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _server(engine: str, directory: Path) -> ServerArm:
    model = NULL_MODEL if engine == "null" else "smollm2"
    arm = our_server(
        "stepwell", model, device_kv_tokens=4_096, host_kv="64MiB", disk_kv="64MiB",
        disk_dir=directory / "kv", threads=usable_cores(),
    )  # fmt: skip
    limited = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", *arm.command)
    return replace(arm, command=limited)


def _measure(engine: str, names: Sequence[str], quick: bool, progress: Ticker) -> list[WatchedAttack]:
    found = []
    with tempfile.TemporaryDirectory(prefix="stepwell-attacks-") as directory:
        arm = _server(engine, Path(directory))
        progress.phase("starting the server")
        with running(arm) as server:
            model = str(httpx2.get(f"{arm.base_url}/v1/models", trust_env=False).json()["data"][0]["id"])

            def rest(port: int) -> str:
                time.sleep(QUICK_QUIET_S if quick else QUIET_S)
                return "-"

            found.append(watched(QUIET, rest, arm.port, server.pid, 0.0))
            progress.phase("attacking", len(names))
            for name in names:
                progress.phase(name)
                with prepared(name, model) as act:
                    after_s = QUICK_AFTER_S if quick else AFTER_S
                    found.append(watched(name, act, arm.port, server.pid, after_s))
    return found


def watched(name: str, act: Act, port: int, pid: int, after_s: float) -> WatchedAttack:
    """Attack, and poll ``/health`` from before it until ``after_s`` after its answer."""
    answer = ["given up"]
    ended = threading.Event()
    began = time.monotonic()
    seconds = [0.0]

    def attack() -> None:
        answer[0] = act(port)
        seconds[0] = time.monotonic() - began
        ended.wait(after_s)
        ended.set()

    attacker = threading.Thread(target=attack, daemon=True)
    poll = HealthPoll(port, pid)
    poll.once()  # the first is no part of it: it opens what is opened once
    poll.clear()
    attacker.start()
    while not ended.wait(POLL_EVERY_S):
        poll.once()
    poll.once()
    attacker.join()
    return WatchedAttack(
        name, answer[0], seconds[0], poll.polls, poll.failed, poll.worst_ms, poll.worst_cpu_ms, poll.alive
    )


class HealthPoll:
    """``/health`` asked over and over, on a new connection each time."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._cpu_ns = process_cpu_ns(pid)
        self.clear()

    def clear(self) -> None:
        self.polls = self.failed = 0
        self.worst_ms, self.worst_cpu_ms = 0.0, None if self._cpu_ns is None else 0.0

    @property
    def alive(self) -> bool:
        return self._get() == 200

    def once(self) -> None:
        cpu_ns, began = self._cpu(), time.monotonic()
        status = self._get()
        self.worst_ms = max(self.worst_ms, 1e3 * (time.monotonic() - began))
        if self.worst_cpu_ms is not None:
            self.worst_cpu_ms = max(self.worst_cpu_ms, (self._cpu() - cpu_ns) / 1e6)
        self.polls += 1
        self.failed += status != 200

    def _cpu(self) -> int:
        try:
            return 0 if self._cpu_ns is None else self._cpu_ns()
        except OSError:  # it has ended
            return 0

    def _get(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=POLL_TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


# --- report --------------------------------------------------------------------------------------

COLUMNS = {
    "one request": "{attack}",
    "answered": "{answer}",
    "after s": "{seconds:.1f}",
    "polls": "{polls:,}",
    "worst /health, ms": "{worst_ms:,.0f}",
    "server's CPU meanwhile, ms": "{worst_cpu_ms:,.0f}",
}


def fill(report: Report, found: Sequence[WatchedAttack]) -> None:
    """Figures and verdicts."""
    attacks = [one for one in found if one.attack != QUIET]
    timed = [one for one in attacks if not one.attack.startswith(FLOOD)]
    worst = max(timed, key=lambda one: one.worst_ms, default=None)
    worst_ms = None if worst is None else worst.worst_ms
    report.results = {"worst_ms": worst_ms, "worst_attack": None if worst is None else worst.attack}
    report.samples = [asdict(one) for one in found]
    report.notes = [f"the worst: {worst.attack}"] if worst else []
    report.verdicts = [
        Verdict("worst /health under any of them", worst_ms, LIMIT_MS, " ms"),
        Verdict("polls of /health that failed", sum(one.failed for one in attacks), 0),
        Verdict("attacks after which the server was gone", sum(not one.alive for one in attacks), 0),
    ]
    cpu = [one.worst_cpu_ms for one in timed if one.worst_cpu_ms is not None]
    if cpu:
        report.verdicts.insert(1, Verdict("the server's CPU time in one poll", max(cpu), LIMIT_MS, " ms"))
