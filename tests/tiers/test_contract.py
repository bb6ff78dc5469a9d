"""What every implementation of ``Tiers`` must do. Runs against the real one and the one in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.policy.types import KvTier, Moved
from stepwell.tiers.base import Tiers
from stepwell.tiers.local import LocalTiers, open_tiers
from stepwell.tiers.memory import MemoryTiers
from stepwell.tiers.objects.below import SharedBelow
from stepwell.tiers.objects.client import open_objects
from stepwell.tiers.objects.store import ColdStore
from stepwell.tiers.shared.store import Bounds
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import BLOCK_BYTES, FINGERPRINT, block, content, settle

HOST, DISK = KvTier.HOST, KvTier.DISK
HOST_BYTES, DISK_BYTES = 4 * BLOCK_BYTES, 200_000


class Kind:
    """Makes tiers of one kind, also again over what an earlier one left behind."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.made: list[Tiers] = []

    def make(self, host_bytes: int = HOST_BYTES, disk_bytes: int = DISK_BYTES) -> Tiers:
        tiers: Tiers
        if self.name == "local":
            tiers = open_tiers(host_bytes, disk_bytes, self.path, FINGERPRINT)
        elif self.name == "objects":
            tiers = self._with_objects_below(open_tiers(host_bytes, disk_bytes, self.path, FINGERPRINT))
        else:
            tiers = MemoryTiers(host_bytes, disk_bytes)
        self.made.append(tiers)
        return tiers

    def _with_objects_below(self, tiers: LocalTiers) -> LocalTiers:
        pytest.importorskip("obstore")
        client = open_objects(str(self.path.parent / "objects"), 5.0)
        if isinstance(tiers.disk, DiskStore):
            cold = ColdStore(client, Bounds(4 << 20), FINGERPRINT)
            tiers.disk = SharedBelow(tiers.disk, cold)
        return tiers


