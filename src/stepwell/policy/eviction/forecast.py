"""When a resting agent will call again: from what it declared, and from what was learned.

A declaration is believed as far as earlier ones of the same tenant came true: what is learned is the
distribution of actual / declared. So a tenant whose declarations are wrong teaches the policy not to
believe them, and no other tenant's forecasts change. Without a declaration the gaps of (tenant, role, kind of
wait) count. A new tenant begins with what several have in common: each tenant's first rests count there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from stepwell.policy.eviction.gaps import (
    MIDDLE,
    RATIO_EDGES,
    TIME_EDGES_US,
    GapClass,
    bin_of,
    expected_left,
    index_of,
    prior_gaps,
    prior_ratios,
)
from stepwell.policy.eviction.value import joint_chance, joint_index
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import Hint, Wait

_ONE: Final = 1 << 20
_LEAST_LEFT_US: Final = 40_000
"""While a declared end is further off, a rest is looked at whenever half of what is left is over."""
_RATIO_ONE: Final = 1024
MIN_DECLARED_US: Final = 1_000
MAX_DECLARED_US: Final = 24 * 3600 * 1_000_000
_MAX_ROLES: Final = 64  # per tenant: more are learned together, or a client could fill the memory with names
_MAX_TOOLS: Final = 64  # likewise
_MAX_TENANTS: Final = 1_000
_MAX_CLASSES: Final = 50_000
_MAX_ANONYMOUS_TURNS: Final = 4  # nameless conversations are told apart by their number of turns, up to this
_SECOND_US, _MINUTE_US, _HOUR_US = 1_000_000, 60_000_000, 3_600_000_000

_PRIORS: Final = {
    Wait.TOOL: prior_gaps(_ONE // 6, 10 * _SECOND_US, 10 * _MINUTE_US),
    Wait.CHILD: prior_gaps(_ONE // 6, _MINUTE_US, 30 * _MINUTE_US),
    Wait.PERSON: prior_gaps(_ONE // 8, 3 * _MINUTE_US, _HOUR_US),
    Wait.AGENT: prior_gaps(_ONE // 6, 10 * _SECOND_US, 10 * _MINUTE_US),
    Wait.DONE: prior_gaps(_ONE // 2_000, _HOUR_US, _HOUR_US),
    Wait.UNKNOWN: prior_gaps(_ONE // 8, 20 * _SECOND_US, _HOUR_US),
}
_ANSWERED: Final = prior_gaps(_ONE // 300, _MINUTE_US, _HOUR_US)
"""Of a child that has answered: most never come back, but a crew asks its readers again. So it is not dead
before a few of its kind have stayed away."""
_LEFT_ALONE: Final = prior_gaps(_ONE // 60, _MINUTE_US, _HOUR_US)
"""Of an agent whose parent went on without it."""
STRANGER: Final = _PRIORS[Wait.UNKNOWN]
"""What is expected of an agent without a history."""
_RATIO_PRIOR: Final = prior_ratios()


class Left(StrEnum):
    """What an agent leaves behind when it goes on with another context."""

    ANSWER = "answer"
    """The end of a context that no turn has gone on from: as a rule its last answer."""
    SIDE_CALL = "side-call"
    """Most of a context that no turn has gone on from."""
    BRANCH = "branch"
    """The end of a context that has been gone on from."""
    CONTEXT = "context"
    """Most of such a context, or all of it: a conversation beside which the agent does something else."""
    DONE = "done"
    """The context of an agent that is finished, behind its beginning."""
    BEGINNING = "beginning"
    """What such an agent had after its first turn: others of its kind begin alike."""
    CHILDS_BEGINNING = "child's beginning"
    """The same of an agent that worked for another one."""


_DEAD_PRIOR: Final = prior_gaps(_ONE // 2_000, _HOUR_US, _HOUR_US)
_LEFT_PRIORS: Final = {
    Left.ANSWER: _DEAD_PRIOR,
    Left.DONE: _DEAD_PRIOR,
    Left.BEGINNING: _DEAD_PRIOR,
    Left.CHILDS_BEGINNING: prior_gaps(_ONE // 24, _MINUTE_US, _HOUR_US),
    Left.SIDE_CALL: prior_gaps(_ONE // 24, 5 * _SECOND_US, 2 * _MINUTE_US),
    Left.BRANCH: prior_gaps(_ONE // 24, 5 * _SECOND_US, 2 * _MINUTE_US),
    Left.CONTEXT: prior_gaps(_ONE // 12, 5 * _SECOND_US, 2 * _MINUTE_US),
}
_SHARED: Final = 24
"""So many rests of a tenant count towards what is expected of tenants that are not known yet: a few
tenants' habits help the next one, and none can bend them far."""


