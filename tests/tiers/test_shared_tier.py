"""Jobs over a shared store: told exactly once, at their deadline at the latest, and never a wrong byte."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.tiers.directory import DiskBusy
from stepwell.tiers.files import Files
from stepwell.tiers.shared.admission import DiskAdmission
from stepwell.tiers.shared.index import WantedRecord
from stepwell.tiers.shared.store import SMALLEST_LIMIT_BYTES, Bounds, SharedStore
from stepwell.tiers.shared.tier import JobEnded, JobItem, LookupAnswer, SharedTier, TierLimits
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import FaultyFiles, ManualClock, ManualWorker, directory_bytes, name_of, record_files
from tests.tiers.shared_harness import open_store

BLOCK = 20_000
LIMIT = 6 << 20


class Engine:
    """An engine's host memory, and a tier whose threads run when the test says so."""

    def __init__(
        self, path: Path, *, admission: DiskAdmission | None = None, tenants: dict[str, int] | None = None
    ):
        self.files = FaultyFiles()
        self.clock = ManualClock()
        self.workers: dict[str, ManualWorker] = {}
        self.come: list[bytes] = []
        self.gone: list[bytes] = []
        self.memory = [bytearray(BLOCK) for _ in range(64)]
        store = SharedStore(path, Bounds(LIMIT, tenants=tenants or {}), "model", files=self.files)
        self.tier = SharedTier(
            store,
            BLOCK,
            limits=TierLimits(deadline_s=5.0, readers=1),
            admission=admission,
            clock=self.clock,
            make_worker=self.make_worker,
            on_change=lambda come, gone: (self.come.extend(come), self.gone.extend(gone)),
        )
        self.jobs = 0

    def make_worker(self, name: str) -> ManualWorker:
        return self.workers.setdefault(name, ManualWorker())

    @property
    def reader(self) -> ManualWorker:
        return self.workers["stepwell-read-0"]

    @property
    def writer(self) -> ManualWorker:
        return self.workers["stepwell-write"]

    def fill(self, number: int) -> None:
        self.memory[number % 64][:] = content(number)

    def items(self, numbers: tuple[int, ...]) -> list[JobItem]:
        return [
            JobItem(name_of(n), lambda n=n: memoryview(self.memory[n % 64]), depth)
            for depth, n in enumerate(numbers)
        ]

    def store(self, *numbers: int, tenant: str = "a", wanted: bool = True) -> int:
        for number in numbers:
            self.fill(number)
        self.jobs += 1
        self.tier.store_blocks(self.jobs, self.items(numbers), tenant, wanted=wanted)
        return self.jobs

    def load(self, *numbers: int) -> int:
        for number in numbers:
            self.memory[number % 64][:] = bytes(BLOCK)
        self.jobs += 1
        self.tier.load_blocks(self.jobs, self.items(numbers))
        return self.jobs

    def finish(self) -> list[JobEnded]:
        for worker in self.workers.values():
            worker.run_all()
        return self.tier.ended()

    def holds(self, number: int) -> bool:
        return self.tier.lookup(name_of(number)) is LookupAnswer.THERE


