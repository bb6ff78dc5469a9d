"""How the simulation's own time grows with the requests it plays: windows of one run, and a power.

Until host memory is full a request costs more and more, because ever more has to leave for it; afterwards it
should cost the same however many came before. So only windows after that say how the time grows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from stepwell.simulate.cluster import Cluster

FEWEST_WINDOWS = 8
"""Fewer after the warm-up say nothing about growth."""
FULL = 0.95
"""Share of host memory (or of the device, where there is no host memory) that counts as full."""
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class RunWindow:
    """Some requests in a row, from one end to another."""

    requests: int
    """That have ended by its end, in the whole run."""
    ended: int
    """In it."""
    cpu_s: float
    steps: int
    computed_tokens: int
    """Of prompts and answers."""
    under_way: float
    """Turns that have come and not ended, the mean over the ends in it."""
    host_share: float
    """Of host memory in use at its end; of the device where no host memory is."""
    simulated_s: float
    """The fleet's clock at its end."""

    @property
    def cpu_ms_per_request(self) -> float:
        return 1e3 * self.cpu_s / self.ended

    @property
    def steps_per_request(self) -> float:
        return self.steps / self.ended

    @property
    def cpu_us_per_step(self) -> float:
        return 1e6 * self.cpu_s / max(1, self.steps)


class WindowRecorder:
    """Call ``ended`` at the end of every turn (its count, the time); ``told`` hears of each full window."""

    def __init__(
        self,
        cluster: Cluster,
        every: int,
        told: Callable[[RunWindow], None] = lambda window: None,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self.windows: list[RunWindow] = []
        self._cluster, self._every, self._told, self._cpu_s = cluster, every, told, cpu_s
        self._under_way: list[int] = []
        self._at = (0, cpu_s(), 0, 0)

    def ended(self, count: int, now_us: int) -> None:
        machines = [replica.machine for replica in self._cluster.replicas]
        self._under_way.append(sum([len(machine.live) for machine in machines]))
        if count % self._every:
            return
        steps = sum([machine.steps for machine in machines])
        tokens = sum([m.meter.prefill_tokens + m.meter.decode_tokens for m in machines])
        cpu_s = self._cpu_s()
        was_count, was_cpu_s, was_steps, was_tokens = self._at
        self._at = (count, cpu_s, steps, tokens)
        self.windows.append(
            RunWindow(
                count, count - was_count, cpu_s - was_cpu_s, steps - was_steps, tokens - was_tokens,
                fmean(self._under_way), self._full(), now_us / 1e6,
            )
        )  # fmt: skip
        self._under_way.clear()
        self._told(self.windows[-1])

    def _full(self) -> float:
        managers = [replica.machine.scheduler.block_manager for replica in self._cluster.replicas]
        config = self._cluster.site.config
        if not config.host_bytes:
            return sum([one.device_used for one in managers]) / (config.device_blocks * len(managers))
        return sum([one.host_used for one in managers]) / (config.host_bytes * len(managers))


@dataclass(frozen=True, slots=True)
class GrowthPower:
    """What all of the time grows with, as a power of requests; 1 is linear. Bounds of 95 %."""

    value: float
    low: float
    high: float
    windows: int


def warm(windows: Sequence[RunWindow]) -> Sequence[RunWindow]:
    """Those after the first at whose end memory was full."""
    for at, window in enumerate(windows):
        if window.host_share >= FULL:
            return windows[at + 1 :]
    return ()


def power(windows: Sequence[RunWindow], figure: Callable[[RunWindow], float]) -> GrowthPower | None:
    """If a request costs n^(p-1) after n of them, all of them cost n^p: least squares of the logarithm of
    ``figure`` (per request) over that of n. None: fewer than ``FEWEST_WINDOWS``, or a figure of zero.

    The interval takes windows to be independent; a trace whose requests change makes it too narrow.
    """
    points = [(one.requests - one.ended / 2, figure(one)) for one in windows]
    if len(points) < FEWEST_WINDOWS or any(y <= 0 for _, y in points):
        return None
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    middle, height, free = fmean(xs), fmean(ys), len(points) - 2
    spread = sum((x - middle) ** 2 for x in xs)
    slope = sum((x - middle) * (y - height) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - height - slope * (x - middle)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = _t95(free) * math.sqrt(rest / free / spread)
    return GrowthPower(1 + slope, 1 + slope - half, 1 + slope + half, len(points))


def _t95(free: int) -> float:
    """Student's quantile, by Cornish and Fisher's expansion (off by 0.6 % at most from 6 degrees on)."""
    z = _Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / free + second / free**2
