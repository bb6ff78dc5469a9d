"""``stepwell bench access-log``: what it costs to write a line for each request.

The same turns of many agents over HTTP, without and with the access log, in turn. What the log takes of a
core is measured directly as well: in the event loop, where the line's fields are gathered, and in the thread
that formats and writes them. Half a per cent of a run is less than two runs differ by.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import httpx2
from rich.table import Table

from stepwell import assemble
from stepwell.console.options import JsonOption, Positive, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import StepwellError
from stepwell.ledger.settings import LedgerSettings
from stepwell.logs import LogSettings, logging_to
from stepwell.server import app as application
from stepwell.server.access import Access
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.settings import EngineSettings, KvSettings, Settings

LIMIT_PERCENT = 0.5
TIMEOUT_S = 300.0
LOG_THREAD = "stepwell-log"
WORDS = "the steps go down to the water and come up again "


@dataclass(slots=True)
class AccessLogRun:
    """One run of the work."""

    wall_s: float = 0.0
    loop_s: float = 0.0
    """Of CPU, in the event loop: fields gathered, and handed over."""
    thread_cpu_s: float = 0.0
    """Of CPU, in the thread that formats and writes."""
    lines: int = 0

    @property
    def share(self) -> float:
        return (self.loop_s + self.thread_cpu_s) / self.wall_s


@dataclass(slots=True)
class Rounds:
    without: list[AccessLogRun] = field(default_factory=list)
    with_log: list[AccessLogRun] = field(default_factory=list)


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    agents: Positive = 200,
    turns: Positive = 2,
    rounds: Positive = 3,
    log_format: Literal["text", "json"] = "json",
) -> None:
    """Measure what the access log costs: the same turns over HTTP without and with it.

    The engine is the null engine, which takes the time of a small model. Example: stepwell bench access-log

    Parameters
    ----------
    agents
        How many take turns, all of them at once.
    turns
        Of each agent (1 with --quick).
    rounds
        How often the work is done in each way (1 with --quick).
    log_format
        text or json.
    """
    turns, rounds = (1, 1) if quick else (turns, rounds)
    settings = {"agents": agents, "turns": turns, "rounds": rounds, "format": log_format, "quick": quick}
    report = Report("access-log", settings)
    found = Rounds()
    with tempfile.TemporaryDirectory(prefix="stepwell-access-") as place, ticker() as progress:
        progress.phase(f"{agents} agents, without and with the access log", 2 * rounds)
        for number in range(rounds):
            for logs in ((False, True), (True, False))[number % 2]:
                path = Path(place) / f"{number}-{logs}.log"
                run = _one_run(Path(place), path, agents, turns, log_format if logs else None)
                (found.with_log if logs else found.without).append(run)
                progress.advance()
    _fill(report, found)
    console = report_console(json_file)
    console.print(_table(found))
    report.finish(console, json_file)


def _one_run(
    place: Path, log: Path, agents: int, turns: int, log_format: Literal["text", "json"] | None
) -> AccessLogRun:
    settings = Settings(
        engine=EngineSettings(kind="null", device_kv_tokens=65_536),
        kv=KvSettings(host_kv=256 << 20, disk_kv=0, disk_dir=place / "kv"),
        ledger=LedgerSettings(path="none"),
    )
    node, run = assemble.build(settings), AccessLogRun()
    node.driver.start()
    try:
        logging = LogSettings(log_format or "text", access=log_format is not None)
        with (
            log.open("w", encoding="utf-8") as stream,
            logging_to(logging, stream=stream),
            _stopwatch(run),
            BackgroundServer(node.driver, node.text, ServerSettings(port=0)) as server,
        ):
            started_s = time.perf_counter()
            asyncio.run(play(server.base_url, node.text.name, agents, turns))
            run.wall_s = time.perf_counter() - started_s
        run.lines = len(log.read_text("utf-8").splitlines())
    finally:
        node.stop(0.0)
    return run


async def play(base_url: str, model: str, agents: int, turns: int) -> None:
    """Every agent sends its next turn as soon as the one before has ended."""
    limits = httpx2.Limits(max_connections=agents)
    async with httpx2.AsyncClient(
        base_url=base_url, timeout=TIMEOUT_S, trust_env=False, limits=limits
    ) as client:
        await asyncio.gather(*(_agent(client, model, number, turns) for number in range(agents)))


async def _agent(client: httpx2.AsyncClient, model: str, number: int, turns: int) -> None:
    said: list[dict[str, str]] = []
    for turn in range(turns):
        said.append({"role": "user", "content": f"agent {number}, turn {turn}: {WORDS * 2}"})
        body = {"model": model, "messages": said, "max_tokens": 16, "ignore_eos": True}
        headers = {"x-session-id": "bench", "x-agent-id": f"agent-{number}"}
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        if answer.status_code != 200:
            raise StepwellError(f"a request of the benchmark was not served: {answer.text[:200]}")
        said.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})


@contextmanager
def _stopwatch(run: AccessLogRun) -> Iterator[None]:
    """Time what the event loop does for the log, and what the log's thread computes."""
    (thread,) = (one for one in threading.enumerate() if one.name == LOG_THREAD)
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)

    def timed(call: Any, *arguments: Any) -> Any:
        started_s = time.thread_time()
        try:
            return call(*arguments)
        finally:
            run.loop_s += time.thread_time() - started_s

    owners: tuple[tuple[Any, str], ...] = ((Access, "fields"), (application, "write_access"))
    calls = [getattr(owner, name) for owner, name in owners]
    for (owner, name), call in zip(owners, calls, strict=True):
        setattr(owner, name, _around(timed, call))
    before_s = time.clock_gettime(clock)
    try:
        yield
    finally:
        run.thread_cpu_s = time.clock_gettime(clock) - before_s
        for (owner, name), call in zip(owners, calls, strict=True):
            setattr(owner, name, call)


