"""A shared store under two processes that write, read, evict, die and find damage, in any order."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.tiers.shared.store import SharedStore
from tests.tiers.harness import directory_bytes, name_of, record_files, scratch_directory
from tests.tiers.shared_harness import (
    LIMIT_BYTES,
    Killed,
    MortalFiles,
    content_of,
    die,
    open_store,
    present,
    read_record,
    to_write,
    write_numbers,
)
from tests.tiers.test_store_machine import damage

NUMBERS = 24
numbers = st.integers(0, NUMBERS - 1)
which = st.integers(0, 1)


class SharedMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.path = scratch_directory()
        self.stores = [self.open(), self.open()]
        self.seen: list[dict[bytes, object]] = [{}, {}]

    def open(self) -> SharedStore:
        return open_store(self.path, MortalFiles())

    @rule(who=which, some=st.lists(numbers, min_size=1, max_size=5, unique=True))
    def write(self, who: int, some: list[int]) -> None:
        result = write_numbers(self.stores[who], *some)
        assert sorted(result.kept + result.refused) == sorted(name_of(n) for n in some)
        there = present(self.stores[1 - who])
        assert set(result.kept) <= set(there), "what one process has kept, the other one finds"

    @rule(who=which)
    def read_everything(self, who: int) -> None:
        store = self.stores[who]
        there = present(store)
        for number in range(NUMBERS):
            if name_of(number) in there:
                answer = read_record(store, there[name_of(number)], number)
                assert answer in (None, content_of(number))

    @rule(who=which)
    def follow_changes(self, who: int) -> None:
        """What is learned change by change is what is there."""
        store = self.stores[who]
        store._index._seen = -1
        known = store.changes().present
        write_numbers(self.stores[1 - who], 3, 4, 5)
        changes = store.changes()
        assert not changes.everything
        known = {key: record for key, record in known.items() if key not in changes.gone} | changes.present
        assert known == present(store)

    @rule(who=which, some=st.lists(numbers, min_size=1, max_size=5, unique=True), dies_in=st.integers(1, 12))
    def die_while_writing(self, who: int, some: list[int], dies_in: int) -> None:
        store = self.stores[who]
        store.files.dies_in = dies_in
        try:
            write_numbers(store, *some)
        except Killed:
            die(store)
            self.stores[1 - who].bury_dead()
            self.stores[1 - who].check()
            self.stores[who] = self.open()
        else:
            store.files.dies_in = 0

    @rule(who=which)
    def restart(self, who: int) -> None:
        before = set(present(self.stores[who]))
        self.stores[who].close()
        self.stores[who] = self.open()
        after = set(present(self.stores[who]))
        assert after <= before
        assert len(after) >= len(before) - 2, "warm after a restart"

    @rule()
    def everybody_dies(self) -> None:
        before = set(present(self.stores[0]))
        for store in self.stores:
            die(store)
        self.stores = [self.open(), self.open()]
        assert set(present(self.stores[0])) <= before
        self.read_everything(0)

    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        files = record_files(self.path)
        if files:
            damage(data.draw(st.sampled_from(files)), data)
            self.drop_damaged()

    def drop_damaged(self) -> None:
        """Sizes must be those of the index for ``check``: whoever reads a damaged record removes it."""
        there = present(self.stores[0])
        for number in range(NUMBERS):
            if name_of(number) in there:
                read_record(self.stores[0], there[name_of(number)], number)

    @rule()
    def lose_the_index(self) -> None:
        """The index is damaged; the other process changes over to the one that is made from the records."""
        before = set(present(self.stores[0]))
        self.stores[1].close()
        for path in self.path.glob("index-*.sqlite"):
            path.write_bytes(b"SQLite format 3\0 no more" * 50)
        self.stores[1] = self.open()
        after = set(present(self.stores[0]))
        assert after == set(present(self.stores[1]))
        assert after <= before
        assert len(after) >= len(before) - 2, "a fresh index takes more room, and that is all"

    @invariant()
    def the_bound_holds(self) -> None:
        if hasattr(self, "stores"):
            assert directory_bytes(self.path) <= LIMIT_BYTES
            self.stores[0].check()

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.path)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([to_write(0, 100), to_write(12, 101), to_write(24, 102)])
    store.touch([(name_of(0), 300)])
    for number in range(36, 36 + 12 * 30, 12):
        if store.write([to_write(number, 100 + number)]).evicted:
            break
    there = present(store)
    assert name_of(12) not in there
    assert {name_of(0), name_of(24), name_of(number)} <= set(there)
    store.close()


SharedMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
TestSharedStore = SharedMachine.TestCase
