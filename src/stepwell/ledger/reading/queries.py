"""What every statement reads: sums over the spend log and over postings, as plain SQL for both stores.

Sums are taken by account in SQL and grouped further in Python: there are as many rows as accounts that did
something, however many postings there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stepwell.errors import BadInput
from stepwell.ledger.base import LedgerError, RunId, Store
from stepwell.ledger.types import Account, Kind, Resource

AccountId = int
LAST_US = 2**63 - 1
DAY_US = 86_400_000_000


class Counts(NamedTuple):
    """Sums over rows of the spend log."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    visible_tokens: int = 0
    intermediate_tokens: int = 0
    recomputed_tokens: int = 0
    charge_microusd: int = 0

    @property
    def output_tokens(self) -> int:
        return self.visible_tokens + self.intermediate_tokens

    def plus(self, other: Counts) -> Counts:
        return Counts._make(a + b for a, b in zip(self, other, strict=True))


COUNTED = (
    "SUM(u.requests), SUM(u.input_tokens), SUM(u.cached_tokens), SUM(u.visible_tokens), "
    "SUM(u.intermediate_tokens), SUM(u.recomputed_tokens), "
    "SUM(u.charge_microusd >> 32), SUM(u.charge_microusd & 4294967295)"
)
"""SQL for ``Counts`` of rows ``u`` of the spend log; ``counts_of`` reads the answer."""


def counts_of(columns: Sequence[Any]) -> Counts:
    """What ``COUNTED`` answered. PostgreSQL sums integers into decimals, hence ``int``."""
    return Counts._make([*map(int, columns[:6]), join_sum(columns[6], columns[7])])


HALVES = "SUM(p.high), SUM(p.low)"
"""SQL for the sum over rows ``p`` of ``entries``, in two halves; see ``join_sum``."""


def split_sum(column: str) -> str:
    """SQL for a sum of 64-bit integers in two halves, neither of which overflows; see ``join_sum``."""
    return f"SUM({column} >> 32), SUM({column} & 4294967295)"


def join_sum(high: Any, low: Any) -> int:
    """The sum whose halves ``split_sum`` asked for; of no rows 0."""
    return (int(high or 0) << 32) + int(low or 0)


def one_of(count: int) -> str:
    """``IN (?, ?)``; of nothing, what is never true (PostgreSQL has no empty list)."""
    return f"IN ({', '.join('?' * count)})" if count else "IS NULL AND 1 = 0"


@dataclass(frozen=True, slots=True)
class Period:
    """Wall clock, microseconds since 1970; ``until_us`` is exclusive."""

    since_us: int = 0
    until_us: int = LAST_US

    def where(self, row: str) -> tuple[str, list[int]]:
        return f"{row}.at_us >= ? AND {row}.at_us < ?", [self.since_us, self.until_us]


class AccountSpent(NamedTuple):
    """What one account used of one model, as the spend log has it."""

    account: AccountId
    model: str
    counts: Counts


class Flow(NamedTuple):
    """What one account got (negative: gave) of one resource in one run. ``between``: not for a request."""

    run: RunId
    account: AccountId
    resource: Resource
    between: bool
    amount: int


class DisplacedCost(NamedTuple):
    """Compute time that ``victim`` spent again because ``beneficiary`` took the room of its KV."""

    run: RunId
    victim: AccountId
    beneficiary: AccountId
    amount_us: int


class RunRow(NamedTuple):
    """A run as its books note it. ``ended_at_us`` None: it runs, or was cut off."""

    id: RunId
    node: str
    started_at_us: int
    ended_at_us: int | None
    last_batch: int
    model: str
    config: str
    cost_book: str
    totals: str
    compacted_batch: int = 0
    """Up to here its postings are kept as daily balances."""


ACCOUNT_COLUMNS = "id, kind, tenant, key, service_tier, session, agent, parent_agent, role"