@dataclass(slots=True)
class Watch:
    """A rest as one class sees it: how long it has lasted on that class's scale."""

    kind: GapClass
    since_us: int
    declared_us: int = 0
    """The unit of a class of declarations; 0: the scale is time itself."""
    bin: int = 0

    def __post_init__(self) -> None:
        self.kind.begin()

    @property
    def edges(self) -> tuple[int, ...]:
        return RATIO_EDGES if self.declared_us else TIME_EDGES_US

    def position(self, now_us: int) -> int:
        """How long it has lasted, in units of the edges."""
        elapsed = max(0, now_us - self.since_us)
        return elapsed * _RATIO_ONE // self.declared_us if self.declared_us else elapsed

    def to_us(self, position: int) -> int:
        return position * self.declared_us // _RATIO_ONE if self.declared_us else position

    def advance(self, now_us: int) -> int | None:
        """Note the bins that it has outlasted; when it outlasts the next, None after the last."""
        now_in = bin_of(self.edges, self.position(now_us))
        if now_in > self.bin:
            self.kind.outlast(self.bin, now_in)
            self.bin = now_in
        if now_in + 1 >= len(self.edges):
            return None
        return self.since_us + self.to_us(self.edges[now_in + 1]) + 1

    def end(self, now_us: int) -> None:
        """The agent has called again."""
        self.advance(now_us)
        self.kind.end(self.bin, self._place(now_us))

    def _place(self, now_us: int) -> int:
        """Where in its bin it ends, of 1024. Of gaps on the clock it is not learned: they lie all over a bin,
        while an agent that says exactly when it will be back does not come a tenth later."""
        edges, k = self.edges, self.bin
        if not self.declared_us or k + 1 >= len(edges):
            return MIDDLE
        return min(
            2 * MIDDLE - 1, (self.position(now_us) - edges[k]) * 2 * MIDDLE // (edges[k + 1] - edges[k])
        )

    def index(self, now_us: int) -> int:
        """Certain returns per time held, 2**40 / us."""
        value = index_of(self.kind.hazards(), self.edges, self.position(now_us), self.kind)
        return value * _RATIO_ONE // self.declared_us if self.declared_us else value

    def worth(self, now_us: int) -> int:
        """The index as of the beginning of the bin that it has reached: quick to get."""
        return self.kind.worth(bin_of(self.edges, self.position(now_us)), self.edges)

    def chance(self, now_us: int) -> int:
        return self.kind.chance(bin_of(self.edges, self.position(now_us)))

    def outlook(self, now_us: int) -> tuple[int, int]:
        """``chance`` and ``worth``."""
        k = bin_of(self.edges, self.position(now_us))
        return self.kind.chance(k), self.kind.worth(k, self.edges)

    def left_us(self, now_us: int) -> int | None:
        """For people: decides nothing."""
        left = expected_left(self.kind.peek(), self.edges, self.position(now_us))
        return None if left is None else self.to_us(left)


