"""Lower KV tiers never make the device lose more than it loses alone, whatever a copy costs beside computing.

Where a copy takes longer than computing its tokens, a host is of no use; it must do no harm either. It did:
blocks went down early, to make room for whole answers, and were computed again because loads were too dear.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from stepwell.policy.costs import Costs
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Computed, KvTier, Moved
from stepwell.simulate.calibrate import calibrated, working_set_blocks
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.run import Room, config_for
from stepwell.simulate.workload import Workload

MODEL = MachineModel()
TIMES_DEARER = (0.1, 1, 10, 100, 1_000, 5_000)


@cache
def workload(seed: int) -> Workload:
    return calibrated(generated(sessions=4, seed=seed), MODEL)[0]


def computed_twice(
    seed: int, model: MachineModel, room: Room, prices: dict[tuple[KvTier, KvTier], int] | None = None
) -> int:
    """Tokens; ``prices``: nanoseconds a KiB, known from the beginning."""
    player = Player(workload(seed), Declared.parse("silent"))
    config = config_for(workload(seed), model, room, "stepwell")
    scheduler = Scheduler(config)
    scheduler.context.costs.ns_per_kib.update(prices or {})
    Machine(scheduler, model, player, SimulatedMeter(model, config.unit_tokens), bounded=False).run()
    return scheduler.recomputed_tokens


def copying(times_dearer: float) -> MachineModel:
    return replace(
        MODEL,
        copy_us_per_block=int(MODEL.copy_us_per_block * times_dearer),
        read_bytes_per_s=int(MODEL.read_bytes_per_s / times_dearer),
        write_bytes_per_s=int(MODEL.write_bytes_per_s / times_dearer),
        transfer_us=int(MODEL.transfer_us * times_dearer),
    )


@pytest.mark.parametrize("seed", [1, 3, 6])
def test_with_lower_tiers_no_more_is_computed_twice_than_without(seed: int) -> None:
    device = max(8, working_set_blocks(workload(seed)) // 8)
    alone = computed_twice(seed, MODEL, Room(device, 0, 0))
    assert alone > 500, "the device is under pressure"
    for times_dearer in TIMES_DEARER:
        tiered = computed_twice(seed, copying(times_dearer), Room(device, 2 * device, 10 * device))
        assert tiered <= alone, f"copies {times_dearer} times as dear"
        assert times_dearer > 100 or 2 * tiered < alone, f"copies {times_dearer} times as dear pay"


def test_what_is_known_to_be_too_dear_is_as_if_it_were_not_there() -> None:
    """Exactly: the same tokens, though the host and the disk are empty all the time."""
    device, dear = max(8, working_set_blocks(workload(3)) // 8), dict.fromkeys(Costs().ns_per_kib, 10**9)
    alone = computed_twice(3, MODEL, Room(device, 0, 0))
    assert computed_twice(3, MODEL, Room(device, 2 * device, 10 * device), dear) == alone


def test_a_price_that_nobody_pays_is_doubted_until_it_is_tried_again() -> None:
    costs, block_bytes = Costs(), 1 << 20
    for route in ((KvTier.DEVICE, KvTier.HOST), (KvTier.HOST, KvTier.DEVICE)):
        for _ in range(50):
            costs.saw_move(Moved(b"b", *route, True, block_bytes, 1_000_000))
    for _ in range(50):
        costs.saw_step(Computed(256, 0, 256 * 128, 256_000))
    refused = 0
    while not costs.copies_pay(block_bytes, 0, 64):
        costs.doubt_copies()
        refused += 1
        assert refused < 10_000, "the machine may have become quiet"
    assert refused > 1_000, "a copy as dear as before costs little beside what was computed meanwhile"