class Accounts(dict[AccountId, Account]):
    """Accounts by number. One that is asked for and was not there yet is looked up; ``LedgerError`` when the
    books name an account that does not exist."""

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.rows(f"SELECT {ACCOUNT_COLUMNS} FROM accounts")
        super().__init__((row[0], _account(row)) for row in rows)

    def __missing__(self, number: AccountId) -> Account:
        rows = self._store.rows(f"SELECT {ACCOUNT_COLUMNS} FROM accounts WHERE id = ?", (number,))
        if not rows:
            raise LedgerError(
                f"the books name account {number}, and there is none: 'stepwell ledger verify' says where"
            )
        self[number] = found = _account(rows[0])
        return found


def _account(row: Sequence[Any]) -> Account:
    try:
        return Account(Kind(row[1]), *row[2:])
    except ValueError as error:
        raise LedgerError(
            f"account {row[0]} is of a kind that this Stepwell does not know: {error}"
        ) from error


def runs(store: Store) -> list[RunRow]:
    """Every run there is, oldest first."""
    rows = store.rows(
        "SELECT id, node, started_at_us, ended_at_us, last_batch, model, config, cost_book, totals, "
        "compacted_batch FROM runs ORDER BY id"
    )
    return [RunRow(*row) for row in rows]


def spent(store: Store, period: Period) -> list[AccountSpent]:
    """The spend log by account and model."""
    where, values = period.where("u")
    rows = store.rows(
        f"SELECT u.account, u.model, {COUNTED} FROM usage u WHERE {where} GROUP BY u.account, u.model", values
    )
    return [AccountSpent(row[0], row[1], counts_of(row[2:])) for row in rows]


class PostingSum(NamedTuple):
    """A sum of postings from one account to another, of whatever resource the books say."""

    run: RunId
    debit: AccountId
    credit: AccountId
    resource: str
    between: bool
    amount: int


def moves(store: Store, where: str, values: Sequence[Any]) -> list[PostingSum]:
    """Sums of the entries ``p`` (postings and daily balances) that the SQL in ``where`` names. Goes over them
    once."""
    groups = "p.run, p.debit, p.credit, p.resource, CASE WHEN p.request = 0 THEN 1 ELSE 0 END"
    rows = store.rows(f"SELECT {groups}, {HALVES} FROM entries p WHERE {where} GROUP BY {groups}", values)
    return [
        PostingSum(run, debit, credit, resource, bool(between), join_sum(high, low))
        for run, debit, credit, resource, between, high, low in rows
    ]


def require_whole_days(store: Store, period: Period) -> None:
    """Raises ``BadInput`` when an end of the period lies inside a day of which only balances are left."""
    for at_us in (period.since_us, period.until_us):
        if into_us := at_us % DAY_US:
            day_us = at_us - into_us
            if store.rows("SELECT 1 FROM daily WHERE at_us = ? LIMIT 1", (day_us,)):
                day = datetime.fromtimestamp(day_us // 1_000_000, UTC)
                raise BadInput(
                    f"the postings of {day:%Y-%m-%d} are kept as daily balances (UTC): begin and end the "
                    "period at midnight there, such as --since with a date"
                )


def flows(moved: Iterable[PostingSum]) -> list[Flow]:
    """Both sides of every move. ``LedgerError`` for an unknown resource."""
    try:
        return [
            Flow(move.run, account, Resource(move.resource), move.between, sign * move.amount)
            for move in moved
            for account, sign in ((move.credit, 1), (move.debit, -1))
        ]
    except ValueError as error:
        raise LedgerError(f"the books hold what this Stepwell does not know: {error}") from error


def displaced(moved: Iterable[PostingSum]) -> list[DisplacedCost]:
    """Which account lost compute time to which."""
    return [
        DisplacedCost(move.run, move.debit, move.credit, move.amount)
        for move in moved
        if move.resource == Resource.DISPLACED.value
    ]


def belongs(account: Account, tenant: str | None) -> bool:
    """Whether an account is a tenant's or one of its projects'; to None everything belongs."""
    return tenant is None or account.tenant == tenant or account.tenant.startswith(f"{tenant}/")
