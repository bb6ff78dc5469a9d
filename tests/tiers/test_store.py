"""The disk store on its own: its bound, its neighbours, its lock, and disks that fail."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.tiers.directory import DiskBusy, NotAStore
from stepwell.tiers.pages import Pages
from stepwell.tiers.store import DiskStore, StoreFull
from tests.tiers.harness import (
    BLOCK_BYTES,
    FINGERPRINT,
    FaultyFiles,
    block,
    content,
    directory_bytes,
    drop,
    read,
    record_files,
    write,
)

LIMIT = 400_000


def open_store(path: Path, limit_bytes: int = LIMIT, fingerprint: str = FINGERPRINT) -> DiskStore:
    return DiskStore(path, limit_bytes, fingerprint)


def fill(store: DiskStore, first: int = 0) -> list[int]:
    """Write blocks until there is no room; the numbers of those that are there."""
    written = []
    for number in range(first, first + 1_000):
        try:
            write(store, block(number))
        except StoreFull:
            return written
        written.append(number)
    raise AssertionError("the store has no bound")


# --- bound --------------------------------------------------------------------------------------


def test_the_whole_directory_stays_within_the_bound(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    written = fill(store)
    assert directory_bytes(tmp_path) <= LIMIT
    assert len(written) >= (LIMIT - 40_000) // 16_384, "most of the bound can be used"
    for number in written[::2]:
        drop(store, block(number))
    fill(store, 2_000)
    assert directory_bytes(tmp_path) <= LIMIT
    store.check()
    store.close()


def test_blocks_of_all_sizes_come_and_go_within_the_bound(tmp_path: Path) -> None:
    """Spare files of one size make room for another."""
    store = open_store(tmp_path)
    for generation, size_bytes in enumerate((BLOCK_BYTES, 300, 70_000, 4_096, 4_097)):
        metas = [block(generation * 100 + n, size_bytes=size_bytes) for n in range(60)]
        taken = []
        for meta in metas:
            try:
                write(store, meta)
                taken.append(meta)
            except StoreFull:
                break
        assert len(taken) >= 4
        assert directory_bytes(tmp_path) <= LIMIT
        assert all(read(store, meta) == content(meta) for meta in taken)
        for meta in taken:
            drop(store, meta)
        store.check()
    store.close()


def test_what_others_put_there_counts(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "notes.txt").write_bytes(bytes(LIMIT - 60_000))
    store = open_store(tmp_path)
    fill(store)
    assert directory_bytes(tmp_path) <= LIMIT
    store.close()
    assert (tmp_path / "notes.txt").exists()


def test_a_smaller_bound_next_time_keeps_the_newest_and_parents(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    old_root, new_root = block(1), block(10)
    metas = [old_root, block(2, parent=old_root), new_root, block(11, parent=new_root)]
    for age, meta in enumerate(metas):
        write(store, meta)
        os.utime(record_files(tmp_path)[0].parent / f"{meta.id.hex()}.{age + 1:016x}.kv", (age, age))
    store.close()
    smaller = open_store(tmp_path, 60_000)
    assert smaller.recovered() == [new_root, block(11, parent=new_root)]
    assert directory_bytes(tmp_path) <= 60_000
    smaller.close()


def test_room_comes_back_without_new_files(tmp_path: Path) -> None:
    """A dropped block's file is written over: fresh space is what costs."""
    store = open_store(tmp_path)
    write(store, block(1))
    inode = record_files(tmp_path)[0].stat().st_ino
    drop(store, block(1))
    assert not record_files(tmp_path)
    write(store, block(2))
    assert record_files(tmp_path)[0].stat().st_ino == inode
    assert read(store, block(2)) == content(block(2))
    store.close()
    assert not list(tmp_path.glob("v*/*.tmp"))


