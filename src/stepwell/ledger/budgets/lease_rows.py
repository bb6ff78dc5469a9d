"""Leases of budgets as rows of the ledger: read, decided and written in one transaction.

Only the node that holds the lock of a budget's name may change its leases, so that two nodes that ask at
once are answered one after the other. Charges are entered without that lock: a charge of a node with a lease
changes nothing of what its lease leaves to others (``leases``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stepwell.ledger.leases import LEASE_S, Lease, LeaseElsewhere, LeaseNeed, leased
from stepwell.ledger.types import Scope

LEASE_US = int(LEASE_S * 1_000_000)
SCOPE_COLUMN = {Scope.TENANT: "tenant", Scope.KEY: "key", Scope.SESSION: "session", Scope.AGENT: "agent"}

_HARD = """
SELECT hard_microusd FROM budgets WHERE scope = ? AND tenant = ? AND name = ? ORDER BY id DESC LIMIT 1
"""
_IN_FORCE = """
SELECT node, granted_microusd, short FROM budget_leases
WHERE scope = ? AND tenant = ? AND name = ? AND until_us > ? AND until_us <= ?
"""
_UPSERT = """
INSERT INTO budget_leases (scope, tenant, name, node, granted_microusd, short, until_us)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (scope, tenant, name, node) DO UPDATE SET
    granted_microusd = excluded.granted_microusd, short = excluded.short, until_us = excluded.until_us
"""
_END = "DELETE FROM budget_leases WHERE scope = ? AND tenant = ? AND name = ? AND node = ?"
END_OF_NODE = "DELETE FROM budget_leases WHERE node = ?"


_RUNS = "SELECT id, node, CASE WHEN ended_at_us IS NULL THEN 0 ELSE 1 END, last_batch FROM runs"
_OF_ACCOUNTS = "FROM accounts a JOIN usage u ON u.account = a.id WHERE"
_OF_BATCHES = (
    "FROM usage u CROSS JOIN accounts a WHERE a.id = u.account AND u.run = ? AND u.batch > ? AND u.batch <= ?"
)
"""In this order: a few rows of usage, and the account of each."""
Reading = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


class LeaseCursor(Protocol):
    """As much of a database cursor as is needed here; placeholders are ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any: ...

    def fetchall(self) -> list[Any]: ...


@dataclass(slots=True)
class ChargedUnder:
    """What was charged under a name, added up once and then only what has been entered since: a lease must
    not keep other writers waiting for as long as it takes to add up a customer's year.

    Rows are never changed, and a run's batches are entered in order, so that a sum up to a batch stays right.
    """

    name: tuple[Scope, str, str]
    _ended: set[int] = field(default_factory=set)
    """Runs that have ended and are in ``_of_ended`` whole."""
    _of_ended: int = 0
    _open: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of other runs: what was charged up to which batch."""

    def begin(self, read: Reading) -> None:
        """Add up what is in the books, seen at one moment."""
        upto = {run: last for run, _, _, last in read(_RUNS, ())}
        where, values = self._where()
        rows = read(f"SELECT u.run, SUM(u.charge_microusd) {_OF_ACCOUNTS} {where} GROUP BY u.run", values)
        sums = {run: int(charged) for run, charged in rows}
        self._open = {run: (sums.get(run, 0), last) for run, last in upto.items()}

    def in_all(self, cursor: LeaseCursor) -> tuple[int, dict[str, int]]:
        """What the books show as charged in all, and by the runs of each node that are open."""
        cursor.execute(_RUNS)
        by_node = dict[str, int]()
        for run, node, has_ended, last in cursor.fetchall():
            if run in self._ended:
                continue
            charged, upto = self._open.get(run, (0, 0))
            if last > upto:
                charged += self._since(cursor, run, upto, last)
            if has_ended:
                self._open.pop(run, None)
                self._ended.add(run)
                self._of_ended += charged
            else:
                self._open[run] = charged, last
                by_node[node] = by_node.get(node, 0) + charged
        return self._of_ended + sum(by_node.values()), by_node

    def _since(self, cursor: LeaseCursor, run: int, upto: int, last: int) -> int:
        where, values = self._where()
        cursor.execute(f"SELECT SUM(u.charge_microusd) {_OF_BATCHES} AND {where}", (run, upto, last, *values))
        return int(cursor.fetchall()[0][0] or 0)

    def _where(self) -> tuple[str, list[str]]:
        scope, tenant, narrower = self.name
        if scope is Scope.TENANT:
            return "a.tenant = ?", [tenant]
        return f"a.tenant = ? AND a.{SCOPE_COLUMN[scope]} = ?", [tenant, narrower]


def lease_in(cursor: LeaseCursor, charged: ChargedUnder, node: str, need: LeaseNeed, now_us: int) -> Lease:
    """Within a transaction that has the lock of the name. ``now_us``: the store's clock."""
    full = (charged.name[0].value, *charged.name[1:])
    cursor.execute(_HARD, full)
    rows = cursor.fetchall()
    hard = rows[0][0] if rows else None
    cursor.execute(_IN_FORCE, (*full, now_us, now_us + LEASE_US))
    granted = {holder: (most, bool(short)) for holder, most, short in cursor.fetchall()}
    spent, open_by_node = charged.in_all(cursor)
    before, _ = granted.pop(node, (0, False))
    others = [
        LeaseElsewhere(most, open_by_node.get(holder, 0), short) for holder, (most, short) in granted.items()
    ]
    lease = leased(need, hard, spent, open_by_node.get(node, 0), others, before)
    if hard is None or (lease.granted_microusd <= lease.charged_microusd and not lease.short):
        cursor.execute(_END, (*full, node))  # nothing is open: what was charged is in the books
    else:
        cursor.execute(_UPSERT, (*full, node, lease.granted_microusd, int(lease.short), now_us + LEASE_US))
    return lease
