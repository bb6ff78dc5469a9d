"""A lower bound on the cost of misses: what no policy beats that opens the same turns at the same times.

Between two uses a unit of context either stays on the device (free), stays somewhere in the three KV tiers
(one copy to the device), or is computed again at its depth. Two capacities hold at every moment, each less
what running turns hold: the device, and all KV tiers together. A unit is of use only with the one before it.
That is a linear program. What it leaves out only makes the bound lower: units may be kept in fractions, the
disk is free and instant, everything is fetched ahead in time, nothing is kept twice or in whole blocks.

The bound belongs to the timeline of one run (`timeline.py`); timelines of different policies hardly move it.
In the spirit of FOO (Berger, Beckmann, Harchol-Balter: Practical Bounds on Optimal Caching with Variable
Object Sizes, 2018), with levels instead of hits. Solved by HiGHS (extra ``bound``).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.errors import BadInput
from stepwell.simulate.hardware import StepCosts
from stepwell.simulate.timeline import Episode, Timeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVICE, ANYWHERE = 0, 1
_LEVELS = (DEVICE, ANYWHERE)


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds of the modelled machine; ``miss_s = again_s + copy_s``."""

    miss_s: float
    again_s: float
    copy_s: float


@dataclass(frozen=True, slots=True)
class Reuse:
    """Units ``[first, stop)`` of an episode that were last held by one that closed at ``since_us``."""

    since_us: int
    until_us: int
    first: int
    stop: int
    above: int | None
    """The run of units before it in the same prompt, as an index; None: nothing before it can be lost."""


@dataclass(slots=True)
class Uses:
    """What a timeline asks for. ``held``: changes of the number of units that running turns hold."""

    reuses: list[Reuse] = field(default_factory=list)
    held: list[tuple[int, int]] = field(default_factory=list)


def is_available() -> bool:
    """Whether the solver is installed."""
    return importlib.util.find_spec("highspy") is not None


def miss_bound(
    timeline: Timeline, model: StepCosts, *, device: int, everything: int, block_tokens: int
) -> Bound:
    """The bound of one run. ``device`` and ``everything``: blocks on the device, and on all KV tiers.

    ``BadInput`` when the solver is missing.
    """
    if not is_available():
        raise BadInput("the lower bound needs the extra 'bound' (pip install 'stepwell[bound]')")
    uses = uses_of(timeline)
    if not uses.reuses:
        return Bound(0.0, 0.0, 0.0)
    return _Program(uses, timeline.unit_tokens, model, (device, everything), block_tokens).solved()


# --- what a timeline asks for -----------------------------------------------------------------


def uses_of(timeline: Timeline) -> Uses:
    """Runs of units by the episode that used them last, and what running turns hold."""
    uses = Uses()
    last_close_us: dict[bytes, int] = {}
    for episode in sorted((e for e in timeline.episodes if e.closed_us), key=lambda e: e.ready_us):
        _reuse(uses, episode, last_close_us)
        _hold(uses, episode, last_close_us)
    return uses


def _reuse(uses: Uses, episode: Episode, last_close_us: dict[bytes, int]) -> None:
    above: int | None = None
    for first, stop, since_us in _runs(episode, last_close_us):
        if since_us is not None and since_us < episode.ready_us:
            uses.reuses.append(Reuse(since_us, episode.ready_us, first, stop, above))
            above = len(uses.reuses) - 1


def _runs(episode: Episode, last_close_us: dict[bytes, int]) -> Iterator[tuple[int, int, int | None]]:
    """Runs of needed units that share the close of their last use; None: never used before."""
    first, since_us = 0, None
    for at in range(episode.needed):
        found = last_close_us.get(episode.units[at])
        if at > first and found != since_us:
            yield first, at, since_us
            first = at
        since_us = found
    if episode.needed > first:
        yield first, episode.needed, since_us


def _hold(uses: Uses, episode: Episode, last_close_us: dict[bytes, int]) -> None:
    """From ready to its close the episode holds its units; those that another one holds count once."""
    added: dict[int, int] = {}
    for unit in episode.units[: max(episode.needed, episode.held)]:
        before_us = last_close_us.get(unit, -1)
        if before_us < episode.closed_us:
            from_us = max(before_us, episode.ready_us)
            added[from_us] = added.get(from_us, 0) + 1
            last_close_us[unit] = episode.closed_us
    for from_us, count in added.items():
        uses.held += [(from_us, count), (episode.closed_us, -count)]


# --- the linear program -----------------------------------------------------------------------


