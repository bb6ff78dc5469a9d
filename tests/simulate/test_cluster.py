"""Many replicas on one clock: nothing is lost, nothing acts on what it cannot know, faults are survived."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.fleet.routers import ROUTERS, KvAffine
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import RoutedTurn, RoutingChoice
from stepwell.ledger.pricing.costs import CostBook, room_bytes
from stepwell.ledger.pricing.costs import MemoryPrice as CostRoom
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.ledger.types import MACHINE_RESOURCES
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import KvTier
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.books import money_of
from stepwell.simulate.calibrate import calibrated, facts_of, working_set_blocks
from stepwell.simulate.cluster import Cluster, Fault, ReplicaSite
from stepwell.simulate.fleet_report import fleet_report
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.run import Room, config_for
from stepwell.simulate.traces import mooncake_of
from stepwell.simulate.workload import Workload

MODEL = MachineModel()
SILENT = Declared(None)


def small(sessions: int, seed: int, policy: str = "lru") -> tuple[Workload, PolicyConfig]:
    workload, _ = calibrated(generated(sessions=sessions, seed=seed), MODEL, busy=0.9)
    device = max(200, working_set_blocks(workload) // 3)
    return workload, config_for(workload, MODEL, Room(device, device, 4 * device), policy)


def ran(workload: Workload, site: ReplicaSite, count: int, router: str, *faults: Fault) -> Cluster:
    cluster = Cluster(Player(workload, SILENT), site, count, ROUTERS[router], faults=faults)
    cluster.run()
    return cluster


def test_one_replica_is_the_machine() -> None:
    """To the microsecond: the same events at the same times, and so the same decisions."""
    workload, config = small(8, 3)
    meter = SimulatedMeter(MODEL, workload.unit_tokens)
    alone = Machine(Scheduler(config), MODEL, Player(workload, SILENT), meter)
    alone.run()
    cluster = ran(workload, ReplicaSite(config, MODEL), 1, "kv-affine")
    ((machine, _),) = cluster.lives()
    times = [[(t.arrived_us, t.ttft_us, t.done_us) for t in m.turns.values()] for m in (meter, machine.meter)]
    assert times[0] == times[1]
    assert meter.bytes_moved == machine.meter.bytes_moved


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(1, 10_000),
    count=st.integers(1, 4),
    router=st.sampled_from(sorted(ROUTERS)),
    lost_s=st.integers(0, 900),
    for_s=st.integers(1, 400),
    slow=st.booleans(),
)
def test_every_turn_ends_once_whatever_breaks(
    seed: int, count: int, router: str, lost_s: int, for_s: int, slow: bool
) -> None:
    workload, config = small(4, seed)
    number = seed % count
    faults = [Fault("lost", number, lost_s * 1_000_000, for_s * 1_000_000)]
    if slow:
        faults.append(Fault("slow-disk", 0, 0, 600_000_000))
    cluster = ran(workload, ReplicaSite(config, MODEL), count, router, *faults)
    found = fleet_report(cluster, 1.0, None)
    assert found.turns == sum(1 for _ in workload.turns())
    assert found.refused == 0
    assert all(not machine.live for machine, _ in cluster.lives())
    for machine, _ in cluster.lives():
        for turn in machine.meter.turns.values():
            assert turn.ttft_us is not None and turn.done_us is not None
            assert 0 <= turn.ttft_us <= turn.done_us


def test_a_replica_that_is_lost_loses_its_turns_and_its_memory() -> None:
    workload, config = small(10, 5)
    well = fleet_report(ran(workload, ReplicaSite(config, MODEL), 2, "kv-affine"), 1.0, None)
    faults = [Fault("lost", n, 200_000_000, 60_000_000) for n in (0, 1)]
    cluster = ran(workload, ReplicaSite(config, MODEL), 2, "kv-affine", *faults)
    broken = fleet_report(cluster, 1.0, None)
    assert broken.turns == well.turns
    assert len(cluster.lives()) == 4
    assert broken.hit_share < well.hit_share
    assert broken.sent_again > 0


def test_a_slow_disk_makes_turns_wait_for_it() -> None:
    workload, config = small(8, 7)
    config = replace(config, host_bytes=config.block_bytes * 8, always_load=True)
    well = ran(workload, ReplicaSite(config, MODEL), 1, "kv-affine").lives()[0][0].meter
    slow = ran(workload, ReplicaSite(config, MODEL), 1, "kv-affine", Fault("slow-disk", 0, 0, 10**11, 50))
    assert slow.lives()[0][0].meter.disk_wait_us > 5 * well.disk_wait_us


def test_the_books_of_all_replicas_are_the_bill() -> None:
    """What agents used, idle time and room together are each machine's whole time and room."""
    workload, config = small(6, 2, "stepwell")
    cluster = ran(workload, ReplicaSite(config, MODEL, load_price_book("openai-gpt-5")), 2, "round-robin")
    book = CostBook(CostRoom().usd_per_gb + 2, CostRoom().usd_per_gb, CostRoom(), CostRoom())
    rates = book.rates(room_bytes(config))
    sums = [books.sums for _, books in cluster.lives() if books is not None]
    money = money_of(sums, rates)
    hours = sum(machine.now_us for machine, _ in cluster.lives()) / 3.6e9
    assert float(money.cost_usd) == pytest.approx(2 * hours, rel=1e-3)
    loaded = sum(tier.loaded_usd for tier in money.tiers.values())
    assert loaded == money.cost_usd
    assert money.revenue_usd > 0
    for resource in MACHINE_RESOURCES:
        used = sum(amount for one in sums for (res, _), amount in one.used.items() if res is resource)
        given_ = sum(b.meter.totals[resource.value] for _, b in cluster.lives() if b is not None)
        assert used == given_


