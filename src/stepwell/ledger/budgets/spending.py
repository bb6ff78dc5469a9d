"""What the books show as spent, and the budgets in force."""

from __future__ import annotations

from collections.abc import Iterable

from stepwell.ledger.base import Store
from stepwell.ledger.budgets.book import BudgetName, names_of
from stepwell.ledger.budgets.lease_rows import SCOPE_COLUMN
from stepwell.ledger.types import Budget, Scope
from stepwell.policy.types import Caller

_BY_ACCOUNT = """
SELECT a.tenant, a.key, a.session, a.agent, SUM(u.charge_microusd)
FROM usage u JOIN accounts a ON a.id = u.account
GROUP BY a.tenant, a.key, a.session, a.agent
"""
_IN_FORCE = """
SELECT at_us, scope, tenant, name, soft_microusd, hard_microusd, actor FROM budgets
WHERE id IN (SELECT MAX(id) FROM budgets GROUP BY scope, tenant, name) ORDER BY id
"""


def spent_microusd(store: Store, name: BudgetName) -> int:
    """What a tenant, key, session or agent has been charged in all, in micro-dollars. A charge of a request
    is far below 2**40, so the sum does not overflow."""
    where, values = "a.tenant = ?", [name.tenant]
    if name.scope is not Scope.TENANT:
        where += f" AND a.{SCOPE_COLUMN[name.scope]} = ?"
        values.append(name.name)
    sql = f"SELECT SUM(u.charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account WHERE {where}"
    return int(store.rows(sql, values)[0][0] or 0)


def spent_here_microusd(store: Store, name: BudgetName, node: str) -> int:
    """The same, by the runs of a node that are open."""
    where, values = "a.tenant = ?", [node, name.tenant]
    if name.scope is not Scope.TENANT:
        where += f" AND a.{SCOPE_COLUMN[name.scope]} = ?"
        values.append(name.name)
    sql = (
        "SELECT SUM(u.charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account "
        f"JOIN runs r ON r.id = u.run WHERE r.node = ? AND r.ended_at_us IS NULL AND {where}"
    )
    return int(store.rows(sql, values)[0][0] or 0)


def spent_by(store: Store, names: Iterable[BudgetName]) -> dict[BudgetName, int]:
    """The same for many names, in one go over the books."""
    spent = dict.fromkeys(names, 0)
    if not spent:
        return {}
    for tenant, key, session, agent, charge in store.rows(_BY_ACCOUNT):
        for name in names_of(Caller(tenant, key=key, session=session, agent=agent)):
            if name in spent:
                spent[name] += int(charge)
    return spent


def actor_of(store: Store, name: BudgetName) -> str:
    """The actor that has set the budget in force; empty where there is none."""
    rows = store.rows(
        "SELECT actor, soft_microusd, hard_microusd FROM budgets WHERE scope = ? AND tenant = ? AND name = ? "
        "ORDER BY id DESC LIMIT 1",
        (name.scope.value, name.tenant, name.name),
    )
    return str(rows[0][0]) if rows and rows[0][1:] != (None, None) else ""


def budgets_in_force(store: Store) -> list[Budget]:
    """The latest row of every name, the removed ones included (neither soft nor hard)."""
    return [
        Budget(Scope(scope), tenant, name, soft, hard, at_us, actor)
        for at_us, scope, tenant, name, soft, hard, actor in store.rows(_IN_FORCE)
    ]


def last_entry_us(store: Store) -> int:
    """The wall clock of the latest entry or end of a run; 0: there is none."""
    ((entered_us, ended_us),) = store.rows("SELECT MAX(last_at_us), MAX(ended_at_us) FROM runs")
    return max(entered_us or 0, ended_us or 0)
