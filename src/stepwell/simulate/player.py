"""Plays a workload: sends each agent's next turn when what it waits for has ended, and declares as told.

Four ways to declare: nothing (the server sees how each answer ended, no more), what a runtime would say with
an error of a stated size, the truth, or what the runtime really said, where that was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.errors import BadInput
from stepwell.policy.eviction.base import Future
from stepwell.policy.types import NO_HINT, Caller, Hint, Hinted, RequestArrived, RequestId, Wait
from stepwell.simulate.foresight import Foresight, Timetable
from stepwell.simulate.machine import Due
from stepwell.simulate.session import SessionPlay
from stepwell.simulate.workload import Namespace, SaidPause, SessionSpec, TurnSpec, Workload

RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the policy is told about an agent's next turn."""

    sigma: float | None
    """None: nothing is declared. Else each gap is off by a lognormal factor of this sigma."""
    recorded: bool = False
    """What was said when the sessions were recorded is said again."""

    @classmethod
    def parse(cls, text: str) -> Declared:
        """``silent``, ``recorded``, ``exact``, or the sigma as a number. ``BadInput`` otherwise."""
        if text in ("silent", RECORDED):
            return cls(None, text == RECORDED)
        if text == "exact":
            return cls(0.0)
        try:
            sigma = float(text)
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma <= 10:
            raise BadInput(
                f"--declared {text}: give silent, {RECORDED}, exact, or an error such as 0.3 (at most 10)"
            )
        return cls(sigma)

    def __str__(self) -> str:
        if self.sigma is None:
            return RECORDED if self.recorded else "silent"
        return f"{self.sigma:g}" if self.sigma else "exact"

    def hint(self, session: SessionSpec, turn: TurnSpec) -> Hint:
        """What comes with the turn."""
        if self.recorded:
            return _hint_of(session, turn.said)
        if self.sigma is None or not session.agents[turn.agent].name:
            return NO_HINT
        after = None if turn.after_agent is None else session.agents[turn.after_agent].name
        if turn.rest_us is None:
            return Hint(turn.wait)
        expected_us = int(turn.rest_us * math.exp(self.sigma * turn.noise))
        return Hint(turn.wait, expected_us, after, tool=turn.tool)

    def later(self, session: SessionSpec, turn: TurnSpec, request: RequestId, now_us: int) -> Iterator[Due]:
        """What the server hears, or sees in the answer, after the turn."""
        agent = session.agents[turn.agent].name
        if self.sigma is None and agent and not (self.recorded and turn.said.wait is not Wait.UNKNOWN):
            tool = turn.tool if turn.seen_wait is Wait.TOOL else ""
            yield now_us, Hinted(request, session.tenant, agent, Hint(turn.seen_wait, tool=tool))
        for one in turn.said_later if self.recorded else ():
            name, hint = session.agents[one.agent].name, _hint_of(session, one.said)
            yield now_us + one.delay_us, Hinted(0, session.tenant, name, hint)


def _hint_of(session: SessionSpec, said: SaidPause) -> Hint:
    after = None if said.after is None else session.agents[said.after].name
    return Hint(said.wait, said.expected_us, after, tool=said.tool)


class PlayedTurn:
    """A turn of a session as the machine sends it."""

    __slots__ = ("new_tokens", "play", "player", "spec")

    def __init__(self, player: Player, play: SessionPlay, spec: TurnSpec) -> None:
        self.player, self.play, self.spec, self.new_tokens = player, play, spec, spec.new_tokens

    def arrival(self, request: RequestId) -> RequestArrived:
        session, spec = self.play.session, self.spec
        agent = session.agents[spec.agent]
        units = tuple(self.play.namespace.names(spec.prompt))
        if self.player.timetable is not None:
            self.player.timetable.opened(units)
        return RequestArrived(
            request=request,
            caller=Caller(
                session.tenant,
                session.service_tier,
                session.name if agent.name else "",
                agent.name,
                agent.parent,
                agent.role,
            ),
            prompt_tokens=spec.prompt_tokens,
            max_new_tokens=self.player.max_new_tokens,
            units=units,
            hint=self.player.declared.hint(session, spec),
        )

    def units(self, unit_tokens: int) -> list[bytes]:
        """All full units of prompt and answer; those that no turn goes on from get names of their own."""
        spec, namespace = self.spec, self.play.namespace
        total = (spec.prompt_tokens + spec.new_tokens) // unit_tokens
        known = namespace.names(spec.prompt + (spec.grown or ()))[:total]
        return known + namespace.fresh(self.play.serial + spec.number, total - len(known))

    def tail(self, n_tokens: int) -> None:
        return None


