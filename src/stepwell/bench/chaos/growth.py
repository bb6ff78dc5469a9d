"""What a process holds as time goes by, and whether it grows: a slope with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stepwell.bench.tiers.crash import directory_bytes

WARM_UP_SHARE = 1 / 3
"""Of the samples: what a server fills once (pools, caches up to their bounds) is no growth."""
FEWEST_SAMPLES = 12


class ProcessSample(NamedTuple):
    """One look at a process."""

    at_s: float
    memory_bytes: int
    descriptors: int
    threads: int
    disk_bytes: int
    """Of the KV tier's directory."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per hour, between the bounds of its 95 % interval."""

    per_hour: float
    low: float
    high: float


def look(process: int, disk: Path, at_s: float) -> ProcessSample:
    """What ``process`` holds now (Linux). ``OSError`` when it has ended."""
    place = Path("/proc") / str(process)
    found = {}
    for line in (place / "status").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        found[name] = value.split()
    return ProcessSample(
        at_s,
        int(found["VmRSS"][0]) * 1024,
        sum(1 for _ in (place / "fd").iterdir()),
        int(found["Threads"][0]),
        directory_bytes(disk),
    )


def enough(samples: Sequence[ProcessSample]) -> bool:
    """Whether enough of them come after the warm-up for a slope."""
    return len(samples) - int(len(samples) * WARM_UP_SHARE) >= FEWEST_SAMPLES


def slope(samples: Sequence[ProcessSample], field: str) -> Slope:
    """Theil-Sen: the median of all slopes between two samples, which single peaks do not move.
    ``ValueError`` with too few samples, ``ImportError`` without scipy."""
    from scipy.stats import theilslopes

    settled = samples[int(len(samples) * WARM_UP_SHARE) :]
    if len(settled) < FEWEST_SAMPLES:
        raise ValueError(f"{len(settled)} samples after the warm-up are too few for a slope")
    values = [getattr(one, field) for one in settled]
    found = theilslopes(values, [one.at_s / 3_600 for one in settled])
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope))
