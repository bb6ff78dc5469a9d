"""Runs of blocks that go down together, and the shortcut to who leaves the host: as block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from stepwell.bench.policy.steady_load import PolicyLoad, PolicySize, config_for
from stepwell.policy import descent
from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.contracts import DEFAULT_CONTRACTS, Shares
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.eviction.quotas import Quotas
from stepwell.policy.runs import sink_run
from stepwell.policy.scheduler import Scheduler

SIZE = PolicySize(40, 8_000)
STEPS = 400
OWED_HOST = tuple(
    replace(contract, guaranteed=replace(contract.guaranteed, host=share))
    for contract, share in zip(DEFAULT_CONTRACTS, (300, 200, 0), strict=True)
)


@dataclass
class Life:
    digest: str
    runs: int
    """How many blocks went down in runs."""


def life(seed: int, *, shortcuts: bool, owed: bool, monkeypatch: pytest.MonkeyPatch) -> Life:
    """The decisions of a busy policy; the books are checked now and then."""
    load = PolicyLoad(SIZE, "stepwell", seed=seed)
    if owed:
        load.scheduler = Scheduler(replace(config_for(SIZE, "stepwell"), contracts=OWED_HOST))
    in_runs = 0

    def counted(memory: BlockManager, victims: Sequence[Block], start: int) -> int:
        nonlocal in_runs
        down = sink_run(memory, victims, start)
        in_runs += down
        return down

    with monkeypatch.context() as patch:
        patch.setattr(descent, "sink_run", counted if shortcuts else lambda *_: 0)
        if not shortcuts:
            eviction = load.scheduler.block_manager.eviction
            patch.setattr(eviction, "spare_on_host", lambda: None)
            patch.setattr(eviction, "only_copies", lambda *_: False)
        load.fill()
        log = DecisionLog()
        for step in range(STEPS):
            events, now_us = load.next_events(), load.now_us
            plan = load.scheduler.step(now_us, events)
            log.add(now_us, plan)
            load.carry_out(plan)
            if step % 25 == 0:
                load.scheduler.check()
    return Life(log.digest, in_runs)


@pytest.mark.parametrize(("seed", "owed"), [(1, False), (2, True)], ids=["nothing owed", "host owed"])
def test_runs_decide_what_is_decided_block_by_block(
    seed: int, owed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = life(seed, shortcuts=True, owed=owed, monkeypatch=monkeypatch)
    one_by_one = life(seed, shortcuts=False, owed=owed, monkeypatch=monkeypatch)
    assert together.digest == one_by_one.digest
    assert together.runs > 100, "the shortcut was hardly taken"


def test_a_service_tier_that_is_owed_host_memory_is_asked_for_what_is_beyond_it() -> None:
    quotas = Quotas(replace(config_for(SIZE, "stepwell"), contracts=OWED_HOST))
    ranking = quotas.ranking(1, "priority")
    owed = OWED_HOST[0].guaranteed.host * quotas.room[1] // 1000
    assert OWED_HOST[0].guaranteed == Shares(step_tokens=600, device=200, host=300)
    for held, beyond in ((0, 0), (owed, 0), (owed + 5, 5)):
        ranking.blocks = held
        assert quotas.beyond_guarantee(1, "priority") == beyond
        assert (ranking in quotas.over(1)) == (beyond > 0)