def test_a_replaced_block_takes_no_more_room(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for _ in range(5):
        write(store, block(1))
    assert len(record_files(tmp_path)) == 1
    assert store.usage().blocks == 1
    store.close()


# --- restart ------------------------------------------------------------------------------------


def test_a_restart_is_warm(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    metas = [block(number, size_bytes=100 + 3_000 * number) for number in range(8)]
    for meta in metas:
        write(store, meta)
    drop(store, metas[3])
    store.close()
    again = open_store(tmp_path)
    assert {meta.id for meta in again.recovered()} == {m.id for m in metas if m is not metas[3]}
    assert all(read(again, meta) == content(meta) for meta in again.recovered())
    assert read(again, metas[3]) is None
    again.close()


def test_a_block_with_very_many_units_has_a_longer_header(tmp_path: Path) -> None:
    long = block(1).__class__(
        b"x" * 16, None, 0, 512, (*(n.to_bytes(16, "big") for n in range(511)), b"x" * 16), "t", BLOCK_BYTES
    )
    store = open_store(tmp_path)
    write(store, long)
    store.close()
    again = open_store(tmp_path)
    assert again.recovered() == [long]
    assert read(again, long) == content(long)
    again.close()


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    store.close()
    left = record_files(tmp_path)[0].with_suffix(".kv.tmp")
    left.write_bytes(bytes(5_000))
    again = open_store(tmp_path)
    assert again.found.leftovers == 1
    assert not left.exists()
    assert read(again, block(1)) == content(block(1))
    again.close()


@pytest.mark.parametrize("length", [0, 100, 4_096, 9_000])
def test_a_record_cut_short_is_not_offered_again(tmp_path: Path, length: int) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    store.close()
    path = record_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:length])
    again = open_store(tmp_path)
    assert again.recovered() == []
    assert again.found.torn + again.found.damaged == 1
    assert not path.exists()
    again.close()


def test_of_two_records_of_one_block_the_newer_counts(tmp_path: Path) -> None:
    """Killed between the new record's rename and the old one's removal."""
    store = open_store(tmp_path)
    write(store, block(1))
    old = record_files(tmp_path)[0]
    kept = old.read_bytes()
    write(store, block(1))
    store.close()
    old.write_bytes(kept)
    again = open_store(tmp_path)
    assert read(again, block(1)) == content(block(1))
    assert len(record_files(tmp_path)) == 1
    assert not old.exists()
    again.close()


def test_a_record_under_another_name_is_not_served(tmp_path: Path) -> None:
    """A power cut can lose a renaming and keep what was written over the file."""
    store = open_store(tmp_path)
    write(store, block(1))
    write(store, block(2))
    store.close()
    one, two = record_files(tmp_path)
    two.write_bytes(one.read_bytes())
    again = open_store(tmp_path)
    assert again.found.damaged == 1
    assert [read(again, meta) for meta in again.recovered()] == [content(m) for m in again.recovered()]
    assert len(again.recovered()) == 1
    again.close()


# --- other models -------------------------------------------------------------------------------


def test_another_model_never_sees_our_blocks(tmp_path: Path) -> None:
    ours = open_store(tmp_path)
    write(ours, block(1))
    ours.close()
    theirs = open_store(tmp_path, fingerprint="model-b f16")
    assert theirs.recovered() == []
    assert theirs.found.foreign == 1
    assert read(theirs, block(1)) is None
    theirs.close()
    ours = open_store(tmp_path)
    assert ours.recovered() == [block(1)], "and finds them again when it comes back"
    ours.close()


def test_another_models_blocks_are_room_that_may_be_taken(tmp_path: Path) -> None:
    ours = open_store(tmp_path)
    fill(ours)
    ours.close()
    theirs = open_store(tmp_path, fingerprint="model-b f16")
    assert theirs.usage().limit_bytes > LIMIT * 0.9
    written = fill(theirs, 5_000)
    assert len(written) >= 20
    assert directory_bytes(tmp_path) <= LIMIT
    theirs.check()
    theirs.close()


def test_a_record_smuggled_in_from_another_model_is_damaged(tmp_path: Path) -> None:
    theirs = open_store(tmp_path, fingerprint="model-b f16")
    write(theirs, block(1))
    theirs.close()
    stolen = record_files(tmp_path)[0]
    open_store(tmp_path).close()
    ours = next(path for path in tmp_path.glob("v*") if path != stolen.parent)
    stolen.rename(ours / stolen.name)
    again = open_store(tmp_path)
    assert again.recovered() == []
    assert again.found.damaged == 1
    again.close()


# --- who may use it -----------------------------------------------------------------------------


