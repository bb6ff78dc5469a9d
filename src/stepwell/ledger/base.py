"""The Store contract: where postings are kept. SQLite by default, PostgreSQL for a fleet.

One writer per run, which hands over batches in order; any number of readers. A batch is one transaction: it
is there whole or not at all, and writing it again changes nothing.

Tables (the same in every store; statements are plain SQL over them)::

    accounts   id, kind, tenant, key, service_tier, session, agent, parent_agent, role, digest
    postings   run, batch, n, at_us, debit, credit, resource, amount, cause, request
    usage      run, batch, n, at_us, request, account, model, reason, requests, input_tokens, cached_tokens,
               visible_tokens, intermediate_tokens, recomputed_tokens, charge_microusd, ttft_us, e2e_us, cause
    budgets    id, at_us, scope, tenant, name, soft_microusd, hard_microusd, actor
    runs       id, node, started_at_us, ended_at_us, last_batch, last_at_us, last_now_us, model, config,
               cost_book, price_book, totals
    positions  run, account, device_bytes, host_bytes, disk_bytes, as_of_us
    budget_leases  scope, tenant, name, node, granted_microusd, short, until_us

``postings``, ``usage`` and ``budgets`` are append-only: triggers refuse every UPDATE and DELETE. ``runs``,
``positions`` and ``budget_leases`` are the writers' own notes. ``at_us`` is wall clock (microseconds since
1970) at the posting and goes back where the clock is set back: ``run``, ``batch`` and ``n`` are the
order.
``now_us`` is the run's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from stepwell.errors import BadInput, StepwellError
from stepwell.ledger.leases import Lease, LeaseNeed
from stepwell.ledger.types import Budget, Position, Posting, Scope, Usage

RunId = int


class LedgerError(StepwellError):
    """The books cannot be written or read: one sentence that says where and why."""


class NoLedger(LedgerError, BadInput):
    """Books that were named are not there: empty ones are not made in their place."""


class LedgerFull(LedgerError):
    """There is no room for more postings (disk full, read-only); what was written is safe."""


class LedgerRefused(LedgerError):
    """What was to be entered breaks the rules of the books; written again it would be refused again."""


@dataclass(frozen=True, slots=True)
class Run:
    """One life of one server."""

    node: str
    """Which machine of a fleet; any name."""
    started_at_us: int
    model: str
    config: str
    """The policy's configuration as JSON."""
    cost_book: str
    price_book: str
    """The books in force, as TOML."""


@dataclass(frozen=True, slots=True)
class PostingBatch:
    """What is written in one transaction: the postings of one engine step, or of a few."""

    number: int
    """Counts from 1 within the run."""
    at_us: int
    now_us: int
    postings: Sequence[Posting] = ()
    usage: Sequence[Usage] = ()
    positions: Sequence[Position] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    """What the machine has given since the run began, by resource: the sum to which postings must come."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has no end in the books: it is running now, or it was cut off."""

    run: RunId
    node: str
    last_batch: int
    last_at_us: int
    last_now_us: int
    totals: dict[str, int]
    positions: list[Position]


class Store(Protocol):
    """Every method may raise ``LedgerError``. ``write`` and the run methods are called from one thread at
    a time; ``rows`` from any."""

    def claim(self, node: str) -> None:
        """From here on this store is the one writer for that node; ``close`` gives it back, and so does the
        death of the process. ``LedgerError`` while another one has it. Harmless when done twice."""

    def begin(self, run: Run) -> RunId:
        """Enter a new run. Claims its node."""

    def write(self, run: RunId, batch: PostingBatch) -> None:
        """Add a batch; when it returns, the batch survives the death of this process. A number that is
        there already is left as it is. Raises ``LedgerFull`` when there is no room: nothing of it is there
        then, and the same batch may be written again later."""

    def end(self, run: RunId, at_us: int) -> None:
        """The run has closed its books; its positions are gone with it."""

    def compact(self, run: RunId, first: int, last: int) -> int:
        """Put daily balances in the place of the postings of these batches; returns how many there were."""

    def open_runs(self, node: str) -> list[OpenRun]:
        """Runs of a node that have no end in the books, oldest first."""

    def set_budget(self, budget: Budget) -> None:
        """Append a budget; the latest row of a name is in force."""

    def lease(self, name: tuple[Scope, str, str], node: str, need: LeaseNeed) -> Lease:
        """Grant a node a part of a budget, in the place of what it had of it, so that all nodes together
        never come to more than its hard limit. ``name``: scope, tenant, and which one (empty: the tenant
        itself). From any thread."""

    def end_leases(self, node: str) -> None:
        """All that a node had is given back: what it was charged is in the books, or lost with it."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Answer one SELECT. Placeholders are ``?`` in every store."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Within it every ``rows`` of this thread sees one state of the books, whatever is written meanwhile:
        for answers that take several statements. Keep it short; a file cannot be tidied under it."""

    def lost(self) -> str | None:
        """One sentence when what is written would never be found, because the ledger was deleted or replaced
        under this store; None: it is in its place. Cheap, and from any thread."""

    def close(self) -> None:
        """Release files and connections; harmless when done twice."""
