"""Transfers on a disk that is slow, stuck or broken. Workers and clock are in the test's hands."""

from __future__ import annotations

import errno
import logging
import mmap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stepwell.policy.types import KvTier, Moved
from stepwell.tiers.directory import DiskBusy
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
    record_files,
    settle,
)

HOST, DISK = KvTier.HOST, KvTier.DISK
LIMITS = TransferLimits(read_deadline_s=2.0, write_deadline_s=30.0, max_reads=4, max_writes=4)


class Rig:
    """Tiers whose disk only works when told to."""

    def __init__(self, path: Path, host_blocks: int = 6) -> None:
        self.path = path
        self.clock = ManualClock()
        self.workers = ManualWorkers()
        self.files = FaultyFiles()
        self.store = DiskStore(path, 400_000, FINGERPRINT, files=self.files)
        self.tiers = LocalTiers(
            host_blocks * BLOCK_BYTES, self.store, limits=LIMITS, clock=self.clock, make_worker=self.workers
        )

    def put(self, number: int) -> None:
        assert self.tiers.put_host(block(number), content(block(number)))

    def write(self, number: int) -> None:
        self.tiers.start(block(number), HOST, DISK)

    def read(self, number: int) -> None:
        self.tiers.start(block(number), DISK, HOST)

    def run_writer(self) -> list[Moved]:
        self.workers.writer.run_all()
        return self.tiers.poll()

    def run_reader(self) -> list[Moved]:
        self.workers.reader.run_all()
        return self.tiers.poll()

    def on_disk(self, *numbers: int) -> None:
        for number in numbers:
            self.put(number)
            self.write(number)
            assert self.run_writer()[0].ok
            self.tiers.drop(block(number).id, HOST)

    def host_bytes(self, number: int) -> bytes | None:
        data = self.tiers.get_host(block(number).id)
        return None if data is None else bytes(data)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.tiers.check()
    rig.tiers.close()


# --- deadlines ----------------------------------------------------------------------------------


