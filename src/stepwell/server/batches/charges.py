"""After a kill: which lines the books have charged, so that each is charged once.

The answer of a line and its charge are written by two writers, and a kill may come between them. A line with
an answer and no charge is run again; one with a charge and no answer is run again too, and what was charged
for the lost answer is given back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from stepwell.ledger.base import Store
from stepwell.ledger.port import RunningBooks
from stepwell.ledger.reading.queries import ACCOUNT_COLUMNS, join_sum, split_sum
from stepwell.ledger.types import Account, Cause, Kind, Usage
from stepwell.server.batches.store import DONE, WAITING, Batch, BatchStore

LOST = "lost_answer"


@dataclass(frozen=True, slots=True)
class Charged:
    """What the books have for one line."""

    account: Account
    microusd: int


def agent_of(batch_id: str, number: int) -> str:
    """The agent as which a line runs; its session is the batch."""
    return f"{batch_id}/{number:06d}"


def charged_lines(store: Store, batch_id: str) -> dict[str, Charged]:
    """By agent, what stands as charged."""
    columns = ", ".join(f"a.{name}" for name in ACCOUNT_COLUMNS.split(", "))
    rows = store.rows(
        f"SELECT {columns}, {split_sum('u.charge_microusd')} FROM accounts a "
        "JOIN usage u ON u.account = a.id "
        f"WHERE a.session = ? GROUP BY {columns}",
        (batch_id,),
    )
    found = [(Account(Kind(row[1]), *row[2:9]), join_sum(row[9], row[10])) for row in rows]
    return {account.agent: Charged(account, microusd) for account, microusd in found}


def reconcile(
    ledger: RunningBooks, charged: dict[str, Charged], batch: Batch, store: BatchStore, now_us: int
) -> int:
    """Make lines and books agree. Returns how many lines are run again."""
    again = 0
    for line in list(store.every_answer(batch.id)):
        there = charged.get(agent_of(batch.id, line.number))
        paid = 0 if there is None else there.microusd
        if line.state == DONE and not paid and _cost_something(line.answer):
            store.again(batch.id, line.number)
            again += 1
        elif line.state == WAITING and there is not None and paid > 0:
            ledger.correct(
                Usage(
                    0,
                    there.account,
                    batch.model or "",
                    LOST,
                    now_us,
                    requests=0,
                    charge_microusd=-paid,
                    cause=Cause.CORRECTION,
                )
            )
            again += 1
    return again


def _cost_something(answer: str | None) -> bool:
    try:
        usage = json.loads(answer or "{}").get("usage")
        return bool(usage and usage.get("cost"))
    except (ValueError, AttributeError):
        return False
