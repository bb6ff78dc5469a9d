"""``stepwell bench access-log``: what it costs to write a line for each request.

The same turns of many agents over HTTP, without and with the access log, in turn. What the log takes of a
core is measured directly as well: in the event loop, where the line's fields are gathered, and in the thread
that formats and writes them. Half a per cent of a run is less than two runs differ by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from stepwell.bench.clocks import thread_cpu_s, timed_calls
from stepwell.bench.harness import BenchRun, bench, both_ways, scratch
from stepwell.bench.server.null_node import play, served_null_node
from stepwell.console.options import Positive
from stepwell.console.output import facts
from stepwell.console.report import Verdict
from stepwell.server import app as application
from stepwell.server.telemetry.access import Access
from stepwell.telemetry.logs import LogSettings, logging_to

LIMIT_PERCENT = 0.5
LOG_THREAD = "stepwell-log"
ROWS = {
    "lines": "{lines:,.0f}",
    "in the event loop, us a line": "{loop_us_per_line:,.1f}",
    "in the log's thread, us of CPU a line": "{thread_us_per_line:,.1f}",
    "both, share of wall time": "{share_of_wall_time:.3%}",
    "wall time without, median s": "{without:,.2f}",
    "wall time with, median s": "{with:,.2f}",
}


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


@bench("access-log")
def main(
    run: BenchRun,
    *,
    agents: Positive = 200,
    turns: Positive = 2,
    rounds: Positive = 3,
    log_format: Literal["text", "json"] = "json",
) -> None:
    """Measure what the access log costs: the same turns over HTTP without and with it.

    The engine is the null engine, which takes the time of a small model.

    Example: ``stepwell bench access-log``

    Parameters
    ----------
    agents
        How many take turns, all of them at once.
    turns
        Turns of each agent (1 with --quick).
    rounds
        How often the work is done in each way (1 with --quick).
    log_format
        text or json.
    """
    turns, rounds = (1, 1) if run.quick else (turns, rounds)
    run.settings = {
        "agents": agents, "turns": turns, "rounds": rounds, "format": log_format, "quick": run.quick,
    }  # fmt: skip
    with scratch("access") as place:

        def measure(number: int, logs: bool) -> AccessLogRun:
            path = place / f"{number}-{logs}.log"
            return _one_run(place, path, agents, turns, log_format if logs else None)

        run.progress.phase(f"{agents} agents, without and with the access log", 2 * rounds)
        _fill(run, *both_ways(rounds, measure, run.progress))


def _one_run(
    place: Path, log: Path, agents: int, turns: int, log_format: Literal["text", "json"] | None
) -> AccessLogRun:
    run, logging = AccessLogRun(), LogSettings(log_format or "text", access=log_format is not None)
    calls = ((Access, "fields", "loop"), (application, "write_access", "loop"))
    with (
        log.open("w", encoding="utf-8") as stream,
        logging_to(logging, stream=stream),
        timed_calls(calls, time.thread_time) as spent,
        served_null_node(place) as (node, base_url),
    ):
        thread_cpu = thread_cpu_s(LOG_THREAD)
        before_s, started_s = thread_cpu(), time.perf_counter()
        asyncio.run(play(base_url, node.text.name, agents, turns))
        run.wall_s = time.perf_counter() - started_s
        run.thread_cpu_s, run.loop_s = thread_cpu() - before_s, spent["loop"]
    run.lines = len(log.read_text("utf-8").splitlines())
    return run


def _fill(run: BenchRun, bare: Sequence[AccessLogRun], runs: Sequence[AccessLogRun]) -> None:
    shares = [one.share for one in runs]
    without, with_log = ([one.wall_s for one in ones] for ones in (bare, runs))
    run.results = {
        "share_of_wall_time": median(shares),
        "loop_us_per_line": median([one.loop_s / one.lines * 1e6 for one in runs]),
        "thread_us_per_line": median([one.thread_cpu_s / one.lines * 1e6 for one in runs]),
        "without_s": without,
        "with_s": with_log,
    }
    run.samples = [asdict(one) for one in runs]
    run.verdicts = [
        Verdict("the access log, share of wall time", 100 * median(shares), LIMIT_PERCENT, " %"),
    ]
    spread = max(without) / min(without) - 1
    run.notes.append(
        f"runs without the log differ among themselves by {100 * spread:.1f} %: the share is CPU time of the "
        "event loop and of the log's thread, not the difference of two runs"
    )
    lines = median([one.lines for one in runs])
    told = run.results | {"lines": lines, "without": median(without), "with": median(with_log)}
    run.show(facts("The same turns without and with the access log", ROWS, told))
