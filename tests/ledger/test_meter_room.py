"""Room that is not what the settings say: the books come out even all the same."""

from __future__ import annotations

from random import Random

from stepwell.ledger.types import IDLE, MACHINE, Kind, Resource
from stepwell.policy.types import KvTier
from tests.driver.harness import make_rig
from tests.ledger.books import check_books
from tests.ledger.meter_world import end, got, turn, wait


def test_a_disk_that_is_found_fuller_than_it_may_be() -> None:
    """After a restart with less room the blocks are there before the policy has dropped what is too much."""
    before = make_rig(device=16, host=8, disk=60)
    for agent in range(8):
        before.ask([100 + agent, *range(60, 120)], 4, agent=f"a{agent}")
        before.settle()
    before.driver.demote_idle(KvTier.DISK)
    before.driver.stop()
    after = make_rig(device=16, host=8, disk=6, tiers=before.tiers, storage_every_us=1_000_000)
    room_bytes = after.driver.scheduler.config.disk_bytes
    after.driver.step()
    found_bytes = after.driver.scheduler.block_manager.disk_used
    assert found_bytes > 2 * room_bytes
    after.clock.sleep_us(5_000_000)
    after.driver.step()
    after.driver.stop()
    check_books(after.books, after.keeper)
    balances = after.books.balances()
    assert balances[MACHINE][Resource.DISK] == -5_000_000 * found_bytes
    assert balances[IDLE][Resource.DISK] == 0
    batches = after.books.batches
    assert all(position.held_bytes.disk >= 0 for batch in batches for position in batch.positions)


def test_a_copy_whose_block_is_gone_is_paid_by_who_it_was_made_for() -> None:
    """With little room below, a block may be stored and dropped again in one step: it was made for somebody
    all the same."""
    rig, dice = make_rig(device=16, host=6, disk=0, eviction="lru", max_running=8), Random(3)
    for _ in range(6):
        for agent in range(12):
            prompt = [100 + agent, *range(60, 75 + dice.randrange(40))]
            rig.ask(prompt, dice.randrange(1, 20), agent=f"a{agent}")
            for _ in range(dice.randrange(6)):
                rig.driver.step()
    rig.settle()
    rig.driver.stop()
    postings = [posting for batch in rig.books.batches for posting in batch.postings]
    stored = [posting for posting in postings if posting.resource is Resource.STORED]
    assert len(stored) > 50
    assert {posting.credit.kind for posting in stored} == {Kind.AGENT}


def test_a_prompt_that_everybody_begins_with_is_not_held_by_all_who_ever_called() -> None:
    """Its blocks are there for ever, so every agent of all times would have a share of them, and postings."""
    rig = make_rig(device=32, host=0, disk=0, max_agents=5, storage_every_us=1_000_000)
    system = list(range(100, 164))
    for agent in range(60):
        turn(rig, [*system, agent], 1, agent=f"a{agent}")
    wait(rig, 1_500_000)
    wait(rig, 5_000_000)
    newest = rig.books.batches[-1]
    known = {position.account.agent for position in newest.positions}
    assert known == {"", *(f"a{number}" for number in range(55, 60))}
    assert sum(posting.resource is Resource.DEVICE for posting in newest.postings) == 6
    turn(rig, [*system, 0], 1, agent="a0")
    wait(rig, 5_000_000)
    assert got(rig, Resource.DEVICE, "a0") > got(rig, Resource.DEVICE, "a1")
    end(rig)


def test_who_is_let_go_of_keeps_what_nobody_else_holds() -> None:
    rig = make_rig(device=32, host=0, disk=0, max_agents=2, storage_every_us=1_000_000)
    for agent in range(4):
        turn(rig, range(40 * agent, 40 * agent + 40), 1, agent=f"a{agent}")
    wait(rig, 1_500_000)
    before = [got(rig, Resource.DEVICE, f"a{agent}") for agent in range(4)]
    wait(rig, 9_000_000)
    gained = [got(rig, Resource.DEVICE, f"a{agent}") - had for agent, had in enumerate(before)]
    assert gained[0] == gained[1] == gained[2] == gained[3] > 0
    end(rig)
