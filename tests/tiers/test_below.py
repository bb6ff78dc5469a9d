"""A node's disk with a shared object store below it: what one has written another reads, or computes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.policy.types import KvTier
from stepwell.tiers.local import LocalTiers
from stepwell.tiers.objects.below import SharedBelow
from stepwell.tiers.objects.store import ColdLimits, ColdStore
from stepwell.tiers.shared.store import Bounds
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import BLOCK_BYTES, FINGERPRINT, block, content, settle
from tests.tiers.objects_harness import FaultyClient

pytest.importorskip("obstore")

HOST, DISK = KvTier.HOST, KvTier.DISK


class Nodes:
    """Nodes with a disk each, on one folder."""

    def __init__(self, path: Path) -> None:
        from obstore.store import LocalStore

        self.path, self.objects = path, path / "objects"
        self.objects.mkdir()
        self.client = FaultyClient(LocalStore(self.objects))
        self.open: list[LocalTiers] = []

    def node(self, name: str, fingerprint: str = FINGERPRINT) -> LocalTiers:
        limits = ColdLimits(uploads=1, fresh_s=0.0)
        cold = ColdStore(self.client, Bounds(4 << 20), fingerprint, limits=limits)
        disk = DiskStore(self.path / name, 1 << 20, fingerprint)
        tiers = LocalTiers(8 * BLOCK_BYTES, SharedBelow(disk, cold))
        self.open.append(tiers)
        return tiers

    def end(self, tiers: LocalTiers, name: str) -> None:
        """In an orderly way; then its disk is lost."""
        tiers.close()
        shutil.rmtree(self.path / name)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for tiers in nodes.open:
        tiers.close()


def written(tiers: LocalTiers, *numbers: int) -> None:
    for number in numbers:
        meta = block(number)
        assert tiers.put_host(meta, content(meta))
        tiers.start(meta, HOST, DISK)
        assert settle(tiers, 1)[0].ok


def below(tiers: LocalTiers) -> SharedBelow:
    assert isinstance(tiers.disk, SharedBelow)
    return tiers.disk


def listed(tiers: LocalTiers) -> SharedBelow:
    """Once all of the store has been listed."""
    store = below(tiers)
    store.cold._list_all()
    assert store.look()
    return store


def test_another_node_reads_what_one_has_written_when_its_disk_is_gone(nodes: Nodes) -> None:
    a = nodes.node("a")
    written(a, 1, 2)
    nodes.end(a, "a")
    b = nodes.node("b")
    keys = [block(n).id for n in (1, 2, 3)]
    assert listed(b).offers(keys) == [True, True, False]
    assert block(1).id not in below(b), "its own disk has nothing"
    for number in (1, 2):
        b.start(block(number), DISK, HOST)
        assert settle(b, 1)[0].ok
        assert b.get_host(block(number).id) == content(block(number))
    b.check()


def test_a_running_node_finds_what_was_written_after_its_start(nodes: Nodes) -> None:
    b = nodes.node("b")
    assert listed(b).offers([block(1).id]) == [False]
    a = nodes.node("a")
    written(a, 1)
    nodes.end(a, "a")
    assert below(b).look()
    assert below(b).offers([block(1).id]) == [True]


def test_a_shorter_payload_keeps_its_length(nodes: Nodes) -> None:
    a, meta = nodes.node("a"), block(1)
    assert a.put_host(meta, b"x" * 5_000)
    a.start(meta, HOST, DISK)
    assert settle(a, 1)[0].ok
    nodes.end(a, "a")
    b = nodes.node("b")
    listed(b)
    b.start(meta, DISK, HOST)
    assert settle(b, 1)[0].ok
    assert b.get_host(meta.id) == b"x" * 5_000


def test_one_bit_flipped_is_a_miss(nodes: Nodes) -> None:
    a = nodes.node("a")
    written(a, 1)
    nodes.end(a, "a")
    (one,) = (nodes.objects / "kv1").glob("*.kv")
    data = bytearray(one.read_bytes())
    data[-5_000] ^= 4
    one.write_bytes(data)
    b = nodes.node("b")
    listed(b)
    b.start(block(1), DISK, HOST)
    (moved,) = settle(b, 1)
    assert (moved.ok, moved.gone) == (False, True)
    assert b.get_host(block(1).id) is None
    assert below(b).offers([block(1).id]) == [False], "it is offered no more"


def test_another_block_under_the_same_name_is_a_miss(nodes: Nodes) -> None:
    """Of a node that cuts prompts in another way: equal names, another place in the prefix."""
    a = nodes.node("a")
    written(a, 1)
    nodes.end(a, "a")
    b = nodes.node("b")
    listed(b)
    deeper = block(1, parent=block(7))
    b.start(deeper, DISK, HOST)
    assert not settle(b, 1)[0].ok


def test_another_model_finds_nothing(nodes: Nodes) -> None:
    a = nodes.node("a")
    written(a, 1)
    nodes.end(a, "a")
    b = nodes.node("b", "model-b f16")
    assert listed(b).offers([block(1).id]) == [False]


def test_a_store_that_is_away_costs_nothing_on_the_disk(nodes: Nodes) -> None:
    a = nodes.node("a")
    nodes.client.away = "it cannot be reached or fails"
    written(a, 1)
    assert not below(a).look() or not below(a).cold._listed_once
    a.drop(block(1).id, HOST)
    a.start(block(1), DISK, HOST)
    assert settle(a, 1)[0].ok
    nodes.client.away = ""


def test_what_is_removed_from_a_disk_stays_with_the_others(nodes: Nodes) -> None:
    a = nodes.node("a")
    written(a, 1)
    a.drop(block(1).id, HOST)
    a.drop(block(1).id, DISK)
    nodes.end(a, "a")
    b = nodes.node("b")
    assert listed(b).offers([block(1).id]) == [True]
