"""What a unit of each resource cost in each run: by the cost book and the capacities that the run noted."""

from __future__ import annotations

import json
from collections.abc import Iterable

from stepwell.basics.per_tier import PerTier
from stepwell.errors import BadInput
from stepwell.ledger.base import LedgerError, RunId
from stepwell.ledger.pricing.costs import Capacities, CostBook, Rates, parse_cost_book
from stepwell.ledger.reading.queries import RunRow


def rates_of(runs: Iterable[RunRow], book: CostBook | None = None) -> dict[RunId, Rates]:
    """``book`` takes the place of every run's own. Raises ``BadInput`` for a run that has none."""
    return {run.id: (book or own_book(run)).rates(capacities_of(run)) for run in runs}


def own_book(run: RunRow) -> CostBook:
    """The book that was in force."""
    if not run.cost_book.strip():
        raise BadInput(f"run {run.id} on {run.node} kept no cost book: name one with --cost-book")
    return parse_cost_book(run.cost_book, f"cost book of run {run.id}")


def capacities_of(run: RunRow) -> Capacities:
    """Room for KV, from the policy's configuration; of the whole machine, where several models shared it."""
    try:
        config = json.loads(run.config)
        if "machine_bytes" in config:
            room = PerTier(*config["machine_bytes"])
        else:
            device_bytes = config["device_blocks"] * config["block_bytes"]
            room = PerTier(device_bytes, config["host_bytes"], config["disk_bytes"])
        if min(room) < 0:
            raise ValueError(f"room cannot be negative: {room}")
        return room
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"run {run.id} on {run.node} does not say how much room it had for KV") from error
