"""``stepwell bench watchers``: what people who look on cost those who work.

The same turns of many agents over HTTP, with nobody and with fifty readers of ``/v1/watch``, in turn. Two
threads of the server matter: the loop's, which steps the engine, and that of HTTP, where frames are made and
sent. What their CPU time grows by is held against the time of the steps: it is what watchers could take from
them at most, were every moment of it a moment in which the engine waits.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.table import Table

from stepwell import assemble
from stepwell.bench.server.access_log import play
from stepwell.console.options import JsonOption, Positive, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import StepwellError
from stepwell.ledger.settings import LedgerSettings
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.settings import EngineSettings, KvSettings, Settings

LIMIT_PERCENT = 1.0
LOOP_THREAD, HTTP_THREAD = "stepwell-driver", "stepwell-http"
CHILD = "stepwell.bench.server.watchers_child"


@dataclass(slots=True)
class WatchedRun:
    """One run of the work."""

    watchers: int
    wall_s: float = 0.0
    steps: int = 0
    step_s: float = 0.0
    """Of all steps together, by the loop's own count."""
    loop_cpu_s: float = 0.0
    http_cpu_s: float = 0.0
    bytes_read: int = 0
    """By all watchers."""

    @property
    def cpu_s(self) -> float:
        return self.loop_cpu_s + self.http_cpu_s

    @property
    def step_ms(self) -> float:
        return 1e3 * self.step_s / max(1, self.steps)


@dataclass(slots=True)
class Pairs:
    """Runs side by side: one after the other, and the next pair the other way round."""

    alone: list[WatchedRun] = field(default_factory=list)
    watched: list[WatchedRun] = field(default_factory=list)

    def shares(self) -> list[float]:
        """Per pair: CPU time that came with the watchers, over the time of the steps."""
        pairs = zip(self.alone, self.watched, strict=True)
        return [(two.cpu_s - one.cpu_s) / two.step_s for one, two in pairs]


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    agents: Positive = 200,
    watchers: Positive = 50,
    turns: Positive = 4,
    rounds: Positive = 5,
) -> None:
    """Measure what watchers cost: the same turns over HTTP with nobody and with readers of /v1/watch.

    The engine is the null engine, which takes the time of a small model. Readers are a process of their own.
    Example: stepwell bench watchers

    Parameters
    ----------
    agents
        How many take turns, all of them at once.
    watchers
        How many read the stream of the operators' view, a frame a second.
    turns
        Of each agent (1 with --quick).
    rounds
        How often the work is done in each way (1 with --quick).
    """
    turns, rounds = (1, 1) if quick else (turns, rounds)
    settings = {"agents": agents, "watchers": watchers, "turns": turns, "rounds": rounds, "quick": quick}
    report, found = Report("watchers", settings), Pairs()
    with tempfile.TemporaryDirectory(prefix="stepwell-watchers-") as place, ticker() as progress:
        progress.phase(f"{agents} agents, watched by nobody and by {watchers}", 2 * rounds)
        for number in range(rounds):
            for count in ((0, watchers), (watchers, 0))[number % 2]:
                run = _one_run(Path(place), agents, turns, count)
                (found.watched if count else found.alone).append(run)
                progress.advance()
    _fill(report, found)
    console = report_console(json_file)
    console.print(_table(found))
    report.finish(console, json_file)


def _one_run(place: Path, agents: int, turns: int, watchers: int) -> WatchedRun:
    settings = Settings(
        engine=EngineSettings(kind="null", device_kv_tokens=65_536),
        kv=KvSettings(host_kv=256 << 20, disk_kv=0, disk_dir=place / "kv"),
        ledger=LedgerSettings(path="none"),
    )
    node, run = assemble.build(settings), WatchedRun(watchers)
    node.driver.start()
    try:
        with (
            BackgroundServer(node.driver, node.text, ServerSettings(port=0)) as server,
            _readers(server.base_url, run),
        ):
            loop_cpu, http_cpu = _cpu_of(LOOP_THREAD), _cpu_of(HTTP_THREAD)
            before = node.driver.snapshot().counters
            started_s, loop_s, http_s = time.perf_counter(), loop_cpu(), http_cpu()
            asyncio.run(play(server.base_url, node.text.name, agents, turns))
            run.wall_s = time.perf_counter() - started_s
            run.loop_cpu_s, run.http_cpu_s = loop_cpu() - loop_s, http_cpu() - http_s
            after = node.driver.snapshot().counters
            run.steps = after["steps"] - before["steps"]
            run.step_s = (after["step_us"] - before["step_us"]) / 1e6
    finally:
        node.stop(0.0)
    return run


def _cpu_of(name: str) -> Callable[[], float]:
    """The CPU time of a thread, in seconds."""
    (thread,) = (one for one in threading.enumerate() if one.name == name)
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    return lambda: time.clock_gettime(clock)


@contextmanager
def _readers(url: str, run: WatchedRun) -> Iterator[None]:
    """A process with the watchers of a run; also where there are none, so that both ways have one."""
    command = [sys.executable, "-m", CHILD, url, str(run.watchers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if child.stdout.readline().strip() != "ready":
                raise StepwellError("the watchers of the benchmark could not begin to read")
            yield
            child.stdin.close()
            run.bytes_read = int(child.stdout.readline() or 0)
        finally:
            child.kill()


# --- report -------------------------------------------------------------------------------------


def _fill(report: Report, found: Pairs) -> None:
    shares = found.shares()
    report.results = {
        "share_of_step_time": median(shares),
        "step_ms_alone": median([run.step_ms for run in found.alone]),
        "step_ms_watched": median([run.step_ms for run in found.watched]),
        "bytes_a_watcher_a_second": median([_bytes_each(run) for run in found.watched]),
    }
    report.samples = [asdict(run) for run in (*found.alone, *found.watched)]
    report.verdicts = [
        Verdict("what watchers add, share of step time", 100 * median(shares), LIMIT_PERCENT, " %"),
    ]
    report.notes.append(
        "the share is CPU time of the server's two threads over the time of the steps; pairs differ from "
        f"{100 * min(shares):.2f} to {100 * max(shares):.2f} %"
    )


def _bytes_each(run: WatchedRun) -> float:
    return run.bytes_read / max(1, run.watchers) / max(run.wall_s, 1e-9)


def _row(name: str, form: str, value: Callable[[WatchedRun], float], found: Pairs) -> Sequence[str]:
    ways = (found.alone, found.watched)
    return (name, *(format(median([value(run) for run in runs]), form) for runs in ways))


def _table(found: Pairs) -> Table:
    rows = [
        _row("wall time, s", ".2f", lambda run: run.wall_s, found),
        _row("steps", ",.0f", lambda run: run.steps, found),
        _row("a step, ms", ".3f", lambda run: run.step_ms, found),
        _row("CPU of the loop, s", ".3f", lambda run: run.loop_cpu_s, found),
        _row("CPU of HTTP, s", ".3f", lambda run: run.http_cpu_s, found),
        _row("bytes a watcher a second", ",.0f", _bytes_each, found),
    ]
    count = found.watched[0].watchers
    return table("The same turns, side by side", ("median", "nobody", f"{count} watchers"), rows)
