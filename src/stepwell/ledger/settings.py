"""Settings of the ledger, and budgets as they stand in a settings file.

::

    [ledger]
    path = "/var/lib/stepwell/ledger.db"      # or "postgresql://..."; "none" keeps no ledger
    price_book = "prices.toml"                # or a preset: stepwell ledger books
    cost_book = "h100-rented"
    on_failure = "refuse"                     # rather than serve what cannot be entered
    [[budgets]]
    tenant = "acme"
    soft_usd = 8
    hard_usd = 10
    [[budgets]]                               # one session of acme's; also key = "key_..." or agent = "..."
    tenant = "acme"
    session = "run-42"
    hard_usd = 0.5
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from stepwell.ledger.types import Budget, Scope

NO_LEDGER = "none"
LEAST_KEEP_DAYS = 2
"""What the live page and /admin/margin look back over is never added up."""
FROM_SETTINGS = "settings"
"""The actor of a budget that a settings file names."""
OPERATOR = "operator"
"""The actor of one that was set over HTTP with an operator's rights."""
Text = Annotated[str, Field(min_length=1, max_length=255)]
Usd = Annotated[Decimal, Field(ge=0, le=10**12, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Where the books are, and what is in them."""

    path: Text | None = None
    """A file (SQLite), ``postgresql://...``, or ``none``. None: ``stepwell serve`` uses its default place,
    everything else keeps no ledger."""
    node: Annotated[str, Field(max_length=255)] = ""
    """The name of this server in the books; two that run may not share one. Empty: the machine and where its
    KV lies on disk."""
    price_book: Text = "local"
    """What customers pay: a preset or a TOML file."""
    cost_book: Text = "laptop"
    """What the machine costs: a preset or a TOML file."""
    on_failure: Literal["serve", "refuse"] = "serve"
    """While the ledger cannot be written: go on and enter it later, or take no requests."""
    batch_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """Collect the postings of so long a time for one transaction. 0: every step has its own, and a crash
    loses nothing but the step in flight."""
    storage_every_s: Annotated[int, Field(ge=1, le=86_400)] = 10
    """How often the room that idle agents take is posted; more and more rarely while no request arrives."""
    keep_days: Annotated[int, Field(ge=LEAST_KEEP_DAYS, le=36_500)] | None = None
    """So many whole days (UTC) of postings stay as they are; once a day, older ones become daily balances.
    None: all stay."""
    follow_budgets_s: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 0.0
    """How often this node agrees with others of the same ledger what each may spend of a budget. 0: never,
    for a server that has its ledger for itself; ``stepwell deploy`` sets 2 for its nodes."""
    backlog_postings: Annotated[int, Field(ge=1_000, le=100_000_000)] = 200_000
    """What may wait in memory while the ledger cannot be written; from half of it requests are refused."""


@dataclass(frozen=True, slots=True)
class BudgetEntry:
    """One ``[[budgets]]`` table: of a tenant, or of one key, session or agent of it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    tenant: Text
    """The customer; without a name below, all that is spent by it."""
    key: Text | None = None
    """The id of one of its keys: ``key_`` and how its SHA-256 begins."""
    session: Text | None = None
    """One of its sessions."""
    agent: Text | None = None
    """One of its agents."""
    soft_usd: Usd | None = None
    """From here on answers say so."""
    hard_usd: Usd | None = None
    """Beyond it requests are refused."""

    def budget(self, at_us: int = 0) -> Budget:
        """Raises ``ValueError`` with one sentence when it contradicts itself."""
        named = [(scope, name) for scope, name in self._names() if name is not None]
        if len(named) > 1:
            both = " and ".join(scope for scope, _ in named)
            raise ValueError(f"a budget of {self.tenant!r} names {both}: one only")
        if self.soft_usd is None and self.hard_usd is None:
            raise ValueError(f"a budget of {self.tenant!r} has neither soft_usd nor hard_usd")
        scope, name = named[0] if named else (Scope.TENANT, "")
        soft, hard = microusd(self.soft_usd), microusd(self.hard_usd)
        return Budget(scope, self.tenant, name or "", soft, hard, at_us, FROM_SETTINGS)

    def _names(self) -> tuple[tuple[Scope, str | None], ...]:
        return (Scope.KEY, self.key), (Scope.SESSION, self.session), (Scope.AGENT, self.agent)


def microusd(usd: Decimal | None) -> int | None:
    """Whole micro-dollars, half up."""
    return None if usd is None else int((usd * 1_000_000).to_integral_value(ROUND_HALF_UP))
