"""What one run of the job leaves behind: turns as the clients saw them, samples of where KV lay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.demo.books import LedgerFigures

KV_TIERS = ("device", "host", "disk")


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """One customer: a service tier and questions, and an API key, which is in no file."""

    name: str
    service_tier: str
    questions: tuple[str, ...]
    """Asked one after the other, of the same crew."""

    @property
    def tenant(self) -> str:
        return self.name.lower()

    @property
    def api_key(self) -> str:
        return f"sk-demo-{self.tenant}"


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """What a crew answered, and why that is to be believed."""

    question: str
    text: str
    """Empty: there was no answer."""
    heading: str
    passage: str
    """Of the document, with the answer in it word for word; empty: the answer is worded in another way."""
    right: bool | None
    """None: what is right is not known."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One call of the model by one agent. Times are seconds since the run began."""

    agent: str
    """``tenant/role``; the key of everything that is said about an agent."""
    number: int
    task: str
    start_s: float
    first_token_s: float
    end_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: Mapping[str, int]
    """By the KV tier where they lay when the turn was admitted."""
    recomputed_tokens: int
    """Tokens that had been computed before and were again."""
    retries: int = 0

    @property
    def tenant(self) -> str:
        return self.agent.split("/")[0]

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.start_s

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens run through the model for this turn.

        Recomputation after a preemption comes on top of what was missing at admission.
        """
        return max(self.prompt_tokens - sum(self.cached_tokens.values()), self.recomputed_tokens)


@dataclass(frozen=True, slots=True)
class AgentSample:
    """Where the KV of one agent's context lay at one moment, in tokens."""

    state: str
    tokens: int
    device: int
    host: int
    disk: int

    @property
    def absent(self) -> int:
        """Tokens of the context that lie nowhere: not computed yet, or dropped."""
        return max(0, self.tokens - self.device - self.host - self.disk)


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole server at one moment."""

    t_s: float
    agents: Mapping[str, AgentSample]
    used_bytes: Mapping[str, int]
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much KV each KV tier may hold, and what the agents hold together."""

    device_tokens: int
    host_bytes: int
    disk_bytes: int
    token_bytes: int
    held_tokens: int
    """Sum of the agents' final contexts, a prefix that a crew shares counted once."""
    contexts_tokens: int
    """The same sum with every context counted whole."""

    def limit_bytes(self, kv_tier: str) -> int:
        return {
            "device": self.device_tokens * self.token_bytes,
            "host": self.host_bytes,
            "disk": self.disk_bytes,
        }[kv_tier]


@dataclass(slots=True)
class DemoRun:
    """One run of the whole job."""

    name: str
    capacity: Capacity
    agents: tuple[str, ...] = ()
    """Keys of all agents, in the order in which they are shown."""
    turns: list[DemoTurn] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sessions_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By tenant: when its crew began and when its answer was complete."""
    answers: dict[str, list[CheckedAnswer]] = field(default_factory=dict)
    """By tenant, in the order of its questions."""
    held_tokens: int = 0
    """What the agents' contexts really added up to at the end, shared prefixes counted once."""
    counters: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0
    began_us: int = 0
    """Wall clock when it began, microseconds since 1970: the ledger's time."""
    ledger: LedgerFigures | None = None

    @property
    def tiering(self) -> bool:
        return self.capacity.host_bytes > 0 or self.capacity.disk_bytes > 0
