"""Where one session stands while it is played."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.simulate.workload import Namespace, SessionSpec, TurnSpec


@dataclass(slots=True, eq=False)
class SessionPlay:
    """Where a session stands. Positions count the turns of an agent that have been sent or scheduled."""

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
    ended_turns: set[int] = field(default_factory=set)
    """Of a linked session."""

    def schedule(self, agent: int, at_us: int) -> TurnSpec:
        """The agent's next turn comes at ``at_us``."""
        turn = self.session.turns[self.session.agents[agent].turns[self.sent[agent]]]
        self.sent[agent] += 1
        self.due_us[agent] = at_us
        self.open_turns[turn.number] = None
        return turn

    def next_of(self, agent: int) -> TurnSpec | None:
        """The agent's next turn that is not scheduled; None: there is none."""
        turns, sent = self.session.agents[agent].turns, self.sent[agent]
        return self.session.turns[turns[sent]] if sent < len(turns) else None

    def first_turns(self) -> list[TurnSpec]:
        """What comes by itself when the session begins."""
        if not self.session.linked:
            return [self.session.turns[self.session.agents[0].turns[0]]]
        return [turn for turn in self.session.turns if not turn.after]

    def has_open(self, agent: int) -> bool:
        """Whether a turn of the agent was scheduled and has not ended."""
        return any(self.session.turns[number].agent == agent for number in self.open_turns)

    def freed_by(self, number: int) -> list[TurnSpec]:
        """Turns of a linked session that waited for this one last."""
        self.ended_turns.add(number)
        waited = (turn for turn in self.session.turns if number in turn.after)
        return [turn for turn in waited if self.ended_turns.issuperset(turn.after)]

    def first_open(self, agent: int) -> int:
        """The place, among the agent's turns, of the first that has not ended."""
        sent = self.sent[agent]
        if sent and self.session.agents[agent].turns[sent - 1] in self.open_turns:
            return sent - 1
        return sent

    def is_over(self) -> bool:
        """Whether every agent has ended."""
        return len(self.ended_agents) == len(self.session.agents)