class _Program:
    """Columns, per level: the kept share of each run, then what is kept at each moment.

    The moments are differenced (kept now - kept before = began - ended), which keeps the rows short.
    """

    def __init__(
        self,
        uses: Uses,
        unit_tokens: int,
        model: StepCosts,
        room: tuple[int, int],
        block_tokens: int,
    ) -> None:
        import numpy as np

        self.reuses, self.room = uses.reuses, room
        self.blocks = np.array([(r.stop - r.first) * unit_tokens / block_tokens for r in uses.reuses])
        self.again_s = np.array(
            [model.prefill_us(r.first * unit_tokens, r.stop * unit_tokens) / 1e6 for r in uses.reuses]
        )
        self.copy_s = np.minimum(self.blocks * (model.copy_us_per_block / 1e6), self.again_s)
        since = np.array([r.since_us for r in uses.reuses])
        until = np.array([r.until_us for r in uses.reuses])
        moments = np.array([at_us for at_us, _ in uses.held])
        self.times = np.unique(np.concatenate([since, until, moments]))
        self.begins = np.searchsorted(self.times, since)
        self.ends = np.searchsorted(self.times, until)
        changes = np.zeros(len(self.times))
        counts = np.array([count for _, count in uses.held]) * (unit_tokens / block_tokens)
        np.add.at(changes, np.searchsorted(self.times, moments), counts)
        self.held = np.cumsum(changes)

    def solved(self) -> Bound:
        import highspy

        with _greeting_to_stderr():
            solver = highspy.Highs()
        solver.silent()
        solver.setOptionValue("threads", 1)
        solver.passModel(self._model())
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise BadInput(f"the lower bound was not found: {solver.getModelStatus()}")
        kept = [self._kept(solver.getSolution().col_value, level) for level in _LEVELS]
        again_s = float((self.again_s * (1 - kept[ANYWHERE])).sum())
        copy_s = float((self.copy_s * (kept[ANYWHERE] - kept[DEVICE])).sum())
        return Bound(again_s + copy_s, again_s, copy_s)

    def _kept(self, columns: Any, level: int) -> NDArray[np.float64]:
        import numpy as np

        first = self._first(level)
        return np.asarray(columns[first : first + len(self.reuses)])

    def _first(self, level: int) -> int:
        """The first column of a level."""
        return level * (len(self.reuses) + len(self.times))

    def _model(self) -> Any:
        import highspy
        import numpy as np

        runs, moments = len(self.reuses), len(self.times)
        columns = 2 * (runs + moments)
        cost, upper = np.zeros(columns), np.ones(columns)
        for level, saved_s in ((DEVICE, self.copy_s), (ANYWHERE, self.again_s - self.copy_s)):
            first = self._first(level)
            cost[first : first + runs] = -saved_s
            upper[first + runs : first + runs + moments] = np.maximum(0.0, self.room[level] - self.held)
        rows = _Rows()
        for level in _LEVELS:
            self._add_moments(rows, level)
        self._add_order(rows)
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = columns, rows.count
        program.col_cost_, program.col_lower_, program.col_upper_ = cost, np.zeros(columns), upper
        program.row_lower_, program.row_upper_ = rows.lower(), np.zeros(rows.count)
        matrix = program.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_, matrix.index_, matrix.value_ = rows.compressed()
        return program

    def _add_moments(self, rows: _Rows, level: int) -> None:
        """What is kept at a moment is what was kept before, and what begins, less what ends."""
        import numpy as np

        runs, moments = len(self.reuses), len(self.times)
        first, kept = self._first(level), self._first(level) + runs
        numbers, columns = np.arange(moments), np.arange(runs)
        rows.add(numbers, kept + numbers, np.ones(moments))
        rows.add(numbers[1:], kept + numbers[:-1], -np.ones(moments - 1))
        rows.add(self.begins, first + columns, -self.blocks)
        rows.add(self.ends, first + columns, self.blocks)
        rows.close(moments, equal=True)

    def _add_order(self, rows: _Rows) -> None:
        """On the device at most what is anywhere; no run without the one before it in its prompt."""
        import numpy as np

        runs = np.arange(len(self.reuses))
        rows.add(runs, self._first(DEVICE) + runs, np.ones(len(runs)))
        rows.add(runs, self._first(ANYWHERE) + runs, -np.ones(len(runs)))
        rows.close(len(runs), equal=False)
        deeper = np.array([i for i, r in enumerate(self.reuses) if r.above is not None], dtype=np.int64)
        above = np.array([r.above for r in self.reuses if r.above is not None], dtype=np.int64)
        numbers = np.arange(len(deeper))
        rows.add(numbers, self._first(ANYWHERE) + deeper, np.ones(len(deeper)))
        rows.add(numbers, self._first(ANYWHERE) + above, -np.ones(len(deeper)))
        rows.close(len(deeper), equal=False)


class _Rows:
    """Rows of a sparse matrix, a family at a time; every upper bound is 0."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[Any] = []
        self._columns: list[Any] = []
        self._values: list[Any] = []
        self._equal: list[tuple[int, bool]] = []

    def add(self, rows: Any, columns: Any, values: Any) -> None:
        """Entries of the family that is being added; ``rows`` count from its first one."""
        self._rows.append(rows + self.count)
        self._columns.append(columns)
        self._values.append(values)

    def close(self, count: int, *, equal: bool) -> None:
        """The family has so many rows; they are equal to 0, or at most 0."""
        self.count += count
        self._equal.append((count, equal))

    def lower(self) -> Any:
        import numpy as np

        return np.concatenate([np.full(n, 0.0 if equal else -np.inf) for n, equal in self._equal])

    def compressed(self) -> tuple[Any, Any, Any]:
        """Starts, columns and values by row."""
        import numpy as np

        rows, columns = np.concatenate(self._rows), np.concatenate(self._columns)
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], np.arange(self.count + 1))
        return starts, columns[order], np.concatenate(self._values)[order]


@contextmanager
def _greeting_to_stderr() -> Iterator[None]:
    """HiGHS greets on standard output before any option can be set, and ``--json -`` writes there."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
