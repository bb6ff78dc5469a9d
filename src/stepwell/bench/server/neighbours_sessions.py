"""One tenant's own neighbours: what a short turn feels of the long prompt of another session of its tenant.

A crew is one tenant, so this is what its agents do to each other: one reads a document while another has two
lines to answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import httpx2
from rich.table import Table

from stepwell.bench.client import TurnSample, complete
from stepwell.bench.server.flood import FloodTarget, Neighbours
from stepwell.console.output import table
from stepwell.engines.prose import prose

SHORT_WORDS, SHORT_TOKENS = 12, 4
REPEATS = 3


@dataclass(slots=True)
class Siblings:
    """Short turns alone and beside a long prompt, and the long prompts alone and beside short turns."""

    alone: list[TurnSample] = field(default_factory=list)
    beside: list[TurnSample] = field(default_factory=list)
    long_alone: list[TurnSample] = field(default_factory=list)
    long_beside: list[TurnSample] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        every = (*self.alone, *self.beside, *self.long_alone, *self.long_beside)
        return [sample.error for sample in every if sample.error]

    @property
    def usable(self) -> bool:
        return bool(self.alone and self.beside and self.long_alone) and not self.errors

    @property
    def ratio(self) -> float:
        """Median time to the first token beside the long prompt, over alone; infinite where one failed."""
        return ttft_s(self.beside) / ttft_s(self.alone) if self.usable else float("inf")

    @property
    def wait_of_long(self) -> float:
        """How much of the long prompt's own time a short turn waits for it; 1: all of it."""
        return ttft_s(self.beside) / ttft_s(self.long_alone) if self.usable else float("inf")

    def as_json(self) -> dict[str, float | None]:
        if not self.usable:
            return {"ttft_ratio": None}
        return {
            "ttft_alone_s": ttft_s(self.alone),
            "ttft_beside_long_s": ttft_s(self.beside),
            "ttft_ratio": self.ratio,
            "long_ttft_alone_s": ttft_s(self.long_alone),
            "long_ttft_beside_s": ttft_s(self.long_beside),
        }


def ttft_s(samples: Sequence[TurnSample]) -> float:
    return median(sample.ttft_s for sample in samples)


def measure_siblings(target: FloodTarget, work: Neighbours) -> Siblings:
    """Both kinds of turn alone, then a short one sent while a long one is being computed."""
    found, rng = Siblings(), random.Random(work.seed + 99)
    with target.client(target.paid_key) as http:
        for number in range(REPEATS):
            found.alone.append(_short(http, target, rng, f"alone-{number}"))
            found.long_alone.append(_long(http, target, work, rng, f"long-{number}"))
        for number in range(REPEATS):
            _beside(http, target, work, rng, number, found)
    return found


def _beside(
    http: httpx2.Client,
    target: FloodTarget,
    work: Neighbours,
    rng: random.Random,
    number: int,
    found: Siblings,
) -> None:
    text, name = prose(rng, work.long_words), f"reader-{number}"

    def read() -> None:
        found.long_beside.append(complete(http, target.model, text, SHORT_TOKENS, name))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(ttft_s(found.long_alone) / 10 if found.long_alone[0].error is None else 0.0)
    found.beside.append(_short(http, target, rng, f"beside-{number}"))
    reader.join()


def _short(http: httpx2.Client, target: FloodTarget, rng: random.Random, session: str) -> TurnSample:
    return complete(http, target.model, prose(rng, SHORT_WORDS), SHORT_TOKENS, session)


def _long(
    http: httpx2.Client, target: FloodTarget, work: Neighbours, rng: random.Random, session: str
) -> TurnSample:
    return complete(http, target.model, prose(rng, work.long_words), SHORT_TOKENS, session)


def siblings_table(rows: Sequence[tuple[str, Siblings]]) -> Table:
    columns = ("server", "short, alone", "beside long", "x", "long, alone", "beside short")
    title = "One tenant, two sessions: TTFT in ms, median"
    return table(title, columns, [[name, *_cells(found)] for name, found in rows])


def _cells(found: Siblings) -> list[str]:
    if not found.usable:
        return ["-"] * 5
    times = [f"{1e3 * ttft_s(s):,.0f}" for s in (found.alone, found.beside)]
    longs = [f"{1e3 * ttft_s(s):,.0f}" for s in (found.long_alone, found.long_beside)]
    return [*times, f"{found.ratio:.1f}", *longs]
