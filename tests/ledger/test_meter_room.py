"""Room that is not what the settings say: the books come out even all the same."""

from __future__ import annotations

from stepwell.ledger.types import IDLE, MACHINE, Cause, Kind, Resource
from stepwell.policy.types import KvTier
from tests.driver.harness import make_rig
from tests.ledger.books import check_books


def test_a_disk_that_is_found_fuller_than_it_may_be() -> None:
    """After a restart with less room the blocks are there before the policy has dropped what is too much."""
    before = make_rig(device=16, host=8, disk=60)
    for agent in range(8):
        before.ask([100 + agent, *range(60, 120)], 4, agent=f"a{agent}")
        before.settle()
    before.driver.demote_idle(KvTier.DISK)
    before.driver.stop()
    after = make_rig(device=16, host=8, disk=6, tiers=before.tiers, storage_every_us=1_000_000)
    room_bytes = after.driver.policy.config.disk_bytes
    after.driver.step()
    found_bytes = after.driver.policy.memory.disk_used
    assert found_bytes > 2 * room_bytes
    after.clock.sleep_us(5_000_000)
    after.driver.step()
    after.driver.stop()
    check_books(after.books, after.keeper)
    balances = after.books.balances()
    assert balances[MACHINE][Resource.DISK] == -5_000_000 * found_bytes
    assert balances[IDLE][Resource.DISK] == 0
    batches = after.books.batches
    assert all(position.disk_bytes >= 0 for batch in batches for position in batch.positions)


def test_a_copy_whose_block_is_gone_is_paid_by_who_it_was_made_for() -> None:
    """With no room below, what is stored is dropped at once; it was still made for somebody."""
    rig = make_rig(device=8, host=2, disk=0)
    for turn in range(3):
        for agent in range(5):
            rig.ask([100 + agent, *range(60, 100 + turn)], 6, agent=f"a{agent}")
        rig.settle()
    rig.driver.stop()
    moved = [
        posting
        for batch in rig.books.batches
        for posting in batch.postings
        if posting.resource is Resource.STORED and posting.cause is Cause.MOVE
    ]
    assert moved and all(posting.credit.kind is Kind.AGENT for posting in moved)