def _around(timed: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """A function, and no ``partial``: one that is set on a class becomes a method."""
    return lambda *arguments: timed(call, *arguments)


# --- report -------------------------------------------------------------------------------------


def _fill(report: Report, found: Rounds) -> None:
    shares = [run.share for run in found.with_log]
    without, with_log = ([run.wall_s for run in runs] for runs in (found.without, found.with_log))
    report.results = {
        "share_of_wall_time": median(shares),
        "loop_us_per_line": median([run.loop_s / run.lines * 1e6 for run in found.with_log]),
        "thread_us_per_line": median([run.thread_cpu_s / run.lines * 1e6 for run in found.with_log]),
        "without_s": without,
        "with_s": with_log,
    }
    report.samples = [asdict(run) for run in found.with_log]
    report.verdicts = [
        Verdict("the access log, share of wall time", 100 * median(shares), LIMIT_PERCENT, " %"),
    ]
    spread = max(without) / min(without) - 1
    report.notes.append(
        f"runs without the log differ among themselves by {100 * spread:.1f} %: the share is CPU time of the "
        "event loop and of the log's thread, not the difference of two runs"
    )


def _table(found: Rounds) -> Table:
    runs = found.with_log
    rows = [
        ("lines", f"{median([run.lines for run in runs]):,.0f}"),
        ("in the event loop, us a line", f"{median([run.loop_s / run.lines * 1e6 for run in runs]):,.1f}"),
        (
            "in the log's thread, us of CPU a line",
            f"{median([r.thread_cpu_s / r.lines * 1e6 for r in runs]):,.1f}",
        ),
        ("both, share of wall time", f"{100 * median([run.share for run in runs]):.3f} %"),
        ("wall time without, median s", f"{median([run.wall_s for run in found.without]):,.2f}"),
        ("wall time with, median s", f"{median([run.wall_s for run in runs]):,.2f}"),
    ]
    return table("The same turns without and with the access log", ("", ""), rows)
