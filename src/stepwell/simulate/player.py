"""Plays a workload: sends each agent's next turn when what it waits for has ended, and declares as told.

Three ways to declare: nothing (the server sees how each answer ended, no more), what a runtime would say with
an error of a stated size, or the truth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwell.errors import BadInput
from stepwell.policy.types import NO_HINT, Hint, Hinted, RequestArrived, RequestId
from stepwell.simulate.machine import Due
from stepwell.simulate.workload import Namespace, SessionSpec, TurnSpec, Workload, numbers


@dataclass(frozen=True, slots=True)
class Declared:
    """What the policy is told about an agent's next turn."""

    sigma: float | None
    """None: nothing is declared. Else each gap is off by a lognormal factor of this sigma."""

    @classmethod
    def parse(cls, text: str) -> Declared:
        """``silent``, ``exact``, or the sigma as a number. ``BadInput`` otherwise."""
        if text == "silent":
            return cls(None)
        if text == "exact":
            return cls(0.0)
        try:
            sigma = float(text)
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma <= 10:
            raise BadInput(f"--declared {text}: give silent, exact, or an error such as 0.3 (at most 10)")
        return cls(sigma)

    def __str__(self) -> str:
        if self.sigma is None:
            return "silent"
        return f"{self.sigma:g}" if self.sigma else "exact"

    def hint(self, session: SessionSpec, turn: TurnSpec) -> Hint:
        """What comes with the turn."""
        if self.sigma is None or not session.agents[turn.agent].name:
            return NO_HINT
        after = None if turn.after_agent is None else session.agents[turn.after_agent].name
        if turn.rest_us is None:
            return Hint(turn.wait)
        return Hint(turn.wait, int(turn.rest_us * math.exp(self.sigma * turn.noise)), after)


class PlayedTurn:
    """A turn of a session as the machine sends it."""

    __slots__ = ("new_tokens", "play", "spec")

    def __init__(self, play: SessionPlay, spec: TurnSpec) -> None:
        self.play, self.spec, self.new_tokens = play, spec, spec.new_tokens

    def arrival(self, request: RequestId) -> RequestArrived:
        session, spec = self.play.session, self.spec
        agent = session.agents[spec.agent]
        self.play.player.opened(spec)
        return RequestArrived(
            request=request,
            tenant=session.tenant,
            service_tier=session.service_tier,
            session=session.name if agent.name else "",
            agent=agent.name,
            parent_agent=agent.parent,
            prompt_tokens=spec.prompt_tokens,
            max_new_tokens=self.play.player.max_new_tokens,
            units=tuple(self.play.namespace.names(spec.prompt)),
            role=agent.role,
            hint=self.play.player.declared.hint(session, spec),
        )

    def units(self) -> list[bytes]:
        """All full units of prompt and answer; those that nobody goes on from get names of their own."""
        spec, namespace = self.spec, self.play.namespace
        total = (spec.prompt_tokens + spec.new_tokens) // self.play.player.workload.unit_tokens
        known = namespace.names(spec.prompt + (spec.grown or ()))[:total]
        return known + namespace.fresh(self.play.serial + spec.number, total - len(known))

    def tail(self, n_tokens: int) -> None:
        return None


@dataclass(slots=True, eq=False)
class SessionPlay:
    """Where a session stands. Positions count the turns of an agent that have been sent or scheduled."""

    player: Player
    session: SessionSpec
    namespace: Namespace
    serial: int
    """Makes names of generated units differ between sessions of one namespace."""
    sent: list[int]
    """Per agent: how many turns have been scheduled."""
    due_us: list[int | None]
    """Per agent: when its last scheduled turn comes or came; None: none is scheduled."""
    open_turns: dict[int, None] = field(default_factory=dict)
    """Turns that were scheduled and have not ended."""
    ended_agents: set[int] = field(default_factory=set)
    held: dict[int, TurnSpec] = field(default_factory=dict)
    """Per agent: a turn that waits for children."""

    def schedule(self, agent: int, at_us: int) -> Due:
        turn = self.session.turns[self.session.agents[agent].turns[self.sent[agent]]]
        self.sent[agent] += 1
        self.due_us[agent] = at_us
        self.open_turns[turn.number] = None
        return at_us, PlayedTurn(self, turn)

    def next_of(self, agent: int) -> TurnSpec | None:
        spec = self.session.agents[agent]
        return (
            self.session.turns[spec.turns[self.sent[agent]]] if self.sent[agent] < len(spec.turns) else None
        )

    def first_open(self, agent: int) -> int:
        """The place, among the agent's turns, of the first that has not ended."""
        sent = self.sent[agent]
        if sent and self.session.agents[agent].turns[sent - 1] in self.open_turns:
            return sent - 1
        return sent

    def is_over(self) -> bool:
        return len(self.ended_agents) == len(self.session.agents)


class Player:
    """A ``Source``: one run of a workload."""

    def __init__(self, workload: Workload, declared: Declared) -> None:
        self.workload, self.declared = workload, declared
        self.max_new_tokens = workload.max_new_tokens
        shared = Namespace(workload.shared)
        self.plays: dict[bytes, SessionPlay] = {}
        """By the salt of their names; with a shared namespace there is nothing to find here."""
        self.open_names: Counter[int] = Counter()
        """Of a shared namespace: how many turns that have come and not ended contain each name."""
        self._all = [self._play(number, s, shared) for number, s in enumerate(workload.sessions)]

    def _play(self, number: int, session: SessionSpec, shared: Namespace) -> SessionPlay:
        own = shared if self.workload.shared else Namespace(f"{self.workload.name}/{session.name}")
        agents = len(session.agents)
        play = SessionPlay(self, session, own, number << 16, [0] * agents, [None] * agents)
        if not self.workload.shared:
            self.plays[own.salt] = play
        return play

    def start(self) -> Iterator[Due]:
        for play in self._all:
            yield play.schedule(0, play.session.start_us)

    def opened(self, turn: TurnSpec) -> None:
        """A turn has come."""
        if self.workload.shared:
            self.open_names.update(numbers(turn.prompt))

    def ended(self, call: object, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, PlayedTurn)
        play, turn = call.play, call.spec
        agent = play.session.agents[turn.agent]
        play.open_turns.pop(turn.number, None)
        if self.workload.shared:
            self.open_names.subtract(numbers(turn.prompt))
        if self.declared.sigma is None and agent.name:
            yield now_us, Hinted(request, play.session.tenant, agent.name, Hint(turn.seen_wait))
        for child in turn.launches:
            yield play.schedule(child, now_us + play.session.agents[child].offset_us)
        yield from self._go_on(play, turn, now_us)

    def _go_on(self, play: SessionPlay, turn: TurnSpec, now_us: int) -> Iterator[Due]:
        following = play.next_of(turn.agent)
        if following is None:
            play.ended_agents.add(turn.agent)
            yield from self._release(play, now_us)
            if play.is_over() and not self.workload.shared:
                play.namespace.release()
        elif set(following.awaits) <= play.ended_agents:
            yield play.schedule(turn.agent, now_us + following.gap_us)
        else:
            play.held[turn.agent] = following

    def _release(self, play: SessionPlay, now_us: int) -> Iterator[Due]:
        """A child has ended: whoever waited for the last one goes on."""
        for agent, held in list(play.held.items()):
            if set(held.awaits) <= play.ended_agents:
                del play.held[agent]
                yield play.schedule(agent, now_us + held.gap_us)