def test_the_second_server_gets_one_clear_sentence(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    with pytest.raises(DiskBusy, match=f"in use by process {os.getpid()}"):
        open_store(tmp_path)
    write(first, block(1))
    assert read(first, block(1)) == content(block(1))
    first.close()
    open_store(tmp_path).close()


def test_a_dead_holders_lock_is_not_in_the_way(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from stepwell.tiers.store import DiskStore\n"
        f"store = DiskStore(Path({str(tmp_path)!r}), {LIMIT}, {FINGERPRINT!r})\n"
        "print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(DiskBusy, match=f"process {child.pid}:"):
            open_store(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
    open_store(tmp_path).close()


def test_a_directory_with_other_things_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(NotAStore, match="not empty"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAStore, match="cannot be opened"):
        open_store(tmp_path / "file")
    with pytest.raises(NotAStore, match="cannot be made"):
        open_store(tmp_path / "file" / "below")


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    (tmp_path / "new" / "kv").mkdir(mode=0o755, parents=True)
    store = open_store(tmp_path / "new" / "kv")
    write(store, block(1))
    for path in [tmp_path / "new" / "kv", *(tmp_path / "new" / "kv").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    store.close()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    write(store, block(1))
    write(store, block(2))
    store.close()
    outside = tmp_path / "outside"
    outside.mkdir()
    record = record_files(tmp_path / "kv")[0]
    record.rename(outside / "record")
    record.symlink_to(outside / "record")
    (tmp_path / "kv" / "v1-0123456789abcdef").symlink_to(outside, target_is_directory=True)
    again = open_store(tmp_path / "kv")
    assert len(again.recovered()) == 1
    fill(again, 100)
    again.close()
    assert (outside / "record").exists()
    assert len(list(outside.iterdir())) == 1


def test_a_models_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "kv").close()
    (ours,) = (tmp_path / "kv").glob("v*")
    ours.rmdir()
    (tmp_path / "outside").mkdir()
    ours.symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(NotAStore, match="cannot be used"):
        open_store(tmp_path / "kv")


def test_a_start_that_was_killed_before_its_marker_is_no_obstacle(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    store.close()
    (tmp_path / "stepwell-kv.json").rename(tmp_path / "stepwell-kv.json.tmp")
    again = open_store(tmp_path)
    assert again.recovered() == [block(1)]
    again.close()


def test_a_closed_store_can_still_be_asked(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    before = store.usage()
    store.close()
    assert store.usage() == before


def test_a_bound_larger_than_the_disk_is_said_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_store(tmp_path).close()
    assert not caplog.records
    open_store(tmp_path, 2**60).close()
    assert "bytes less than the bound promises" in caplog.text


# --- disks that fail ----------------------------------------------------------------------------


@pytest.fixture
def faulty(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path, LIMIT, FINGERPRINT, files=FaultyFiles())


def faults(store: DiskStore) -> FaultyFiles:
    assert isinstance(store.files, FaultyFiles)
    return store.files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_failing_write_changes_nothing(faulty: DiskStore, tmp_path: Path, number: int) -> None:
    write(faulty, block(1))
    before = directory_bytes(tmp_path)
    faults(faulty).write_errno = number
    for _ in range(50):
        with pytest.raises(OSError, match=os.strerror(number)[:8]):
            write(faulty, block(2))
    assert directory_bytes(tmp_path) <= before + 4096
    assert read(faulty, block(1)) == content(block(1))
    faults(faulty).write_errno = 0
    write(faulty, block(2))
    assert read(faulty, block(2)) == content(block(2))
    faulty.check()
    faulty.close()


def test_a_disk_that_fills_up_half_way_is_a_failed_write(faulty: DiskStore, tmp_path: Path) -> None:
    faults(faulty).short_write_bytes = 4_096
    with pytest.raises(OSError, match="No space"):
        write(faulty, block(1))
    assert not list(tmp_path.glob("v*/*"))
    faults(faulty).short_write_bytes = None
    assert len(fill(faulty)) > 10
    faulty.close()


def test_a_write_over_a_spare_that_fails_gives_the_spare_up(faulty: DiskStore, tmp_path: Path) -> None:
    write(faulty, block(1))
    drop(faulty, block(1))
    faults(faulty).write_errno = errno.EIO
    with pytest.raises(OSError, match="error"):
        write(faulty, block(2))
    assert not list(tmp_path.glob("v*/*"))
    faulty.check()
    faulty.close()


def test_a_failing_rename_leaves_nothing_behind(faulty: DiskStore, tmp_path: Path) -> None:
    faults(faulty).rename_errno = errno.EIO
    with pytest.raises(OSError, match="error"):
        write(faulty, block(1))
    assert not list(tmp_path.glob("v*/*"))
    assert read(faulty, block(1)) is None
    faulty.check()
    faulty.close()


def test_files_that_cannot_be_removed_stay_counted(faulty: DiskStore, tmp_path: Path) -> None:
    """Remounted read-only: nothing can be removed, so nothing may be thought free."""
    written = fill(faulty)
    faults(faulty).read_only()
    for number in written:
        drop(faulty, block(number))
    faults(faulty).write_errno = 0
    with pytest.raises(StoreFull):
        write(faulty, block(5_000))
    assert directory_bytes(tmp_path) <= LIMIT
    faulty.check()
    faulty.close()


def test_a_read_only_disk_can_still_be_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    store.close()
    files = FaultyFiles()
    files.read_only()
    again = DiskStore(tmp_path, LIMIT, FINGERPRINT, files=files)
    assert read(again, block(1)) == content(block(1))
    with pytest.raises(OSError, match="Read-only"):
        write(again, block(2))
    again.close()


def test_a_bad_sector_makes_the_block_a_miss_for_good(faulty: DiskStore) -> None:
    write(faulty, block(1))
    faults(faulty).read_errno = errno.EIO
    assert read(faulty, block(1)) is None
    assert block(1).id not in faulty
    faulty.close()


def test_a_passing_failure_keeps_the_record(faulty: DiskStore) -> None:
    write(faulty, block(1))
    faults(faulty).read_errno = errno.EMFILE
    assert read(faulty, block(1)) is None
    faults(faulty).read_errno = 0
    assert read(faulty, block(1)) == content(block(1))
    faulty.close()


def test_unreadable_records_are_left_alone_at_start(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    store.close()
    files = FaultyFiles()
    files.read_errno = errno.EMFILE
    again = DiskStore(tmp_path, LIMIT, FINGERPRINT, files=files)
    assert (again.found.unreadable, again.recovered()) == (1, [])
    again.close()
    assert len(record_files(tmp_path)) == 1


def test_a_file_system_without_direct_io_is_served_too(tmp_path: Path) -> None:
    class NoDirect(FaultyFiles):
        def write_new(self, name: str, directory: int, buffers: list[memoryview]) -> None:  # type: ignore[override]
            if self.direct:
                raise OSError(errno.EINVAL, "Invalid argument")
            super().write_new(name, directory, buffers)

    store = DiskStore(tmp_path, LIMIT, FINGERPRINT, files=NoDirect())
    assert not store.files.direct
    write(store, block(1))
    assert read(store, block(1)) == content(block(1))
    store.close()


def test_the_file_is_removed_only_after_its_last_reader(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, block(1))
    entry = store.pin(block(1).id)
    assert entry is not None
    drop(store, block(1))
    assert store.pin(block(1).id) is None
    pages = Pages(entry.payload_bytes)
    store.read(entry, block(1), pages)
    assert pages.payload == content(block(1))
    store.unpin(entry)
    store.reap()
    assert not record_files(tmp_path)
    store.close()


# --- several models of one server ---------------------------------------------------------------


def test_stores_of_several_models_share_a_directory_and_its_bound(tmp_path: Path) -> None:
    """Neither takes the other's records for foreign ones, and what one gives up the other may use."""
    first = DiskStore(tmp_path, LIMIT // 2, FINGERPRINT, beside=["other"])
    second = DiskStore(tmp_path, LIMIT // 2, "other", first=first)
    fill(first)
    fill(second, 500)
    assert directory_bytes(tmp_path) <= LIMIT
    for number in range(500, 504):
        drop(second, block(number))
    smaller = second.resize(LIMIT // 4)
    assert smaller <= LIMIT // 2
    assert first.resize(LIMIT - smaller) == LIMIT - smaller
    assert len(fill(first, 1_000)) >= (LIMIT // 2 - smaller) // 16_384 - 3
    assert directory_bytes(tmp_path) <= LIMIT
    for store in (first, second):
        store.check()
    kept = [len(store.recovered()) for store in (first, second)]
    assert all(kept)
    second.close()
    first.close()
    again = DiskStore(tmp_path, LIMIT, FINGERPRINT, beside=["other"])
    assert len(again.recovered()) == kept[0]
    with pytest.raises(DiskBusy):
        DiskStore(tmp_path, LIMIT, FINGERPRINT)
    again.close()


def test_a_smaller_bound_is_reached_by_what_models_of_another_time_left(tmp_path: Path) -> None:
    before = open_store(tmp_path, fingerprint="before")
    fill(before)
    before.close()
    first = DiskStore(tmp_path, LIMIT, FINGERPRINT, beside=["other"])
    second = DiskStore(tmp_path, 0, "other", first=first)
    write(first, block(1))
    assert first.resize(LIMIT // 4) == LIMIT // 4
    assert second.resize(LIMIT - LIMIT // 4) == LIMIT - LIMIT // 4
    assert read(first, block(1)) == content(block(1))
    assert fill(second, 500)
    assert directory_bytes(tmp_path) <= LIMIT
    first.check()
    second.close()
    first.close()


def test_a_smaller_bound_removes_only_so_many_files_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.tiers.store._REMOVED_AT_ONCE", 2)
    before = open_store(tmp_path, fingerprint="before")
    there = len(fill(before))
    before.close()
    store = open_store(tmp_path)
    smaller = [store.resize(LIMIT // 4) for _ in range(there)]
    assert LIMIT // 4 < smaller[0] < LIMIT
    assert smaller[-1] == LIMIT // 4
    store.close()