class Player:
    """A ``Source``: one run of a workload."""

    def __init__(self, workload: Workload, declared: Declared) -> None:
        self.workload, self.declared = workload, declared
        self.max_new_tokens = workload.max_new_tokens
        shared = Namespace(workload.shared)
        self.plays: dict[bytes, SessionPlay] = {}
        """By the salt of their names; with a shared namespace there is nothing to find here."""
        self._all = [self._play(number, s, shared) for number, s in enumerate(workload.sessions)]
        self.timetable = self._timetable(shared) if workload.shared else None
        """Of an open loop, whose future is fixed."""

    def _timetable(self, shared: Namespace) -> Timetable:
        return Timetable((s.start_us, shared.names(s.turns[0].prompt)) for s in self.workload.sessions)

    def _play(self, number: int, session: SessionSpec, shared: Namespace) -> SessionPlay:
        own = shared if self.workload.shared else Namespace(f"{self.workload.name}/{session.name}")
        agents = len(session.agents)
        play = SessionPlay(session, own, number << 16, [0] * agents, [None] * agents)
        if not self.workload.shared:
            self.plays[own.salt] = play
        return play

    def start(self) -> Iterator[Due]:
        for play in self._all:
            for turn in play.first_turns():
                at_us = turn.at_us if play.session.linked else 0
                yield self._send(play, turn.agent, play.session.start_us + at_us)

    def future(self) -> Future:
        """What an oracle may ask."""
        return Foresight(self.plays) if self.timetable is None else self.timetable

    def _send(self, play: SessionPlay, agent: int, at_us: int) -> Due:
        return at_us, PlayedTurn(self, play, play.schedule(agent, at_us))

    def ended(self, call: object, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, PlayedTurn)
        play, turn = call.play, call.spec
        play.open_turns.pop(turn.number, None)
        if self.timetable is not None:
            self.timetable.closed(play.namespace.names(turn.prompt))
        yield from self.declared.later(play.session, turn, request, now_us)
        for following in play.freed_by(turn.number) if play.session.linked else ():
            yield self._send(play, following.agent, now_us + following.gap_us)
        for child in turn.launches:
            yield self._send(play, child, now_us + play.session.agents[child].offset_us)
        yield from self._go_on(play, turn, now_us)

    def _go_on(self, play: SessionPlay, turn: TurnSpec, now_us: int) -> Iterator[Due]:
        following = play.next_of(turn.agent)
        if following is None and not play.has_open(turn.agent):
            play.ended_agents.add(turn.agent)
            yield from self._release(play, now_us)
            if play.is_over() and not self.workload.shared:
                play.namespace.release()
        elif following is None or play.session.linked:
            return  # another of its turns has not ended; or it comes after those it is linked to
        elif set(following.awaits) <= play.ended_agents:
            yield self._send(play, turn.agent, now_us + following.gap_us)
        else:
            play.held[turn.agent] = following

    def _release(self, play: SessionPlay, now_us: int) -> Iterator[Due]:
        """A child has ended: an agent that waited for the last one goes on."""
        for agent, held in list(play.held.items()):
            if set(held.awaits) <= play.ended_agents:
                del play.held[agent]
                yield self._send(play, agent, now_us + held.gap_us)