@pytest.fixture(params=["local", "objects", "memory"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    kind = Kind(request.param, tmp_path / "kv")
    yield kind
    for tiers in kind.made:
        tiers.close()


@pytest.fixture
def tiers(kind: Kind) -> Tiers:
    return kind.make()


def on_disk(tiers: Tiers, number: int) -> None:
    """Bring a block to disk and take it from the host."""
    meta = block(number)
    assert tiers.put_host(meta, content(meta))
    tiers.start(meta, HOST, DISK)
    assert settle(tiers, 1)[0].ok
    tiers.drop(meta.id, HOST)


def test_the_host_gives_back_what_it_was_given(tiers: Tiers) -> None:
    meta = block(1)
    data = bytearray(content(meta))
    assert tiers.put_host(meta, data)
    data[:] = bytes(len(data))  # the pool has a copy of its own
    assert tiers.get_host(meta.id) == content(meta)
    tiers.drop(meta.id, HOST)
    assert tiers.get_host(meta.id) is None


def test_the_host_is_never_over_its_bound(tiers: Tiers) -> None:
    taken = [tiers.put_host(block(n), content(block(n))) for n in range(6)]
    assert taken == [True] * 4 + [False] * 2
    assert tiers.usage(HOST).used_bytes == tiers.usage(HOST).limit_bytes == HOST_BYTES
    tiers.drop(block(0).id, HOST)
    assert tiers.put_host(block(9), content(block(9)))
    tiers.check()


def test_a_block_that_is_there_is_not_counted_twice(tiers: Tiers) -> None:
    assert tiers.put_host(block(1), content(block(1)))
    assert tiers.put_host(block(1), content(block(1)))
    assert tiers.usage(HOST).used_bytes == BLOCK_BYTES
    assert tiers.usage(HOST).blocks == 1


def test_a_shorter_payload_comes_back_with_its_own_length(tiers: Tiers) -> None:
    """The policy counts sizes that are never less than the real ones."""
    meta = block(1)
    assert tiers.put_host(meta, b"short")
    assert tiers.usage(HOST).used_bytes == BLOCK_BYTES
    tiers.start(meta, HOST, DISK)
    settle(tiers, 1)
    tiers.drop(meta.id, HOST)
    tiers.start(meta, DISK, HOST)
    settle(tiers, 1)
    assert tiers.get_host(meta.id) == b"short"


def test_a_longer_payload_is_a_mistake(tiers: Tiers) -> None:
    with pytest.raises(ValueError, match="bytes"):
        tiers.put_host(block(1), bytes(BLOCK_BYTES + 1))


def test_a_block_goes_to_disk_and_comes_back(tiers: Tiers) -> None:
    on_disk(tiers, 1)
    assert tiers.get_host(block(1).id) is None
    assert tiers.usage(DISK).blocks == 1
    tiers.start(block(1), DISK, HOST)
    moved = settle(tiers, 1)[0]
    assert (moved.block, moved.source, moved.target, moved.ok) == (block(1).id, DISK, HOST, True)
    assert moved.duration_us > 0
    assert tiers.get_host(block(1).id) == content(block(1))
    assert tiers.usage(DISK).blocks == 1, "the source copy stays until it is dropped"


def test_many_transfers_end_in_order(tiers: Tiers) -> None:
    for number in range(4):
        tiers.put_host(block(number), content(block(number)))
    for number in range(4):
        tiers.start(block(number), HOST, DISK)
    assert [moved.block for moved in settle(tiers, 4)] == [block(number).id for number in range(4)]


def test_reading_what_is_not_there_is_a_miss_and_gone(tiers: Tiers) -> None:
    tiers.start(block(7), DISK, HOST)
    assert settle(tiers, 1) == [Moved(block(7).id, DISK, HOST, False, BLOCK_BYTES, 0, gone=True)]


def test_writing_what_is_not_there_fails(tiers: Tiers) -> None:
    tiers.start(block(7), HOST, DISK)
    assert not settle(tiers, 1)[0].ok


def test_a_read_reserves_its_room_at_once(tiers: Tiers) -> None:
    on_disk(tiers, 1)
    tiers.start(block(1), DISK, HOST)
    taken = [tiers.put_host(block(n), content(block(n))) for n in range(10, 14)]
    assert taken == [True, True, True, False]
    assert settle(tiers, 1)[0].ok
    tiers.check()


def test_a_read_without_room_fails_and_the_disk_copy_stays(tiers: Tiers) -> None:
    on_disk(tiers, 1)
    for number in range(10, 14):
        tiers.put_host(block(number), content(block(number)))
    tiers.start(block(1), DISK, HOST)
    moved = settle(tiers, 1)[0]
    assert (moved.ok, moved.gone) == (False, False)
    tiers.drop(block(10).id, HOST)
    tiers.start(block(1), DISK, HOST)
    assert settle(tiers, 1)[0].ok


def test_dropping_the_source_does_not_disturb_a_write(tiers: Tiers) -> None:
    meta = block(1)
    tiers.put_host(meta, content(meta))
    tiers.start(meta, HOST, DISK)
    tiers.drop(meta.id, HOST)
    assert tiers.get_host(meta.id) is None
    for number in range(10, 13):  # whatever takes the memory next must not end up on disk
        tiers.put_host(block(number), b"\xff" * BLOCK_BYTES)
    assert settle(tiers, 1)[0].ok
    tiers.start(meta, DISK, HOST)
    assert settle(tiers, 1)[0].ok
    assert tiers.get_host(meta.id) == content(meta)


def test_dropping_the_source_does_not_disturb_a_read(tiers: Tiers) -> None:
    on_disk(tiers, 1)
    tiers.start(block(1), DISK, HOST)
    tiers.drop(block(1).id, DISK)
    assert settle(tiers, 1)[0].ok
    assert tiers.get_host(block(1).id) == content(block(1))
    assert tiers.usage(DISK).blocks == 0


def test_dropping_the_target_of_a_write_ends_it_as_not_ok(tiers: Tiers) -> None:
    meta = block(1)
    tiers.put_host(meta, content(meta))
    tiers.start(meta, HOST, DISK)
    tiers.drop(meta.id, DISK)
    assert not settle(tiers, 1)[0].ok
    tiers.start(meta, DISK, HOST)
    tiers.drop(meta.id, HOST)
    settle(tiers, 1)
    assert tiers.usage(DISK).blocks == 0
    tiers.check()


def test_dropping_the_target_of_a_read_gives_its_room_back(tiers: Tiers) -> None:
    on_disk(tiers, 1)
    tiers.start(block(1), DISK, HOST)
    tiers.drop(block(1).id, HOST)
    moved = settle(tiers, 1)[0]
    assert (moved.ok, moved.gone) == (False, False)
    assert tiers.usage(HOST).used_bytes == 0
    assert tiers.get_host(block(1).id) is None


def test_what_is_dropped_after_it_ended_is_not_told_to_be_there(tiers: Tiers) -> None:
    meta = block(1)
    tiers.put_host(meta, content(meta))
    tiers.start(meta, DISK, HOST)  # ends at once: the host has it
    tiers.drop(meta.id, HOST)
    assert not settle(tiers, 1)[0].ok


def test_a_write_started_again_after_its_target_was_dropped_counts(tiers: Tiers) -> None:
    meta = block(1)
    tiers.put_host(meta, content(meta))
    tiers.start(meta, HOST, DISK)
    tiers.drop(meta.id, DISK)
    tiers.start(meta, HOST, DISK)
    assert [moved.ok for moved in settle(tiers, 2)] == [False, True]
    tiers.drop(meta.id, HOST)
    tiers.start(meta, DISK, HOST)
    assert settle(tiers, 1)[0].ok
    assert tiers.get_host(meta.id) == content(meta)


def test_reading_what_the_host_has_is_done_at_once(tiers: Tiers) -> None:
    meta = block(1)
    tiers.put_host(meta, content(meta))
    tiers.start(meta, HOST, DISK)
    settle(tiers, 1)
    tiers.start(meta, DISK, HOST)
    assert settle(tiers, 1)[0].ok
    assert tiers.usage(HOST).used_bytes == BLOCK_BYTES


def test_dropping_nothing_is_harmless(tiers: Tiers) -> None:
    for tier in KvTier:
        tiers.drop(block(1).id, tier)
    assert [tiers.usage(tier).used_bytes for tier in (HOST, DISK)] == [0, 0]
    tiers.check()


def test_the_disk_refuses_what_would_pass_its_bound(kind: Kind) -> None:
    tiers = kind.make(host_bytes=100 * BLOCK_BYTES)
    for number in range(40):
        tiers.put_host(block(number), content(block(number)))
        tiers.start(block(number), HOST, DISK)
    results = [moved.ok for moved in settle(tiers, 40)]
    assert True in results
    assert False in results
    assert tiers.usage(DISK).used_bytes <= tiers.usage(DISK).limit_bytes <= DISK_BYTES
    stored = results.index(True)
    tiers.drop(block(stored).id, DISK)
    tiers.start(block(results.index(False)), HOST, DISK)
    assert settle(tiers, 1)[0].ok, "what was dropped made room"


def test_who_counts_the_overhead_is_never_refused(kind: Kind) -> None:
    tiers = kind.make(host_bytes=100 * BLOCK_BYTES)
    usage = tiers.usage(DISK)
    fitting = usage.limit_bytes // (BLOCK_BYTES + usage.overhead_bytes)
    for number in range(fitting):
        tiers.put_host(block(number), content(block(number)))
        tiers.start(block(number), HOST, DISK)
    assert all(moved.ok for moved in settle(tiers, fitting))


def test_without_disk_nothing_sinks(kind: Kind) -> None:
    tiers = kind.make(disk_bytes=0)
    tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    tiers.start(block(2), DISK, HOST)
    assert [moved.ok for moved in settle(tiers, 2)] == [False, False]
    assert tiers.get_host(block(1).id) == content(block(1))
    assert tiers.usage(DISK).limit_bytes == 0
    assert not tiers.recovered()


def test_without_host_pool_nothing_is_kept(kind: Kind) -> None:
    tiers = kind.make(host_bytes=0)
    assert not tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    assert not settle(tiers, 1)[0].ok
    tiers.check()


def test_who_waits_is_told(tiers: Tiers) -> None:
    ready = threading.Event()
    tiers.on_ready(ready.set)
    tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    assert ready.wait(30)
    ready.clear()
    settle(tiers, 1)
    tiers.start(block(9), DISK, HOST)  # fails before any thread sees it
    assert ready.wait(30)


def test_device_is_not_theirs(tiers: Tiers) -> None:
    with pytest.raises(ValueError, match="device"):
        tiers.start(block(1), KvTier.DEVICE, HOST)
    with pytest.raises(ValueError, match="device"):
        tiers.usage(KvTier.DEVICE)


def test_a_warm_start_offers_parents_before_children(tmp_path: Path) -> None:
    root = block(1)
    child = block(2, parent=root)
    metas = [child, root, block(3, parent=child)]

    def fill(tiers: Tiers) -> None:
        for meta in metas:
            tiers.put_host(meta, content(meta))
            tiers.start(meta, HOST, DISK)
        assert all(moved.ok for moved in settle(tiers, 3))

    first = open_tiers(HOST_BYTES, DISK_BYTES, tmp_path, FINGERPRINT)
    fill(first)
    first.close()
    warm: list[Tiers] = [
        open_tiers(HOST_BYTES, DISK_BYTES, tmp_path, FINGERPRINT),
        MemoryTiers(HOST_BYTES, DISK_BYTES, warm=[(meta, content(meta)) for meta in metas]),
    ]
    for tiers in warm:
        assert list(tiers.recovered()) == [root, child, block(3, parent=child)]
        tiers.start(child, DISK, HOST)
        assert settle(tiers, 1)[0].ok
        assert tiers.get_host(child.id) == content(child)
        tiers.close()


def test_close_finishes_the_writes_that_were_started(tmp_path: Path) -> None:
    tiers = open_tiers(HOST_BYTES, DISK_BYTES, tmp_path, FINGERPRINT)
    for number in range(4):
        tiers.put_host(block(number), content(block(number)))
        tiers.start(block(number), HOST, DISK)
    tiers.close()
    tiers.close()
    again = open_tiers(HOST_BYTES, DISK_BYTES, tmp_path, FINGERPRINT)
    assert {meta.id for meta in again.recovered()} == {block(number).id for number in range(4)}
    again.close()


def test_memory_tiers_take_the_time_they_were_told() -> None:
    tiers = MemoryTiers(HOST_BYTES, DISK_BYTES, read_bytes_per_s=10_000_000, write_bytes_per_s=1_000_000)
    tiers.put_host(block(1), content(block(1)))
    tiers.start(block(1), HOST, DISK)
    assert tiers.poll()[0].duration_us == 10_000
    tiers.drop(block(1).id, HOST)
    tiers.start(block(1), DISK, HOST)
    assert tiers.poll()[0].duration_us == 1_000


def test_local_tiers_are_what_the_server_opens(tmp_path: Path) -> None:
    tiers = open_tiers(HOST_BYTES, DISK_BYTES, None, FINGERPRINT)
    assert isinstance(tiers, LocalTiers)
    assert tiers.disk is None
    tiers.close()
