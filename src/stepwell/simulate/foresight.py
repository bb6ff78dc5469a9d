"""What the oracle asks: when is this block used next?

Open loop: the next arrival of a turn that contains the block. Closed loop: a turn that is scheduled has its
time; those after it come as far behind it as in the trace (how long answers will take is not known even to
an oracle, because the policy decides it).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from stepwell.policy.block_index import Block
from stepwell.simulate.session import SessionPlay
from stepwell.simulate.workload import Runs, SessionSpec

_FAR_US = 30 * 86_400_000_000

Uses = tuple[tuple[int, tuple[int, ...]], ...]
"""Which turns of a session contain a name: agents, each with places among its turns."""


def next_use_us(block: Block, now_us: int, ask: Callable[[bytes, int], int | None]) -> int | None:
    """The next use of most of the block.

    A prompt that leaves the prefix inside a block uses only its beginning. A use of half of it counts; a
    block of which less is ever used again comes behind all others, but is not worthless.
    """
    units = block.meta.units
    if not units:
        return now_us  # less than a unit: what a preempted turn left, and that turn is in the queue
    next_us = ask(units[len(units) // 2], now_us)
    if next_us is not None:
        return next_us
    begins_us = ask(units[0], now_us)
    return None if begins_us is None else begins_us + _FAR_US


class Foresight:
    """A closed loop. ``foresight(block, now_us)``: the next use, at least ``now_us``; None: never again."""

    def __init__(self, plays: Mapping[bytes, SessionPlay]) -> None:
        """``plays``: the sessions by the salt of their names."""
        self._plays = plays
        self._uses: dict[bytes, Uses] = {}

    def __call__(self, block: Block, now_us: int) -> int | None:
        return next_use_us(block, now_us, self._next_use)

    def _next_use(self, name: bytes, now_us: int) -> int | None:
        play = self._plays.get(name[:8])
        return None if play is None else self._next_in(play, name, now_us)

    def _next_in(self, play: SessionPlay, name: bytes, now_us: int) -> int | None:
        uses = self._uses.get(name)
        if uses is None:
            uses = self._uses[name] = _uses(play.session, int.from_bytes(name[8:], "big"))
        best: int | None = None
        for agent, places in uses:
            following = bisect_left(places, play.first_open(agent))
            if following < len(places):
                time_us = self._when(play, agent, places[following], now_us)
                best = time_us if best is None or time_us < best else best
        return best

    def _when(self, play: SessionPlay, agent: int, place: int, now_us: int) -> int:
        """When an agent's turn that has not ended comes, or came."""
        anchor = self._anchor(play, agent)
        if anchor is None:  # a child that is not launched yet comes when the trace's main agent is so far
            anchor = self._anchor(play, 0) or (now_us, 0)
        due_us, at_us = anchor
        session = play.session
        return max(now_us, due_us + session.turns[session.agents[agent].turns[place]].at_us - at_us)

    def _anchor(self, play: SessionPlay, agent: int) -> tuple[int, int] | None:
        """The agent's last scheduled turn: when it comes or came, and its time in the trace."""
        due_us, sent = play.due_us[agent], play.sent[agent]
        if due_us is None:
            return None
        return due_us, play.session.turns[play.session.agents[agent].turns[sent - 1]].at_us


def _uses(session: SessionSpec, number: int) -> Uses:
    found = []
    for agent, spec in enumerate(session.agents):
        places = (p for p, turn in enumerate(spec.turns) if _holds(session.turns[turn].prompt, number))
        found.append((agent, tuple(places)))
    return tuple(use for use in found if use[1])


def _holds(runs: Runs, number: int) -> bool:
    return any(first <= number < first + count for first, count in runs)


class Timetable:
    """All arrivals of an open loop, by the units that they contain.

    What has come and not ended uses its units now, wherever it stands.
    """

    def __init__(self, arrivals: Iterable[tuple[int, Iterable[bytes]]]) -> None:
        self._open: Counter[bytes] = Counter()
        self._times: dict[bytes, list[int]] = {}
        for at_us, units in sorted(arrivals, key=lambda arrival: arrival[0]):
            for unit in units:
                self._times.setdefault(unit, []).append(at_us)

    def opened(self, units: Iterable[bytes]) -> None:
        """A turn has come."""
        self._open.update(units)

    def closed(self, units: Iterable[bytes]) -> None:
        """A turn has ended."""
        self._open.subtract(units)

    def __call__(self, block: Block, now_us: int) -> int | None:
        """As ``Foresight``."""
        return next_use_us(block, now_us, self._next_use)

    def _next_use(self, name: bytes, now_us: int) -> int | None:
        if self._open[name] > 0:
            return now_us
        times = self._times.get(name, ())
        following = bisect_right(times, now_us)
        return times[following] if following < len(times) else None
