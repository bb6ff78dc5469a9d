"""What a crew is: its roles, its limits, its tools; ``files`` reads one from TOML or YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.agents.crews.roles import MAX_STEPS
from stepwell.agents.crews.values import require_known
from stepwell.agents.penalty import Penalty
from stepwell.agents.tools.workspace import McpServer


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may come to in all. Defaults suit a laptop."""

    depth: int = 3
    """How many agents may stand above one; the entry has none."""
    concurrent: int = 6
    """Sub-agents that are at work at once, the entry not counted."""
    agents: int = 64
    """Sub-agents that are made in all."""
    turns_per_agent: int = 12
    """Where a role does not say ``max_turns``."""
    rounds: int = 3
    """Plans that a planner makes."""
    tokens: int = 500_000
    """Prompt and answer of every turn, cached or not."""
    seconds: int = 1_800
    """Wall time, of a session that is resumed: since then."""
    budget_microusd: int | None = None
    """What the turns may cost where the server says what they do; None: no limit."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the answer to it, shown to an agent as turns that were."""

    ask: str
    answer: str


@dataclass(frozen=True, slots=True)
class Role:
    """What agents of one kind are told and may do."""

    name: str
    instructions: str
    description: str = ""
    """What it does, for roles that plan with or spawn it; empty: the first sentence of ``instructions``."""
    model: str = ""
    """Empty: the server's only one."""
    tools: tuple[str, ...] = ()
    may_spawn: tuple[str, ...] = ()
    """Roles that it may spawn, or plan with; with any, the verbs are among its tools."""
    max_tokens: int = 256
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    """Texts that end an answer, at most four; they are no part of it."""
    output: str = "text"
    """``text``, or ``json`` with a ``schema``."""
    schema: Mapping[str, Any] | None = None
    first_schema: Mapping[str, Any] | None = None
    """In place of ``schema`` for an agent's first task: a planner's first plan is never empty."""
    max_turns: int | None = None
    """Per task; None: the crew's ``turns_per_agent``."""
    calls: str = "tools"
    """``tools``: the API's field. ``schema``: every turn is one JSON object that names a tool or answers,
    under a grammar, so that a small model cannot emit an invalid call."""
    briefed: bool = True
    """Whether its system message lists the roles it plans with and, with ``calls = "schema"``, its tools."""
    plans: bool = False
    """Whether it makes plans that the runtime carries out, instead of calling the verbs itself."""
    max_steps: int = MAX_STEPS
    """Of one of its plans."""
    splits: bool = True
    """Whether its plans word a task for each step; otherwise each step is the whole question."""
    reads: bool = False
    """Whether it is given passages of the documents with its task."""
    points: bool = False
    """Whether it answers with a sentence of its passages, word for word, chosen under a grammar."""
    examples: tuple[Example, ...] = ()
    shots: int = 0
    """How many of the examples an agent sees; 0: all. Agents that answer the same step see others, where
    the examples are several sets of so many."""
    samples: int = 1
    """How many agents answer each planned step, at most."""
    finish: str = ""
    """A tool that the answer, its arguments as JSON, is given to: what it gives back is the answer."""
    narrow: str = ""
    """A tool that is given the task before the first turn: what it gives back, JSON, is the schema in place
    of ``schema``, so that the grammar holds the model to what the task names. ``{}``: ``schema``."""
    check: str = ""
    """A tool with one argument that says whether an answer is right: one that is ends the work."""
    pass_rate: float = 0.5
    """How often an answer passes the check, or is right, before anything is known of the question."""
    usual_tokens: int = 0
    """Of an answer; 0: not known, as many as it may have."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Roles that work together; ``entry`` is asked and answers."""

    name: str
    entry: str
    roles: Mapping[str, Role]
    limits: SessionLimits = field(default_factory=SessionLimits)
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)
    """Programs whose tools roles ask for as ``mcp:NAME`` or ``mcp:NAME/TOOL``."""
    dropped: tuple[str, ...] = ()
    """Roles that are not used. Without its planner every other role has one step of a fixed plan."""
    wave: int = 0
    """How many of a step's ``samples`` are asked for at once; 0: all."""
    penalty: Penalty | None = None
    """What intermediate tokens are worth; None: they are not weighed."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables of ``[profiles.NAME]``, as they are written: ``profile.py`` reads them."""
    folder: Path | None = field(default=None, compare=False)
    """Where its file lies: paths in it are seen from there. None: from where the program was started."""

    @property
    def used_roles(self) -> tuple[Role, ...]:
        """Those that may take turns. An entry that leads itself may spawn every role that is named."""
        spares = self.roles[self.entry].plans
        return tuple(role for name, role in self.roles.items() if not spares or name not in self.dropped)

    def __post_init__(self) -> None:
        require_known(self.entry, self.roles, f"crew {self.name}: entry")
        for role in self.roles.values():
            for name in role.may_spawn:
                require_known(name, self.roles, f"crew {self.name}: role {role.name}: may_spawn")
