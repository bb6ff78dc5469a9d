"""What the oracle asks: when is this block used next?

Open loop: the next arrival of a turn that contains the block. Closed loop: a turn that is scheduled has its
time; those after it come as far behind it as in the trace (how long answers will take is not known even to
an oracle, because the policy decides it).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from stepwell.policy.index import Block
from stepwell.simulate.player import Player, SessionPlay
from stepwell.simulate.workload import Runs, SessionSpec, numbers

Uses = tuple[tuple[int, tuple[int, ...]], ...]
"""Which turns of a session contain a name: agents, each with places among its turns."""


class Foresight:
    """``foresight(block, now_us)``: the next use in microseconds, at least ``now_us``; None: never again."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._shared = _Timetable(player) if player.workload.shared else None
        self._uses: dict[bytes, Uses] = {}

    def __call__(self, block: Block, now_us: int) -> int | None:
        if not block.meta.units:
            return now_us  # less than a unit: what a preempted turn left, and it is in the queue
        name = block.meta.units[-1]
        if self._shared is not None:
            return self._shared.next_use_us(name, now_us)
        play = self._player.plays.get(name[:8])
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


class _Timetable:
    """All arrivals of an open loop, by the units that they contain."""

    def __init__(self, player: Player) -> None:
        self._open = player.open_names
        self._times: dict[int, list[int]] = {}
        for session in sorted(player.workload.sessions, key=lambda s: s.start_us):
            for number in numbers(session.turns[0].prompt):
                self._times.setdefault(number, []).append(session.start_us)

    def next_use_us(self, name: bytes, now_us: int) -> int | None:
        number = int.from_bytes(name[8:], "big")
        if self._open.get(number):
            return now_us
        times = self._times.get(number, ())
        following = bisect_right(times, now_us)
        return times[following] if following < len(times) else None