def test_what_is_sent_again_counts_from_when_it_was_first_sent() -> None:
    workload, config = small(3, 9)
    down = Fault("lost", 0, 0, 30_000_000)
    cluster = ran(workload, ReplicaSite(config, MODEL), 1, "kv-affine", down)
    turns = [t for machine, _ in cluster.lives() for t in machine.meter.turns.values()]
    first = min(turns, key=lambda turn: turn.arrived_us)
    assert first.ttft_us is not None and first.ttft_us > 25_000_000


@given(
    prefill=st.integers(0, 5000),
    decode=st.integers(0, 300),
    depth=st.integers(0, 10**7),
    more=st.integers(0, 300),
)
def test_an_accelerator_never_gets_faster_by_more_work(
    prefill: int, decode: int, depth: int, more: int
) -> None:
    mixture = Accelerator(
        3_000_000_000, 5_000_000, 700, 90_000_000, 13_000, 1, experts_ps=10**10, expert_tokens=8
    )
    before = mixture.step_us(prefill, decode, depth, depth)
    assert mixture.step_us(prefill + more, decode, depth, depth) >= before
    assert mixture.step_us(prefill, decode + more, depth, depth) >= before
    assert mixture.step_us(prefill, decode, depth + more, depth) >= before


def test_a_run_that_is_cut_off_is_the_beginning_of_the_whole() -> None:
    workload, config = small(6, 4)
    whole = ran(workload, ReplicaSite(config, MODEL), 2, "round-robin")
    cut = Cluster(Player(workload, SILENT), ReplicaSite(config, MODEL), 2, ROUTERS["round-robin"])
    cut.run(until_us=200_000_000)
    for early, late in zip(cut.lives(), whole.lives(), strict=True):
        for request, turn in early[0].meter.turns.items():
            again = late[0].meter.turns[request]
            if turn.done_us is not None:
                assert (turn.ttft_us, turn.done_us) == (again.ttft_us, again.done_us)
        assert early[0].now_us < late[0].now_us


def test_a_policy_that_is_told_the_bandwidths_begins_with_them() -> None:
    _, config = small(1, 1)
    source = Player(generated(sessions=1, seed=1), SILENT)
    cluster = Cluster(source, ReplicaSite(config, MODEL, told_costs=True), 1, ROUTERS["kv-affine"])
    costs = cluster.lives()[0][0].scheduler.context.costs
    asked_us, given_us = (
        MODEL.read_us(config.block_bytes),
        costs.move_us(KvTier.DISK, KvTier.HOST, config.block_bytes),
    )
    assert abs(asked_us - given_us) <= 0.01 * asked_us


def test_a_conversation_of_nobody_is_not_computed_on_one_replica_after_the_other() -> None:
    """Its next prompt goes where the one before went, though all prompts begin alike for three blocks and a
    replica more or less busy is often another."""
    records, dice = [], random.Random(1)
    for conversation in range(24):
        names, at_ms = [0, 1, 2], dice.randrange(4_000)
        for turn in range(6):
            names = names + [1_000 * conversation + 10 * turn + n for n in range(3, 10)]
            length = 512 * len(names) + dice.randrange(512)
            records.append(
                {
                    "timestamp": at_ms,
                    "input_length": length,
                    "output_length": 300,
                    "hash_ids": [*names, -1 - at_ms],
                }
            )
            at_ms += dice.randrange(2_000, 6_000)
    records.sort(key=lambda record: int(str(record["timestamp"])))
    workload = mooncake_of(records, "made up", seed=1, unit_tokens=32)
    room = working_set_blocks(workload)
    site = ReplicaSite(config_for(workload, MODEL, Room(room, room, 0), "lru"), MODEL)
    shares = []
    for rule in (KvAffine(), _SeesTheFirstBlock()):
        cluster = Cluster(Player(workload, SILENT), site, 4, rule)
        cluster.run()
        shares.append(fleet_report(cluster, 1.0, None).hit_share)
    facts = facts_of(workload, MODEL)
    endless = facts.units_hit / facts.units
    assert shares[0] > 0.85 * endless and shares[1] < 0.7 * endless


class _SeesTheFirstBlock(KvAffine):
    """The same rule without what was sent where: all prompts have the same home, as far as load allows."""

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        return super().choose(fleet, replace(turn, prefixes=turn.prefixes[:1]), now_us, avoid)
