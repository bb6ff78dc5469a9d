"""Rot, truncation and mixed-up bytes anywhere in a store: a miss or harmless, never wrong bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.tiers.inspect import verify_store
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import FINGERPRINT, block, content, read, record_files, write

LIMIT = 1_000_000
METAS = [block(number, size_bytes=size) for number, size in enumerate((9_000, 9_000, 4_096, 500))]
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def originals(tmp_path: Path) -> dict[Path, bytes]:
    """A store with four blocks, closed; its files and their bytes."""
    store = DiskStore(tmp_path, LIMIT, FINGERPRINT)
    for meta in METAS:
        write(store, meta)
    store.close()
    return {path: path.read_bytes() for path in record_files(tmp_path)}


def restore(originals: dict[Path, bytes]) -> None:
    for path in record_files(next(iter(originals)).parents[1]):
        path.unlink()
    for path, data in originals.items():
        path.write_bytes(data)


def served(tmp_path: Path) -> int:
    """How many blocks come back; whatever comes back is right."""
    store = DiskStore(tmp_path, LIMIT, FINGERPRINT)
    try:
        answers = {meta.id: read(store, meta) for meta in METAS}
        for meta in METAS:
            assert answers[meta.id] in (None, content(meta))
        assert [meta for meta in store.recovered() if meta not in METAS] == []
        store.check()
        return sum(answer is not None for answer in answers.values())
    finally:
        store.close()


@quick
@given(data=st.data())
def test_flipped_bits(originals: dict[Path, bytes], tmp_path: Path, data: st.DataObject) -> None:
    restore(originals)
    path = data.draw(st.sampled_from(sorted(originals)))
    changed = bytearray(originals[path])
    for place in data.draw(
        st.lists(st.integers(0, len(changed) * 8 - 1), min_size=1, max_size=3, unique=True)
    ):
        changed[place // 8] ^= 1 << place % 8
    path.write_bytes(changed)
    assert served(tmp_path) >= len(METAS) - 1


@quick
@given(data=st.data())
def test_truncated_files(originals: dict[Path, bytes], tmp_path: Path, data: st.DataObject) -> None:
    restore(originals)
    path = data.draw(st.sampled_from(sorted(originals)))
    path.write_bytes(originals[path][: data.draw(st.integers(0, len(originals[path]) - 1))])
    assert served(tmp_path) == len(METAS) - 1


@quick
@given(data=st.data())
def test_pages_that_never_reached_the_disk(
    originals: dict[Path, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    """A power cut leaves any of the pages of unsynced files as zeros, or as what lay there before."""
    restore(originals)
    first, second = sorted(originals)[:2]
    for path, other in ((first, second), (second, first)):
        torn = bytearray(originals[path])
        before = originals[other].ljust(len(torn), b"\0")
        for page in range(0, len(torn), 4096):
            kind = data.draw(st.sampled_from(("written", "zeros", "before")))
            if kind != "written":
                torn[page : page + 4096] = bytes(4096) if kind == "zeros" else before[page : page + 4096]
        path.write_bytes(torn[: len(originals[path])])
    served(tmp_path)


@quick
@given(data=st.data())
def test_damage_while_the_store_is_open(
    originals: dict[Path, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    restore(originals)
    store = DiskStore(tmp_path, LIMIT, FINGERPRINT)
    path = data.draw(st.sampled_from(sorted(originals)))
    changed = bytearray(originals[path])
    place = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[place // 8] ^= 1 << place % 8
    path.write_bytes(changed)
    answers = [read(store, meta) for meta in METAS]
    assert all(answer in (None, content(meta)) for answer, meta in zip(answers, METAS, strict=True))
    misses = answers.count(None)
    assert misses <= 1
    assert store.usage().blocks == len(METAS) - misses, "a damaged record is not offered twice"
    store.close()


def test_every_byte_of_a_record_is_judged_the_same_by_verify(
    originals: dict[Path, bytes], tmp_path: Path
) -> None:
    """``disk verify`` finds what a read would refuse."""
    path = sorted(originals)[0]
    for place in (0, 9, 30, 100, 4_096, 4_096 + 400):
        changed = bytearray(originals[path])
        changed[place] ^= 0x10
        path.write_bytes(changed)
        result = verify_store(tmp_path)
        assert (result.ok, result.damaged) == (len(METAS) - 1, 1), place
        assert path.name in result.damaged_files[0]
    path.write_bytes(originals[path])
    assert verify_store(tmp_path).ok == len(METAS)
