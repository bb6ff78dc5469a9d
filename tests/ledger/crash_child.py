"""Writes batches until it is killed, and says each number once ``write`` has returned."""

from __future__ import annotations

import os
import sys

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.base import PostingBatch
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.stores.recovery import recover
from stepwell.ledger.types import MACHINE, Cause, Position, Posting, Resource
from tests.ledger.entries import RUN, START_US, agent


def step(number: int) -> list[Posting]:
    """So many postings that batches differ in size; amounts say which batch they are of."""
    return [
        Posting(MACHINE, agent(f"a{(number + n) % 40}"), Resource.COMPUTE, number, Cause.STEP, n)
        for n in range(1 + number % 97)
    ]


def main(name: str) -> None:
    store = open_store(name)
    recover(store, RUN.node, START_US)
    run = store.begin(RUN)
    os.write(1, f"run {run}\n".encode())
    total = 0
    for number in range(1, 1_000_000):
        postings = step(number)
        total += sum(posting.amount for posting in postings)
        positions = [Position(agent("a1"), PerTier(number, 0, 0), number)]
        batch = PostingBatch(
            number, START_US + number, number, postings, (), positions, {"compute_us": total}
        )
        store.write(run, batch)
        os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
