"""The disk store against a dictionary, through restarts, crashes and rot, step by random step."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.policy.types import BlockMeta
from stepwell.tiers.directory import model_directory
from stepwell.tiers.store import DiskStore, StoreFull
from tests.tiers.harness import (
    FINGERPRINT,
    block,
    content,
    directory_bytes,
    drop,
    read,
    record_files,
    scratch_directory,
    write,
)

SIZES = (1, 4_096, 5_000, 9_000, 9_000, 9_000, 30_000)
numbers = st.integers(0, 25)


def meta_of(number: int) -> BlockMeta:
    return block(number, size_bytes=SIZES[number % len(SIZES)])


class StoreMachine(RuleBasedStateMachine):
    """``expected`` is what must be there; ``possible`` what may be there as well (after a crash a
    dropped block may be back; after rot a block may be missing)."""

    @initialize(limit_bytes=st.sampled_from((90_000, 200_000)))
    def begin(self, limit_bytes: int) -> None:
        self.path = scratch_directory()
        self.limit_bytes = limit_bytes
        self.fingerprint = FINGERPRINT
        self.expected: set[int] = set()
        self.possible: set[int] = set()
        self.store = self.open()

    def open(self) -> DiskStore:
        return DiskStore(self.path, self.limit_bytes, self.fingerprint)

    @rule(number=numbers)
    def write_a_block(self, number: int) -> None:
        try:
            write(self.store, meta_of(number))
        except StoreFull:
            return
        self.expected.add(number)
        self.possible.add(number)

    @rule(number=numbers)
    def read_a_block(self, number: int) -> None:
        answer = read(self.store, meta_of(number))
        if answer is not None:
            assert answer == content(meta_of(number))
            assert number in self.possible
        else:
            assert number not in self.expected

    @rule(number=numbers)
    def drop_a_block(self, number: int) -> None:
        drop(self.store, meta_of(number))
        self.expected.discard(number)
        self.possible.discard(number)

    @rule(number=numbers)
    def drop_a_block_that_is_being_read(self, number: int) -> None:
        entry = self.store.pin(meta_of(number).id)
        was_possible = number in self.possible
        self.drop_a_block(number)
        if entry is not None:
            self.store.unpin(entry)
            if was_possible:  # its file was in use and keeps its bytes: a crash may bring the block back
                self.possible.add(number)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()
        self.compare_recovered()

    @rule()
    def crash(self) -> None:
        """Kill: what was renamed is there, files half-written are left; nothing is closed in order."""
        copy = scratch_directory()
        shutil.copytree(self.path, copy, dirs_exist_ok=True)
        (copy / record_name(self.store)).with_suffix(".tmp").write_bytes(b"STEPWLKV half a record")
        self.move_to(copy)
        self.compare_recovered()

    @rule(data=st.data())
    def power_cut(self, data: st.DataObject) -> None:
        """What was never synced may be zeros, page by page, in any of the files."""
        copy = scratch_directory()
        shutil.copytree(self.path, copy, dirs_exist_ok=True)
        for path in record_files(copy)[:6]:
            if data.draw(st.booleans()):
                damage(path, data)
                self.forget_file(path)
        self.move_to(copy)

    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        """A file changes under an open store."""
        files = record_files(self.path)
        if files:
            path = data.draw(st.sampled_from(files))
            damage(path, data)
            self.forget_file(path)

    def forget_file(self, path: Path) -> None:
        """The damaged block is not expected any more, but may still be whole (padding was hit)."""
        name = bytes.fromhex(path.name.split(".")[0])
        self.expected -= {number for number in self.expected if meta_of(number).id == name}

    def move_to(self, copy: Path) -> None:
        self.store.close()
        shutil.rmtree(self.path)
        self.path = copy
        self.store = self.open()

    @rule(limit_bytes=st.sampled_from((60_000, 90_000, 200_000)))
    def restart_with_another_bound(self, limit_bytes: int) -> None:
        self.store.close()
        self.limit_bytes = limit_bytes
        self.store = self.open()
        there = {meta.id for meta in self.store.recovered()}
        self.expected = {number for number in self.expected if meta_of(number).id in there}

    @rule()
    def another_model_was_here(self) -> None:
        self.store.close()
        other = DiskStore(self.path, self.limit_bytes, "another model")
        before = len(record_files(self.path))
        try:
            write(other, block(7, size_bytes=9_000))
        except StoreFull:
            pass
        else:
            if len(record_files(self.path)) <= before:  # it took room from ours
                self.expected = set()
        other.close()
        self.store = self.open()

    def compare_recovered(self) -> None:
        there = {meta.id for meta in self.store.recovered()}
        assert {meta_of(number).id for number in self.expected} <= there
        assert there <= {meta_of(number).id for number in self.possible}

    @invariant()
    def the_bound_holds(self) -> None:
        if hasattr(self, "store"):
            assert directory_bytes(self.path) <= self.limit_bytes
            self.store.check()

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            for number in range(26):
                self.read_a_block(number)
        finally:
            self.store.close()
            shutil.rmtree(self.path)


def record_name(store: DiskStore) -> str:
    return f"{model_directory(store.fingerprint)}/{'00' * 16}.{0:016x}.kv"


def damage(path: Path, data: st.DataObject) -> None:
    """One way in which a file goes wrong."""
    changed = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(("flip", "truncate", "zero")))
    place = data.draw(st.integers(0, max(0, len(changed) - 1)))
    if not changed:
        return
    if kind == "flip":
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "truncate":
        del changed[place:]
    else:
        start = place // 4096 * 4096
        changed[start : start + 4096] = bytes(len(changed[start : start + 4096]))
    path.write_bytes(changed)


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStore = StoreMachine.TestCase
