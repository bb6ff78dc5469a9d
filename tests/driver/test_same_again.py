"""Every eviction policy decides the same twice, and under any hash seed: the decision log has one hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest

from stepwell.ledger.types import Resource
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.policy.types import Event, Hint, Plan, Wait
from tests.driver.harness import Rig, make_rig

LIVE = sorted(EVICTION_POLICIES.keys() - {"oracle"})
PINNED = {
    "arc": "82567db7c8fe054cd4363b336ed046c31bfd7402c3fa5b2184d923e91a77097c",
    "idleness": "68a19408c637cc7cdf43a315fd09502d49d248cafe03878d781304a27e200aaf",
    "lru": "9d58979af7fb976dc14fb6e3ead01845b301c2550c8557416dc93984f7ad5f92",
    "priority-lru": "52cb82969060ba270f15deca3e5130a44d9eef4dc1da825408f17d27f97a8c7e",
    "steps": "63ffa3b6df698e75dbafe4d6d24af31930a6fc61b149adade43ce38dcdf50e63",
    "stepwell": "72f2abb6da7a278c875a1a83055bd0b7ef59d69a6e04b8ee5f600ce7e30754d8",
    "ttl": "17689d9c41fd9e48ee0753ed7e0d7dfc2f04e455dce8a7c83fa03594c0d2845d",
}
"""The decisions as they are meant to be. A move or a rename leaves these hashes alone; a changed rule
changes its own, and only its own, in the same commit."""

WAITS = (Wait.TOOL, Wait.PERSON, Wait.AGENT, Wait.UNKNOWN, Wait.DONE)


UNUSED = Resource.EMBEDDING.value
"""It came after the pin, and nothing is embedded in that life."""
BOOKS_UNDER_LRU = "3a283f954da61ec429e6a1c6cd76b3910027026c72ae90e8119fda51cba3c45f"
"""The same for the ledger: every posting, usage and position of that life, entered in the same batches."""


@dataclass
class Logged:
    """An observer that logs every plan."""

    log: DecisionLog

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        self.log.add(now_us, plan)

    def close(self, now_us: int) -> None:
        pass


def digest_of_a_busy_life(eviction: str) -> str:
    """Agents of two customers and three service tiers, with hints, failures and too little room."""
    return busy_life(eviction)[0]


def busy_life(eviction: str) -> tuple[str, Rig]:
    """The hash of its decisions, and what it has left."""
    rig = make_rig(device=12, host=10, disk=30, eviction=eviction, max_running=4)
    log = DecisionLog()
    rig.driver.loop.observers.append(Logged(log))
    for turn in range(6):
        for agent in range(8):
            rig.ask(
                [100 + agent % 3, *range(60, 75 + 5 * turn), 100 + agent],
                5,
                agent=f"a{agent}",
                tenant=f"tenant-{agent % 2}",
                service_tier=("priority", "default", "flex")[agent % 3],
                hint=Hint(WAITS[(agent + turn) % 5], 400_000 * agent, f"a{(agent + 2) % 8}"),
            )
        rig.tiers.fail_reads = 1
        rig.settle()
        rig.clock.sleep_us(700_000)
    rig.driver.stop()
    assert log.plans > 50
    return log.digest, rig


def plain(entry: object) -> str:
    """Its values alone, so that a renamed type or field changes nothing."""
    if isinstance(entry, tuple):
        return f"({','.join(map(plain, entry))})"
    if is_dataclass(entry):
        return plain(tuple(getattr(entry, field.name) for field in fields(entry)))
    return str(entry)


def books_digest(rig: Rig) -> str:
    """Of what was entered, batch by batch; the order within one says nothing."""
    seen = hashlib.sha256()
    for batch in rig.books.batches:
        positions = [(one.account, *one.held_bytes, one.as_of_us) for one in batch.positions]
        entries = sorted(map(plain, (*batch.postings, *batch.usage, *positions)))
        totals = sorted(total for total in batch.totals.items() if total[0] != UNUSED)
        seen.update(f"{batch.number} {batch.now_us} {entries} {totals}".encode())
    return seen.hexdigest()


def test_the_books_are_those_that_were_pinned() -> None:
    _, rig = busy_life("lru")
    assert books_digest(rig) == BOOKS_UNDER_LRU
    assert rig.keeper.meter.costs.prefill == rig.driver.scheduler.block_manager.costs.prefill


def test_every_eviction_policy_has_its_decisions_pinned() -> None:
    assert sorted(PINNED) == LIVE, "every live eviction policy has a line in PINNED"


@pytest.mark.parametrize("eviction", LIVE)
def test_the_same_life_is_decided_the_same_and_as_it_was_pinned(eviction: str) -> None:
    found = digest_of_a_busy_life(eviction)
    assert found == digest_of_a_busy_life(eviction), "two runs of the same life differ"
    assert found == PINNED.get(eviction), (
        f"{eviction} decides otherwise than it is pinned. If that is meant: PINNED gets {found!r}"
    )


def test_the_hash_seed_changes_no_decision_of_any_eviction_policy() -> None:
    code = (
        "from tests.driver.test_same_again import LIVE, digest_of_a_busy_life as digest; "
        "print([digest(eviction) for eviction in LIVE])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == str([PINNED[eviction] for eviction in LIVE])


def test_eviction_policies_really_decide_differently() -> None:
    """Else the tests above would compare one rule with itself."""
    assert len(set(PINNED.values())) >= len(LIVE) - 1