@dataclass(slots=True)
class IdlePeriod:
    """One wait of one agent, watched by the clock and, if it was declared, by its declaration."""

    since_us: int
    learned: Watch
    declared: Watch | None = None
    retain_until_us: int = 0

    @property
    def is_retained(self) -> bool:
        """Whether it was said how long the context is to be kept."""
        return self.retain_until_us > self.since_us

    def rises(self, now_us: int) -> bool:
        """Whether it is worth more as it goes on: a declared end has not come yet."""
        return self.declared is not None and now_us - self.since_us < self.declared.declared_us


class Forecaster:
    """Learns from rests that end and tells what those that go on are worth."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, ...], GapClass] = {}
        self._roles: dict[str, dict[str, None]] = {}
        self._tools: dict[str, dict[str, None]] = {}

    # --- the life of a rest -------------------------------------------------------------------

    def begin(
        self, record: AgentRecord, since_us: int, *, called: bool = False, left: bool = False
    ) -> IdlePeriod:
        """The agent waits from ``since_us`` on. ``called``: the agent that it waited for has answered then;
        ``left``: its parent has gone on without it."""
        hint = record.hint
        idle = IdlePeriod(since_us, Watch(self._class(record, called, left), since_us))
        if hint.expected_us is not None and not (called or left) and hint.wait is not Wait.DONE:
            declared_us = min(max(hint.expected_us, MIN_DECLARED_US), MAX_DECLARED_US)
            idle.declared = Watch(self._declared_class(record), since_us, declared_us)
        idle.retain_until_us = since_us + max(0, min(hint.retain_us or 0, MAX_DECLARED_US))
        return idle

    def advance(self, idle: IdlePeriod, now_us: int) -> int | None:
        """Note how long it has lasted; when it is worth another look."""
        next_us = idle.learned.advance(now_us)
        if idle.declared is not None:
            declared_us = idle.declared.advance(now_us)
            next_us = next_us if declared_us is None else declared_us
            left_us = idle.since_us + idle.declared.declared_us - now_us
            if next_us is not None and left_us > _LEAST_LEFT_US:
                next_us = min(next_us, now_us + left_us // 2)
        return next_us

    def end(self, idle: IdlePeriod, now_us: int) -> None:
        """The agent has called again."""
        idle.learned.end(now_us)
        if idle.declared is not None:
            idle.declared.end(now_us)

    # --- what it is worth ---------------------------------------------------------------------

    def index(self, idle: IdlePeriod, now_us: int) -> int:
        """Worth of holding its context: certain returns per time held, 2**40 / us."""
        learned = idle.learned.index(now_us)
        if idle.declared is None:
            return learned
        return joint_index(learned, idle.declared.index(now_us), idle.declared.chance(now_us))

    def chance(self, idle: IdlePeriod, now_us: int) -> int:
        """The chance (of 2**20) that the agent comes back."""
        if now_us < idle.retain_until_us:
            return _ONE
        learned = idle.learned.chance(now_us)
        if idle.declared is None:
            return learned
        return joint_chance(learned, idle.declared.chance(now_us))

    def expected_us(self, idle: IdlePeriod, now_us: int) -> int | None:
        """When the agent will probably call again; None: probably never. For people: decides nothing."""
        left_us = None if idle.declared is None else idle.declared.left_us(now_us)
        if left_us is None:
            left_us = idle.learned.left_us(now_us)
        return None if left_us is None else now_us + left_us

    def explain(self, idle: IdlePeriod, hint: Hint, now_us: int) -> tuple[int | None, str]:
        """When, and from what that is known, in a sentence for people."""
        waits = "nothing" if hint.wait is Wait.DONE else f"a {hint.wait.value}"
        waits = "something undeclared" if hint.wait is Wait.UNKNOWN else waits
        waits = f"the tool {hint.tool}" if hint.wait is Wait.TOOL and hint.tool else waits
        if idle.declared is not None:
            why = f"waits for {waits}, declared to take {_seconds(idle.declared.declared_us)}"
            ratio = expected_left(idle.declared.kind.peek(), RATIO_EDGES, 0)
            if ratio is not None:
                why += f"; such waits of this tenant last about {ratio / _RATIO_ONE:.1f} times as declared"
        else:
            why = (
                f"waits for {waits}; learned from {idle.learned.kind.ended_in_all} earlier waits of its kind"
            )
        if hint.after_agent:
            why += f"; called after {hint.after_agent}"
        return self.expected_us(idle, now_us), why

    # --- classes ------------------------------------------------------------------------------

    def left(self, tenant: str, kind: Left, since_us: int) -> Watch:
        """What an agent of the tenant has left behind waits from ``since_us`` on to be used again."""
        common = self._get(("left", "", kind.value), _LEFT_PRIORS[kind])
        known = ("left", tenant, kind.value) in self._classes
        if not known and len(self._classes) >= _MAX_CLASSES:
            return Watch(common, since_us)
        return Watch(self._get(("left", tenant, kind.value), common, _SHARED), since_us)

    def _declared_class(self, record: AgentRecord) -> GapClass:
        key = ("declared", record.tenant, record.hint.wait.value)
        return self._of_tool(key, self._get(key, _RATIO_PRIOR), record)

    def _of_tool(self, key: tuple[str, ...], kind: GapClass, record: AgentRecord) -> GapClass:
        """The class of one tool's calls within ``kind``, whose name is ``key``."""
        tool = record.hint.tool
        if not tool or record.hint.wait is not Wait.TOOL:
            return kind
        key = (*key, "tool", tool)
        if key not in self._classes and len(self._classes) >= _MAX_CLASSES:
            return kind
        if len(self._tools) >= _MAX_TENANTS and record.tenant not in self._tools:
            return kind
        tools = self._tools.setdefault(record.tenant, {})
        if tool not in tools and len(tools) >= _MAX_TOOLS:
            return kind
        tools[tool] = None
        return self._get(key, kind)

    def _class(self, record: AgentRecord, called: bool, left: bool) -> GapClass:
        tenant, prior = record.tenant, _LEFT_ALONE if left else _PRIORS[record.hint.wait]
        wait = "left" if left else record.hint.wait.value + ("-called" if called else "")
        if has_answered(record) and not left and not called:
            wait, prior = "answered", _ANSWERED
        common = self._get(("gap", "", wait), prior)
        if len(self._roles) >= _MAX_TENANTS and tenant not in self._roles:
            return common
        wide = self._get(("gap", tenant, wait), common, _SHARED)
        key, kind = self._of_role(record, wait, wide)
        return kind if called or left else self._of_tool(key, kind, record)

    def _of_role(self, record: AgentRecord, wait: str, wide: GapClass) -> tuple[tuple[str, ...], GapClass]:
        """The class of what kind of agent it is, and its name; a nameless conversation goes by the number of
        its turns."""
        key: tuple[str, ...] = ("gap", record.tenant, wait)
        if record.unknown:
            key = (*key, "", str(min(record.turns, _MAX_ANONYMOUS_TURNS)))
            return key, self._get(key, wide)
        roles = self._roles.setdefault(record.tenant, {})
        if not record.role or (record.role not in roles and len(roles) >= _MAX_ROLES):
            return key, wide
        roles[record.role] = None
        key = (*key, record.role)
        return key, self._get(key, wide)

    def _get(self, key: tuple[str, ...], parent: GapClass, shared: int | None = None) -> GapClass:
        known = self._classes.get(key)
        if known is None:
            known = self._classes[key] = GapClass(parent.bins, parent, shared)
        return known


def has_answered(record: AgentRecord) -> bool:
    """Whether it is a child that has ended its turn with an answer: its parent has what it wanted."""
    return record.parent_agent is not None and record.hint.wait is Wait.PERSON


def beginning_of(record: AgentRecord) -> Left:
    """What the beginning of its context is of a departure, when the agent is done."""
    return Left.CHILDS_BEGINNING if record.parent_agent else Left.BEGINNING


def _seconds(time_us: int) -> str:
    return f"{time_us / 1e6:.3g} s"