def content(number: int) -> bytes:
    return (name_of(number) * (BLOCK // 16 + 1))[:BLOCK]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_a_block_goes_down_and_comes_back(engine: Engine) -> None:
    stored = engine.store(1, 2, 3)
    assert engine.tier.busy
    assert [end.job for end in engine.finish()] == [stored]
    loaded = engine.load(1, 2, 3)
    (end,) = engine.finish()
    assert (end.job, end.ok, len(end.done)) == (loaded, True, 3)
    assert all(bytes(engine.memory[n]) == content(n) for n in (1, 2, 3))
    assert not engine.tier.busy
    assert engine.come == sorted(name_of(n) for n in (1, 2, 3))


def test_a_flipped_bit_is_a_miss_and_the_other_blocks_of_the_job_arrive(
    engine: Engine, tmp_path: Path
) -> None:
    engine.store(1, 2, 3)
    engine.finish()
    victim = next(path for path in record_files(tmp_path) if path.name.startswith(name_of(2).hex()))
    whole = bytearray(victim.read_bytes())
    whole[9_000] ^= 1
    victim.write_bytes(whole)
    engine.load(1, 2, 3)
    (end,) = engine.finish()
    assert not end.ok
    assert set(end.done) == {name_of(1), name_of(3)}
    assert bytes(engine.memory[2]) == bytes(BLOCK), "no byte of it has reached the engine"
    assert not engine.holds(2)
    assert engine.tier.counters["damaged"] == 1


def test_a_read_that_is_late_is_told_and_touches_nothing_later(engine: Engine) -> None:
    engine.store(1)
    engine.finish()
    engine.load(1)
    engine.clock.now_s += 60
    (end,) = engine.tier.ended()
    assert not end.ok
    assert not engine.tier.busy
    engine.memory[1][:] = b"x" * BLOCK  # the engine has given the memory to another block
    assert engine.finish() == [], "its end is told once"
    assert bytes(engine.memory[1]) == b"x" * BLOCK
    assert engine.tier.counters["late"] == 1
    engine.clock.now_s += 60
    assert engine.holds(1), "it is tried again after a while"


def test_a_read_that_ends_after_its_deadline_writes_nothing(engine: Engine) -> None:
    engine.store(1)
    engine.finish()

    def meanwhile() -> None:
        engine.clock.now_s += 60
        assert [end.ok for end in engine.tier.ended()] == [False]
        engine.memory[1][:] = b"x" * BLOCK

    engine.load(1)
    engine.files.during = meanwhile
    assert engine.finish() == []
    assert bytes(engine.memory[1]) == b"x" * BLOCK


def test_a_write_that_starts_late_copies_nothing(engine: Engine, tmp_path: Path) -> None:
    engine.store(1)
    engine.clock.now_s += 60
    assert [end.ok for end in engine.tier.ended()] == [False]
    engine.memory[1][:] = b"x" * BLOCK
    engine.finish()
    assert record_files(tmp_path) == []


def test_while_the_reader_hangs_blocks_count_as_not_there(engine: Engine) -> None:
    engine.store(1, 2)
    engine.finish()
    engine.load(1)
    engine.clock.now_s += 60
    engine.tier.ended()
    assert not engine.holds(2)
    engine.load(2)
    assert [end.ok for end in engine.tier.ended()] == [False]


def test_a_disk_that_fails_is_left_alone_for_a_while(engine: Engine) -> None:
    engine.files.write_errno = errno.EIO
    engine.store(1)
    assert [end.ok for end in engine.finish()] == [False]
    engine.store(2)
    assert [end.ok for end in engine.finish()] == [True], "dropped without a try"
    assert engine.tier.counters["dropped"] == 1
    engine.files.write_errno = 0
    engine.clock.now_s += 100
    engine.store(3)
    engine.finish()
    assert engine.holds(3)


def test_two_engines_share_what_either_has_written(tmp_path: Path) -> None:
    first, second = Engine(tmp_path), Engine(tmp_path)
    second.tier._sharing = True
    first.store(1)
    first.finish()
    asked = second.tier.ask()
    assert second.tier.lookup(name_of(1), asked) is LookupAnswer.LATER
    second.finish()
    assert second.tier.lookup(name_of(1), asked) is LookupAnswer.THERE
    second.load(1)
    assert [end.ok for end in second.finish()] == [True]
    assert bytes(second.memory[1]) == content(1)


def test_the_bound_holds_over_everything_that_is_ever_written(engine: Engine, tmp_path: Path) -> None:
    for start in range(0, 288, 16):
        engine.store(*range(start, start + 16))
        engine.finish()
        assert directory_bytes(tmp_path) <= LIMIT
    assert engine.tier.counters["evicted"] > 80
    assert engine.gone
    engine.tier.store.check()


def test_a_tenant_over_its_bound_displaces_only_itself(tmp_path: Path) -> None:
    engine = Engine(tmp_path, tenants={"small": 3 * 24_576})
    engine.store(1, 2, tenant="large")
    engine.store(10, 11, 12, 13, 14, tenant="small")
    engine.finish()
    assert engine.tier.store.usage()["small"] == (3 * 24_576, 3)
    assert engine.holds(1)
    assert engine.holds(2)


def test_of_one_prefix_the_deepest_block_goes_first(tmp_path: Path) -> None:
    engine = Engine(tmp_path, tenants={"a": 3 * 24_576})
    engine.tier.store.clock_us = lambda: 1_000_000
    engine.store(1, 2, 3)
    engine.store(9)
    engine.finish()
    assert [engine.holds(n) for n in (1, 2, 3, 9)] == [True, True, False, True]


def test_what_comes_once_is_not_worth_a_write(tmp_path: Path) -> None:
    engine = Engine(tmp_path, admission=DiskAdmission("second"))
    engine.store(1, 2)
    engine.finish()
    assert record_files(tmp_path) == []
    engine.store(2, 3)
    engine.finish()
    assert [engine.holds(n) for n in (1, 2, 3)] == [False, True, False]


def test_no_more_is_written_than_the_budget_of_a_day(tmp_path: Path) -> None:
    engine = Engine(tmp_path, admission=DiskAdmission("all", 100 * BLOCK))
    engine.store(*range(30))
    engine.finish()
    assert engine.tier.counters["written"] == 10, "a tenth of a day in advance"
    assert engine.tier.counters["skipped"] == 20


def test_a_request_may_keep_its_blocks_off_the_disk(engine: Engine, tmp_path: Path) -> None:
    engine.store(1, wanted=False)
    assert [end.ok for end in engine.finish()] == [True]
    assert record_files(tmp_path) == []


def test_one_store_for_itself_and_a_shared_one_exclude_each_other(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    with pytest.raises(DiskBusy):
        DiskStore(tmp_path, LIMIT, "model")
    engine.tier.close()
    alone = DiskStore(tmp_path, LIMIT, "model")
    with pytest.raises(DiskBusy):
        Engine(tmp_path)
    alone.close()


@pytest.mark.parametrize("make", [lambda: Bounds(1 << 20), lambda: DiskAdmission("third")])
def test_bad_settings_are_one_sentence(make: object) -> None:
    with pytest.raises(BadInput):
        make()  # type: ignore[operator]


CHILD = """
import sys
from pathlib import Path
from tests.tiers.shared_harness import open_store, write_numbers
store = open_store(Path(sys.argv[1]))
print("ready", flush=True)
number = int(sys.argv[2])
while True:
    write_numbers(store, *range(number, number + 4))
    number = (number + 5) % 60
    print(number, flush=True)
"""


def test_two_processes_write_until_they_are_killed(tmp_path: Path) -> None:
    """Real processes and SIGKILL; a few times."""
    from tests.tiers.shared_harness import (
        LIMIT_BYTES,
        content_of,
        open_store,
        present,
        read_record,
        write_numbers,
    )

    for round_ in range(2):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(tmp_path), str(7 * round_ + 30 * n)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for n in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            for _ in range(8):
                assert child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        for child in children:
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        store = open_store(tmp_path)
        store.check()
        assert directory_bytes(tmp_path) <= LIMIT_BYTES
        there = present(store)
        numbers = [
            n for n in range(70) if name_of(n) in there
        ]  # none, where room for a batch had just been made
        assert all(read_record(store, there[name_of(n)], n) in (content_of(n), None) for n in numbers)
        assert store.bury_dead() == 0
        write_numbers(store, 69)
        assert name_of(69) in present(store)
        store.close()


def test_the_index_of_the_smallest_store_leaves_room_for_records(tmp_path: Path) -> None:
    """However long it is written: neither the index's log nor what others are told of may take the room."""
    store = open_store(tmp_path, limit_bytes=SMALLEST_LIMIT_BYTES)
    behind = open_store(tmp_path, limit_bytes=SMALLEST_LIMIT_BYTES)
    behind.changes()
    room_bytes = store._most_bytes()
    for number in range(3_000):
        wanted = WantedRecord(name_of(number), "tenant", 200_000, number)
        with store._index.transaction() as connection:
            record = store._index.begin(connection, store.model, wanted)
            store._index.publish(connection, record)
        if number < 2_999:
            with store._index.transaction() as connection:
                store._index.remove(connection, record)
    assert store._most_bytes() > room_bytes - (600 << 10)
    told = behind.changes()
    assert told.everything and told.present == {record.key: record}
    store.close()
    behind.close()


def test_two_processes_may_make_the_directory_at_the_same_moment(tmp_path: Path) -> None:
    """The second one has written its marker when the first is about to."""
    from tests.tiers.shared_harness import open_store

    class Slow(Files):
        def rename(self, old: str, new: str, directory: int) -> None:
            if not others:
                others.append(None)
                others[0] = open_store(tmp_path)
            super().rename(old, new, directory)

    others: list[SharedStore | None] = []
    open_store(tmp_path, Slow()).close()
    assert others[0] is not None
    others[0].close()
    assert not list(tmp_path.glob("*.tmp"))