def test_a_read_past_its_deadline_is_given_up_and_its_late_result_thrown_away(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    rig.clock.now_s += 1.9
    assert rig.tiers.poll() == []
    rig.clock.now_s += 0.2
    (moved,) = rig.tiers.poll()
    assert (moved.ok, moved.gone) == (False, False)
    assert moved.duration_us == pytest.approx(2_100_000, abs=2)
    assert rig.host_bytes(1) is None
    assert rig.tiers.usage(HOST).used_bytes == BLOCK_BYTES, "the disk may still write into this memory"
    assert rig.run_reader() == [], "reported once"
    assert rig.host_bytes(1) is None
    assert rig.tiers.usage(HOST).used_bytes == 0
    assert rig.tiers.usage(DISK).blocks == 1, "slow is not damaged"


def test_a_read_that_hangs_in_the_disk_and_then_succeeds_is_thrown_away(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    told: list[Moved] = []

    def too_late() -> None:
        rig.clock.now_s += 10
        told.extend(rig.tiers.poll())

    rig.files.during = too_late
    assert rig.run_reader() == []
    assert [moved.ok for moved in told] == [False]
    assert rig.host_bytes(1) is None
    assert rig.tiers.usage(HOST).used_bytes == 0


def test_a_block_put_while_it_is_being_read_is_there_once(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    rig.files.during = lambda: rig.put(1)
    assert [moved.ok for moved in rig.run_reader()] == [True]
    assert rig.tiers.usage(HOST).used_bytes == BLOCK_BYTES


def test_targets_dropped_while_the_bytes_are_on_their_way(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    rig.files.during = lambda: rig.tiers.drop(block(1).id, HOST)
    assert [moved.ok for moved in rig.run_reader()] == [False]
    assert rig.tiers.usage(HOST).used_bytes == 0
    rig.put(2)
    rig.write(2)
    rig.files.during = lambda: rig.tiers.drop(block(2).id, DISK)
    assert [moved.ok for moved in rig.run_writer()] == [False]
    assert rig.tiers.usage(DISK).blocks == 1
    rig.run_writer()
    assert len(record_files(rig.path)) == 1


def test_a_late_result_never_lands_in_memory_that_is_someone_elses(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    rig.clock.now_s += 10
    rig.tiers.poll()
    for number in range(10, 15):
        rig.put(number)
    assert not rig.tiers.put_host(block(15), content(block(15)))
    rig.run_reader()
    assert all(rig.host_bytes(number) == content(block(number)) for number in range(10, 15))
    rig.put(15)


def test_a_block_computed_meanwhile_wins_over_the_late_read(rig: Rig) -> None:
    rig.on_disk(1)
    rig.read(1)
    rig.clock.now_s += 10
    rig.tiers.poll()
    rig.put(1)
    rig.run_reader()
    assert rig.host_bytes(1) == content(block(1))
    assert rig.tiers.usage(HOST).used_bytes == BLOCK_BYTES


def test_while_a_read_hangs_the_next_ones_fail_at_once(rig: Rig) -> None:
    rig.on_disk(1, 2)
    rig.read(1)
    rig.clock.now_s += 10
    rig.tiers.poll()
    rig.read(2)
    (moved,) = rig.tiers.poll()
    assert (moved.ok, moved.gone) == (False, False)
    rig.run_reader()
    rig.read(2)
    assert rig.run_reader()[0].ok


def test_a_long_queue_gets_the_time_it_needs(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.tiers.limits = TransferLimits(read_deadline_s=2.0, slowest_bytes_per_s=BLOCK_BYTES)
    rig.on_disk(1, 2)
    rig.read(1)  # due after 2 s + 1 s for its own bytes
    rig.read(2)  # due after 2 s + 2 s
    rig.clock.now_s += 3.5
    assert [moved.block for moved in rig.tiers.poll()] == [block(1).id]
    rig.clock.now_s += 1
    assert [moved.block for moved in rig.tiers.poll()] == [block(2).id]
    rig.tiers.close()


def test_the_loop_is_woken_when_a_deadline_passes(tmp_path: Path) -> None:
    """A hung disk posts nothing; without the alarm a sleeping loop would never look again."""
    workers = ManualWorkers()
    store = DiskStore(tmp_path, 400_000, FINGERPRINT)
    tiers = LocalTiers(BLOCK_BYTES, store, limits=TransferLimits(read_deadline_s=0.05), make_worker=workers)
    tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    workers.writer.run_all()
    tiers.poll()
    tiers.drop(block(1).id, HOST)
    rung = threading.Event()
    tiers.on_ready(rung.set)
    tiers.start(block(1), DISK, HOST)
    assert rung.wait(30)
    assert [moved.ok for moved in settle(tiers, 1)] == [False]
    tiers.close()


def test_a_write_past_its_deadline_keeps_its_memory_until_the_disk_lets_go(rig: Rig) -> None:
    rig.put(1)
    rig.write(1)
    job = rig.workers.writer.jobs.popleft()  # the thread has it, and hangs
    rig.tiers.drop(block(1).id, HOST)
    rig.clock.now_s += 60
    assert [moved.ok for moved in rig.tiers.poll()] == [False]
    assert rig.tiers.usage(HOST).used_bytes == BLOCK_BYTES
    job()
    rig.run_writer()
    assert rig.tiers.usage(HOST).used_bytes == 0
    assert rig.tiers.usage(DISK).blocks == 0


def test_a_write_that_ends_after_it_was_given_up_is_taken_back(rig: Rig) -> None:
    rig.put(1)
    rig.write(1)
    transfer = rig.tiers._under_way[DISK][0]
    rig.tiers._write(transfer)  # the bytes are on disk, the thread has not said so yet
    rig.clock.now_s += 60
    assert [moved.ok for moved in rig.tiers.poll()] == [False]
    rig.workers.writer.jobs.clear()
    rig.tiers._ended.append(transfer)
    assert rig.tiers.poll() == []
    assert rig.tiers.usage(DISK).blocks == 0
    rig.run_writer()
    assert not record_files(rig.path)


# --- queues -------------------------------------------------------------------------------------


def test_reads_do_not_wait_behind_writes(rig: Rig) -> None:
    rig.on_disk(1)
    for number in (2, 3, 4):
        rig.put(number)
        rig.write(number)
    rig.read(1)
    assert [moved.block for moved in rig.run_reader()] == [block(1).id]


def test_the_queues_are_bounded(rig: Rig) -> None:
    rig.on_disk(1, 2, 3, 4, 5)
    for number in (1, 2, 3, 4, 5):
        rig.read(number)
    assert [(moved.block, moved.ok) for moved in rig.tiers.poll()] == [(block(5).id, False)]
    assert len(rig.run_reader()) == 4
    for number in (1, 2, 3, 4):
        rig.write(number)
    rig.put(9)
    rig.write(9)
    assert [(moved.block, moved.ok) for moved in rig.tiers.poll()] == [(block(9).id, False)]
    assert len(rig.run_writer()) == 4


def test_a_drop_makes_room_for_the_write_behind_it(tmp_path: Path) -> None:
    """The planner drops and writes in one plan; files go in the same order."""
    rig = Rig(tmp_path)
    stored = []
    for number in range(100):
        rig.put(number)
        rig.write(number)
        (moved,) = rig.run_writer()
        rig.tiers.drop(block(number).id, HOST)
        if not moved.ok:
            break
        stored.append(number)
    for old, new in zip(stored, range(200, 210), strict=False):
        rig.put(new)
        rig.tiers.drop(block(old).id, DISK)
        rig.write(new)
        assert rig.run_writer()[0].ok
        rig.tiers.drop(block(new).id, HOST)
    rig.tiers.close()


# --- a broken disk ------------------------------------------------------------------------------


def test_a_full_disk_fails_writes_and_is_tried_less_and_less(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.put(1)
    rig.files.write_errno = errno.ENOSPC
    before = rig.files.writes
    with caplog.at_level(logging.WARNING):
        for _ in range(300):
            rig.write(1)
            assert not rig.run_writer()[0].ok
            rig.clock.now_s += 0.1
    tries = rig.files.writes - before
    assert 3 <= tries <= 6, "30 s: after 0, 1, 3, 7 and 15 seconds"
    assert len(caplog.records) == 1, "one line per kind of failure"
    assert "No space left" in caplog.text
    assert rig.host_bytes(1) == content(block(1)), "and nothing is lost"
    rig.files.write_errno = 0
    rig.clock.now_s += 60
    with caplog.at_level(logging.WARNING):
        rig.write(1)
        assert rig.run_writer()[0].ok
    assert "works again" in caplog.text


def test_a_full_store_is_not_a_broken_disk(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.store.limit_bytes = 30_000
    rig.put(1)
    with caplog.at_level(logging.WARNING):
        rig.write(1)
        assert not rig.run_writer()[0].ok
    rig.store.limit_bytes = 400_000
    rig.write(1)
    assert rig.run_writer()[0].ok
    assert not caplog.records


def test_a_damaged_record_is_gone(rig: Rig) -> None:
    rig.on_disk(1)
    path = record_files(rig.path)[0]
    changed = bytearray(path.read_bytes())
    changed[6_000] ^= 1
    path.write_bytes(changed)
    rig.read(1)
    (moved,) = rig.run_reader()
    assert (moved.ok, moved.gone) == (False, True)
    assert rig.host_bytes(1) is None
    assert rig.tiers.usage(HOST).used_bytes == 0
    rig.run_writer()
    assert not record_files(rig.path)


def test_a_bad_sector_is_gone_and_a_passing_failure_is_not(rig: Rig) -> None:
    rig.on_disk(1, 2)
    rig.files.read_errno = errno.EIO
    rig.read(1)
    assert [(m.ok, m.gone) for m in rig.run_reader()] == [(False, True)]
    rig.files.read_errno = errno.EMFILE
    rig.read(2)
    assert [(m.ok, m.gone) for m in rig.run_reader()] == [(False, False)]
    rig.files.read_errno = 0
    rig.read(2)
    assert rig.run_reader()[0].ok


def test_a_defect_in_the_store_does_not_hang_the_queue(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.put(1)

    def broken(*_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(rig.store, "write", broken)
    rig.write(1)
    assert [moved.ok for moved in rig.run_writer()] == [False]
    assert "a defect" in caplog.text


def test_a_block_of_the_same_name_that_is_another_is_damage(rig: Rig) -> None:
    rig.on_disk(1)
    other = block(1, size_bytes=BLOCK_BYTES + 1)
    rig.tiers.start(other, DISK, HOST)
    assert [(m.ok, m.gone) for m in rig.run_reader()] == [(False, True)]
    assert rig.host_bytes(1) is None


def test_close_does_not_wait_for_a_hung_disk_and_keeps_its_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hung thread may wake up and write; nobody else may own the directory then."""
    release = threading.Event()

    class Hung(FaultyFiles):
        def pwritev(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
            if sum(map(len, buffers)) > 4_096:  # not the probe
                release.wait(60)
            return super().pwritev(fd, buffers, offset)

    store = DiskStore(tmp_path, 400_000, FINGERPRINT, files=Hung())
    tiers = LocalTiers(BLOCK_BYTES, store, limits=TransferLimits(read_deadline_s=0.01, close_s=0.05))
    tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    tiers.close()
    assert "did not answer" in caplog.text
    with pytest.raises(DiskBusy):
        DiskStore(tmp_path, 400_000, FINGERPRINT)
    release.set()
    assert tiers._workers[DISK].close(30)
    store.close()
    DiskStore(tmp_path, 400_000, FINGERPRINT).close()
