"""``stepwell bench watchers``: what people who look on cost those who work.

The same turns of many agents over HTTP, without and with fifty readers of ``/v1/watch``, in turn. Two
threads of the server matter: the loop's, which steps the engine, and that of HTTP, where frames are made and
sent. What their CPU time grows by is held against the time of the steps: it is what watchers could take from
them at most, were every moment of it a moment in which the engine waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from stepwell.bench.child import Child
from stepwell.bench.clocks import thread_cpu_s
from stepwell.bench.harness import BenchRun, bench, both_ways, scratch
from stepwell.bench.server.null_node import play, served_null_node
from stepwell.console.options import Positive
from stepwell.console.output import table
from stepwell.console.report import Verdict

LIMIT_PERCENT = 1.0
LOOP_THREAD, HTTP_THREAD = "stepwell-driver", "stepwell-http"
ROWS = (
    ("wall time, s", "wall_s", ".2f"),
    ("steps", "steps", ",.0f"),
    ("a step, ms", "step_ms", ".3f"),
    ("CPU of the loop, s", "loop_cpu_s", ".3f"),
    ("CPU of HTTP, s", "http_cpu_s", ".3f"),
    ("bytes a watcher a second", "bytes_each", ",.0f"),
)
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

    @property
    def bytes_each(self) -> float:
        """A second, of each watcher."""
        return self.bytes_read / max(1, self.watchers) / max(self.wall_s, 1e-9)


@bench("watchers")
def main(
    run: BenchRun,
    *,
    agents: Positive = 200,
    watchers: Positive = 50,
    turns: Positive = 4,
    rounds: Positive = 5,
) -> None:
    """Measure what watchers cost: the same turns over HTTP without and with readers of /v1/watch.

    The engine is the null engine, which takes the time of a small model. Readers are a process of their own.

    Example: ``stepwell bench watchers``

    Parameters
    ----------
    agents
        How many take turns, all of them at once.
    watchers
        How many read the stream of the operators' view, a frame a second.
    turns
        Turns of each agent (1 with --quick).
    rounds
        How often the work is done in each way (1 with --quick).
    """
    turns, rounds = (1, 1) if run.quick else (turns, rounds)
    run.settings = {
        "agents": agents, "watchers": watchers, "turns": turns, "rounds": rounds, "quick": run.quick,
    }  # fmt: skip
    with scratch("watchers") as place:
        run.progress.phase(f"{agents} agents, without and with {watchers} watchers", 2 * rounds)
        ways = both_ways(
            rounds, lambda _, on: _one_run(place, agents, turns, watchers if on else 0), run.progress
        )
    _fill(run, *ways)


def _one_run(place: Path, agents: int, turns: int, watchers: int) -> WatchedRun:
    run = WatchedRun(watchers)
    with served_null_node(place) as (node, base_url), _readers(base_url, run):
        loop_cpu, http_cpu = thread_cpu_s(LOOP_THREAD), thread_cpu_s(HTTP_THREAD)
        before = node.driver.snapshot().counters
        started_s, loop_s, http_s = time.perf_counter(), loop_cpu(), http_cpu()
        asyncio.run(play(base_url, node.text.name, agents, turns))
        run.wall_s = time.perf_counter() - started_s
        run.loop_cpu_s, run.http_cpu_s = loop_cpu() - loop_s, http_cpu() - http_s
        after = node.driver.snapshot().counters
        run.steps = after["steps"] - before["steps"]
        run.step_s = (after["step_us"] - before["step_us"]) / 1e6
    return run


@contextmanager
def _readers(url: str, run: WatchedRun) -> Iterator[None]:
    """A process with the watchers of a run; also where there are none, so that both ways have one."""
    with Child(CHILD, url, str(run.watchers), hears=True) as child:
        child.expect("ready")
        yield
        child.hang_up()
        run.bytes_read = int(child.line())


def _fill(run: BenchRun, alone: Sequence[WatchedRun], watched: Sequence[WatchedRun]) -> None:
    # Per pair: CPU time that came with the watchers, over the time of the steps.
    pairs = zip(alone, watched, strict=True)
    shares = [(two.cpu_s - one.cpu_s) / two.step_s for one, two in pairs]
    run.results = {
        "share_of_step_time": median(shares),
        "step_ms_alone": median([one.step_ms for one in alone]),
        "step_ms_watched": median([one.step_ms for one in watched]),
        "bytes_a_watcher_a_second": median([one.bytes_each for one in watched]),
    }
    run.samples = [asdict(one) for one in (*alone, *watched)]
    run.verdicts = [
        Verdict("what watchers add, share of step time", 100 * median(shares), LIMIT_PERCENT, " %"),
    ]
    run.notes.append(
        "the share is CPU time of the server's two threads over the time of the steps; pairs differ from "
        f"{100 * min(shares):.2f} to {100 * max(shares):.2f} %"
    )
    rows = [
        (name, *(format(median([getattr(one, figure) for one in way]), form) for way in (alone, watched)))
        for name, figure, form in ROWS
    ]
    head = ("median", "no watchers", f"{watched[0].watchers} watchers")
    run.show(table("The same turns, side by side", head, rows))
