"""The nouns of routing. Times are microseconds, amounts of work are counted in prompt tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepwell.basics.per_tier import PerTier
from stepwell.fleet.prefixes import PromptPrefix

HOME_TOKENS = 256
"""Prompts that begin alike for so long have the same home."""
AgentName = tuple[str, str]
"""Tenant and agent: what is one tenant's never meets another's."""


class NodeState(StrEnum):
    """Whether a node takes turns."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It ends what it has and takes nothing new."""
    DOWN = "down"


HeldTokens = PerTier[int]
"""Tokens of one agent's context on one node, each counted in the fastest KV tier that holds it."""


@dataclass(frozen=True, slots=True)
class RoutedTurn:
    """A call of the model that wants a node."""

    tenant: str
    service_tier: str = "default"
    session: str = ""
    agent: str = ""
    """Empty: not said. Such a turn goes where its session or its prefix goes."""
    parent: str | None = None
    prefixes: tuple[PromptPrefix, ...] = ()
    """How the prompt begins, shortest first, cut at ``prefixes.CUTS``; last the whole of it."""
    prompt_tokens: int = 1
    """An estimate will do."""
    max_new_tokens: int = 64
    pinned: str | None = None
    """The one node that has what the turn names (a stored response, a document); no other can serve it."""

    @property
    def home(self) -> str:
        """What is kept together: a session's agents share prefixes. A turn that names neither goes where
        prompts go that begin alike; the very first tokens are often common to all."""
        return f"{self.tenant}\0{self.session or self.agent or self._beginning()}"

    def _beginning(self) -> str:
        early = [prefix.digest for prefix in self.prefixes if prefix.tokens <= HOME_TOKENS]
        return (early or [prefix.digest for prefix in self.prefixes[:1]] or [""])[-1]


@dataclass(frozen=True, slots=True)
class RoutingChoice:
    """Where a turn goes, and why."""

    node: str
    reason: str
    """``kv`` (its KV lies there), ``prefix`` (prompts that begin like it were sent there),
    ``session`` (its session's KV does), ``home`` (rendezvous), ``load``,
    ``pinned``, ``turn`` (round robin)."""
    held_tokens: int = 0
    """Of the prompt, what should be found there."""
    best_held_tokens: int = 0
    """What the node with most of it has: the difference is computed again for the sake of load or health."""
    cost_us: int = 0
    """What the rule expects until the turn has ended."""


_LOADED = PerTier(0.0, 0.01, 0.05)


@dataclass(frozen=True, slots=True)
class RoutingCosts:
    """What things cost, relative to a prompt token that is computed (1.0). From measurements, not from taste:
    ``stepwell doctor`` shows them for a machine."""

    generated: float = 8.0
    """A generated token: decode moves all weights for a token or a small batch of them."""
    loaded: PerTier[float] = _LOADED
    """A prompt token whose KV lies there already."""
    prior_us_per_token: float = 500.0
    """A node's time per unit of work until any has shown its own."""
