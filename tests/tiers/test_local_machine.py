"""``LocalTiers`` against a model, with the two threads' work and the clock as further random steps."""

from __future__ import annotations

import shutil
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.policy.types import BlockId, KvTier
from stepwell.tiers.local import LocalTiers, TransferLimits
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import (
    BLOCK_BYTES,
    FINGERPRINT,
    FaultyFiles,
    ManualClock,
    ManualWorkers,
    block,
    content,
    directory_bytes,
    scratch_directory,
)

HOST, DISK = KvTier.HOST, KvTier.DISK
HOST_BLOCKS, DISK_BYTES = 4, 110_000
numbers = st.integers(0, 7)


class TiersMachine(RuleBasedStateMachine):
    """Every start is reported exactly once; what is there is right; the bounds hold at every step."""

    @initialize()
    def begin(self) -> None:
        self.path = scratch_directory()
        self.clock, self.workers, self.files = ManualClock(), ManualWorkers(), FaultyFiles()
        store = DiskStore(self.path, DISK_BYTES, FINGERPRINT, files=self.files)
        self.tiers = LocalTiers(
            HOST_BLOCKS * BLOCK_BYTES,
            store,
            limits=TransferLimits(max_reads=3, max_writes=3),
            clock=self.clock,
            make_worker=self.workers,
        )
        self.started: Counter[tuple[BlockId, KvTier]] = Counter()
        self.reported: Counter[tuple[BlockId, KvTier]] = Counter()
        self.on_host: set[int] = set()

    @rule(number=numbers)
    def put(self, number: int) -> None:
        meta = block(number)
        if self.tiers.put_host(meta, content(meta)):
            self.on_host.add(number)

    @rule(number=numbers, tier=st.sampled_from((HOST, DISK)))
    def drop(self, number: int, tier: KvTier) -> None:
        self.tiers.drop(block(number).id, tier)
        if tier is HOST:
            self.on_host.discard(number)

    @rule(number=numbers)
    def start_write(self, number: int) -> None:
        self.tiers.start(block(number), HOST, DISK)
        self.started[block(number).id, DISK] += 1

    @rule(number=numbers)
    def start_read(self, number: int) -> None:
        self.tiers.start(block(number), DISK, HOST)
        self.started[block(number).id, HOST] += 1

    @rule(count=st.integers(1, 4))
    def the_writer_works(self, count: int) -> None:
        self.workers.writer.run(count)

    @rule(count=st.integers(1, 4))
    def the_reader_works(self, count: int) -> None:
        self.workers.reader.run(count)

    @rule(seconds=st.sampled_from((0.5, 5.0, 100.0)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(write_errno=st.sampled_from((0, 0, 28, 5)), read_errno=st.sampled_from((0, 0, 5, 24)))
    def the_disk_changes_its_mind(self, write_errno: int, read_errno: int) -> None:
        self.files.write_errno, self.files.read_errno = write_errno, read_errno

    @rule(number=numbers, tier=st.sampled_from((HOST, DISK)))
    def a_drop_will_come_while_bytes_are_on_their_way(self, number: int, tier: KvTier) -> None:
        self.files.during = lambda: self.drop(number, tier)

    @rule(number=numbers)
    def a_put_will_come_while_bytes_are_on_their_way(self, number: int) -> None:
        self.files.during = lambda: self.put(number)

    @rule()
    def a_deadline_will_pass_while_bytes_are_on_their_way(self) -> None:
        def late() -> None:
            self.clock.now_s += 100
            self.poll()

        self.files.during = late

    @rule()
    def poll(self) -> None:
        for moved in self.tiers.poll():
            self.reported[moved.block, moved.target] += 1
            if moved.ok and moved.target is HOST:
                assert self.tiers.get_host(moved.block) is not None
                self.on_host |= {n for n in range(8) if block(n).id == moved.block}

    @invariant()
    def what_is_there_is_right(self) -> None:
        if not hasattr(self, "tiers"):
            return
        for number in range(8):
            data = self.tiers.get_host(block(number).id)
            assert data is None or data == content(block(number))
        assert {n for n in range(8) if self.tiers.get_host(block(n).id) is not None} == self.on_host
        assert all(count <= self.started[key] for key, count in self.reported.items())
        assert directory_bytes(self.path) <= DISK_BYTES
        self.tiers.check()

    def teardown(self) -> None:
        if not hasattr(self, "tiers"):
            return
        try:
            self.settle_everything()
        finally:
            self.tiers.close()
            shutil.rmtree(self.path)

    def settle_everything(self) -> None:
        self.files.during = None
        for _ in range(3):  # settling may queue the removal of files
            self.workers.writer.run_all()
            self.workers.reader.run_all()
            self.poll()
        self.what_is_there_is_right()
        assert self.reported == self.started
        assert self.tiers.usage(HOST).used_bytes == len(self.on_host) * BLOCK_BYTES


TiersMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestTiers = TiersMachine.TestCase
