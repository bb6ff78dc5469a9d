"""Leases of budgets as rows of the ledger: read, decided and written in one transaction.

Whoever holds the lock of a budget's name is the only one to change its leases, so that two nodes that ask at
once are answered one after the other. Charges are entered without that lock: a charge of a node with a lease
changes nothing of what its lease leaves to others (``leases``).
"""

from __future__ import annotations

from collections.abc import Sequence
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


class LeaseCursor(Protocol):
    """As much of a database cursor as is needed here; placeholders are ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any: ...

    def fetchall(self) -> list[Any]: ...


def lease_in(
    cursor: LeaseCursor, name: tuple[Scope, str, str], node: str, need: LeaseNeed, now_us: int
) -> Lease:
    """Within a transaction that has the lock of ``name``. ``now_us``: the store's clock."""
    full = (name[0].value, *name[1:])
    cursor.execute(_HARD, full)
    rows = cursor.fetchall()
    hard = rows[0][0] if rows else None
    cursor.execute(_IN_FORCE, (*full, now_us, now_us + LEASE_US))
    granted = {holder: (most, bool(short)) for holder, most, short in cursor.fetchall()}
    spent, open_by_node = _spent(cursor, name)
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


def _spent(cursor: LeaseCursor, name: tuple[Scope, str, str]) -> tuple[int, dict[str, int]]:
    """What the books show as charged in all, and by the runs of each node that are open."""
    scope, tenant, narrower = name
    where, values = "a.tenant = ?", [tenant]
    if scope is not Scope.TENANT:
        where += f" AND a.{SCOPE_COLUMN[scope]} = ?"
        values.append(narrower)
    cursor.execute(
        "SELECT r.node, CASE WHEN r.ended_at_us IS NULL THEN 1 ELSE 0 END, SUM(u.charge_microusd) "
        "FROM accounts a JOIN usage u ON u.account = a.id JOIN runs r ON r.id = u.run "
        f"WHERE {where} GROUP BY 1, 2",
        values,
    )
    spent, by_node = 0, dict[str, int]()
    for node, is_open, charged in cursor.fetchall():
        spent += int(charged)
        if is_open:
            by_node[node] = by_node.get(node, 0) + int(charged)
    return spent, by_node
