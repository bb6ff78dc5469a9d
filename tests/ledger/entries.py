"""Small books for tests of the stores."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.ledger.base import PostingBatch, Run, RunId, Store
from stepwell.ledger.reading.queries import join_sum, split_sum
from stepwell.ledger.stores.schema import ACCOUNT_FIELDS
from stepwell.ledger.stores.sqlstore import account_of
from stepwell.ledger.types import MACHINE, Account, Cause, Kind, Posting, Resource

START_US = 1_700_000_000_000_000
RUN = Run("node-a", START_US, "null", '{"a": 1}', "cost", "price")

Balances = dict[tuple[Account, Resource], int]


def agent(name: str = "a", tenant: str = "acme") -> Account:
    return Account(Kind.AGENT, tenant, "key_1", "default", "s", name)


def computed(amount: int, who: Account | None = None, request: int = 1) -> Posting:
    return Posting(MACHINE, agent() if who is None else who, Resource.COMPUTE, amount, Cause.STEP, request)


def batch(number: int, *postings: Posting, at_us: int | None = None) -> PostingBatch:
    at_us = START_US + number if at_us is None else at_us
    return PostingBatch(number, at_us, number * 100, postings, totals={"compute_us": number})


def added(balances: Balances, postings: Sequence[Posting]) -> None:
    """What postings do to balances: the model of all that the stores keep."""
    for debit, credit, resource, amount, _, _ in postings:
        for account, change in ((debit, -amount), (credit, amount)):
            key = (account, resource)
            balances[key] = balances.get(key, 0) + change
            if not balances[key]:
                del balances[key]


def balances(store: Store, run: RunId | None = None) -> Balances:
    """As the books have them."""
    fields = ", ".join(f"a.{name}" for name in ACCOUNT_FIELDS)
    where = "" if run is None else f"WHERE p.run = {run:d}"
    # One statement sees one state of the books, whoever writes.
    sides = [
        f"SELECT {sign} AS sign, {fields}, p.resource, {split_sum('p.amount')} FROM postings p "
        f"JOIN accounts a ON a.id = p.{side} {where} GROUP BY {fields}, p.resource"
        for side, sign in (("debit", -1), ("credit", 1))
    ]
    found: Balances = {}
    for sign, *account, resource, high, low in store.rows(" UNION ALL ".join(sides)):
        key = (account_of(account), Resource(resource))
        found[key] = found.get(key, 0) + sign * join_sum(high, low)
    return {key: amount for key, amount in found.items() if amount}


def count_of(store: Store, table: str) -> int:
    return int(store.rows(f"SELECT COUNT(*) FROM {table}")[0][0])
