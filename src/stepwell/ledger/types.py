"""The nouns of the ledger: accounts, resources, postings, and what one request used.

A posting moves an amount of one resource from one account to another, so every resource sums to zero over
all accounts at any time. What the machine gave stands as the (negative) balance of its own account; the
account that got it has it as a positive one. Nothing is ever changed or removed: what was wrong is corrected
by a new posting.

Amounts are integers: microseconds, bytes, bytes x microseconds, micro-dollars.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stepwell.basics.per_tier import PerTier
from stepwell.policy.types import Caller

MAX_AMOUNT = 2**62
"""Most that one posting moves; more is split into several. Room to add two of them in 64 bits."""


class Resource(StrEnum):
    """What is counted. The unit is the end of the value."""

    COMPUTE = "compute_us"
    """The machine's time: batches, copies between device and host, and what is left of the wall clock."""
    DEVICE = "device_byte_us"
    HOST = "host_byte_us"
    DISK = "disk_byte_us"
    STORED = "device_host_bytes"
    LOADED = "host_device_bytes"
    WRITTEN = "host_disk_bytes"
    """Written to disk: what wears it out."""
    READ = "disk_host_bytes"
    EMBEDDING = "embedding_us"
    """Time that models of embeddings and rankings computed, each in a process of its own, beside the
    machine's ``compute_us``."""
    DISPLACED = "displaced_us"
    """Compute time that one agent spent again because another one took the room its KV lay in. It is in
    ``compute_us`` of the agent that computed; this resource names both agents."""
    MONEY = "microusd"


MACHINE_RESOURCES = tuple(r for r in Resource if r not in (Resource.DISPLACED, Resource.MONEY))
"""Those that the machine itself provides and counts the total of."""


STORAGE = PerTier(Resource.DEVICE, Resource.HOST, Resource.DISK)
"""What it costs that bytes lie there."""


class Kind(StrEnum):
    """What kind of account."""

    MACHINE = "machine"
    """Where resources come from."""
    IDLE = "idle"
    """The machine's time, and room in KV tiers, that was not used."""
    OVERHEAD = "overhead"
    """Time of the loop itself while there were requests: deciding, sampling, waiting for the disk."""
    UNATTRIBUTED = "unattributed"
    """Used by an account that is not known any more: what a crash cut off, and blocks without an owner."""
    AGENT = "agent"
    """One agent under one API key and service tier."""
    CUSTOMER = "customer"
    """A tenant's money. Negative: it owes."""
    HELD = "held"
    """Money of a tenant that is reserved for requests under way."""
    REVENUE = "revenue"


class Account(NamedTuple):
    """One owner of amounts. Fields that do not apply are empty."""

    kind: Kind
    tenant: str = ""
    key: str = ""
    """Which API key: ``key_`` and a digest, never the key itself."""
    service_tier: str = ""
    session: str = ""
    agent: str = ""
    parent_agent: str = ""
    role: str = ""

    @classmethod
    def of(cls, caller: Caller) -> Account:
        """An agent's."""
        return cls(
            Kind.AGENT,
            caller.tenant,
            caller.key,
            caller.service_tier,
            caller.session,
            caller.agent,
            caller.parent_agent or "",
            caller.role,
        )


MACHINE = Account(Kind.MACHINE)
IDLE = Account(Kind.IDLE)
OVERHEAD = Account(Kind.OVERHEAD)
UNATTRIBUTED = Account(Kind.UNATTRIBUTED)
REVENUE = Account(Kind.REVENUE)


class Cause(StrEnum):
    """The event that made a posting."""

    STEP = "step"
    """A batch ran."""
    MOVE = "move"
    """A block moved between KV tiers."""
    STORAGE = "storage"
    """KV lay somewhere for a while."""
    REST = "rest"
    """Time and room that was not used, and what the loop took."""
    DISPLACED = "displaced"
    HOLD = "hold"
    SETTLE = "settle"
    RELEASE = "release"
    """A hold, or what was not used of it, goes back."""
    CORRECTION = "correction"
    RECOVERY = "recovery"
    """Made at the next start for a run that ended without closing its books."""
    TOPUP = "topup"
    """A customer has paid in."""


class Posting(NamedTuple):
    """``amount`` (positive) of ``resource`` goes from ``debit`` to ``credit``."""

    debit: Account
    credit: Account
    resource: Resource
    amount: int
    cause: Cause
    request: int = 0
    """The request of this run that it was for; 0: none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request used and was charged: a row of the spend log. Corrections are rows of their own whose
    counts are differences, so that sums over rows are right."""

    request: int
    account: Account
    model: str
    reason: str
    """The finish reason, ``cancelled``, or the error code it was given up with."""
    at_us: int
    """When it ended: wall clock, microseconds since 1970."""
    requests: int = 1
    """1; 0 in a correction."""
    input_tokens: int = 0
    """Of the prompt, the cached ones included. 0 for a further choice of the same prompt."""
    cached_tokens: int = 0
    visible_tokens: int = 0
    """Generated, and shown to the person who asked the session's question."""
    intermediate_tokens: int = 0
    """Generated for other agents and tools."""
    recomputed_tokens: int = 0
    charge_microusd: int = 0
    ttft_us: int = 0
    e2e_us: int = 0
    cause: Cause = Cause.SETTLE

    @property
    def output_tokens(self) -> int:
        return self.visible_tokens + self.intermediate_tokens


class Position(NamedTuple):
    """What an account held when its storage was last posted: enough to post the rest after a crash."""

    account: Account
    held_bytes: PerTier[int]
    as_of_us: int
    """The run's own clock."""


class Scope(StrEnum):
    """Whose spending a budget bounds."""

    TENANT = "tenant"
    KEY = "key"
    SESSION = "session"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of what may be spent in all. A new row for the same name takes the place of the old one."""

    scope: Scope
    tenant: str
    name: str
    """The key's id, the session or the agent; empty for the tenant itself."""
    soft_microusd: int | None
    """From here on the customer is warned."""
    hard_microusd: int | None
    """From here on nothing more is taken. None: no bound."""
    at_us: int = 0
    actor: str = ""
    """What set it: ``settings``, ``operator``, or the id of the customer's own key."""
