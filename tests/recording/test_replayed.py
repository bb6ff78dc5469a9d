"""A recording gives the books again, to the last microsecond: of random lives, however they are cut off."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule
from tests.driver import test_random_life as random_life
from tests.driver.harness import Rig, make_rig
from tests.ledger.books import PRICES

from stepwell.commands.ledger.verify import verify
from stepwell.errors import BadInput
from stepwell.ledger.base import PostingBatch, Run
from stepwell.ledger.reading.verify import verify as verify_books
from stepwell.ledger.stores.recovery import recover
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Account, Cause, Resource
from stepwell.recording.file import Recorder, RecordingError
from stepwell.recording.replayed import replay_books, replay_of

Balances = dict[Account, dict[Resource, int]]
WALL_US = 1_800_000_000_000_000


def record(rig: Rig, path: Path, run: int = 1) -> None:
    header = {
        "run": run,
        "now_us": 0,
        "wall_us": WALL_US,
        "storage_every_us": 60_000_000,
        "model": "null",
        "price_book": PRICES,
    }
    rig.driver.loop.observers.insert(0, Recorder(path, rig.driver.scheduler.config, header))


def balances(batches: Sequence[PostingBatch]) -> Balances:
    found: Balances = defaultdict(lambda: defaultdict(int))
    for posting in (posting for batch in batches for posting in batch.postings):
        found[posting.debit][posting.resource] -= posting.amount
        found[posting.credit][posting.resource] += posting.amount
    return found


class RecordedLife(random_life.Life):
    """The same lives, recorded."""

    def is_built(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "run.jsonl"
        record(self.rig, self.path)

    @rule()
    def somebody_looks(self) -> None:
        """Screens and metrics do all the time: it decides nothing, or the recording would not know."""
        self.rig.driver.snapshot()

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "rig"):
            return
        batches = self.rig.books.batches
        for last in {len(batches), len(batches) // 3, max(0, len(batches) - 1)}:
            again = replay_books(self.path, last)
            assert again.balances == balances(batches[:last])
            assert not last or again.totals == batches[last - 1].totals
        assert replay_books(self.path).balances == balances(batches)
        self.directory.cleanup()


TestRecordedLife = RecordedLife.TestCase
TestRecordedLife.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# --- against real books --------------------------------------------------------------------------


def live(directory: Path, *, name: str = "run.jsonl", tenant: str = "acme") -> tuple[Rig, Path]:
    """A short busy life with everything that costs something."""
    rig = make_rig(device=10, host=8, disk=40)
    path = directory / name
    record(rig, path)
    for turn in range(3):
        for agent in range(6):
            rig.ask([100 + agent, *range(60, 90 + 5 * turn)], 7, agent=f"a{agent}", tenant=tenant)
        rig.driver.cancel(turn * 6 + 2)
        rig.tiers.fail_reads = 1
        rig.settle()
        rig.clock.sleep_us(100_000_000)
        rig.driver.step()  # nothing but time
    return rig, path


def books_of(rig: Rig, path: Path, batches: Sequence[PostingBatch], *, end: bool = True) -> SqliteStore:
    store = SqliteStore(path)
    run = store.begin(Run("here", WALL_US, "null", "{}", "", PRICES))
    for batch in batches:
        store.write(run, batch)
    if end:
        store.end(run, WALL_US + rig.clock.now_us())
    return store


def test_the_books_of_a_closed_run(tmp_path: Path) -> None:
    rig, recording = live(tmp_path, tenant="ac\0me")  # a store writes that name in another way
    rig.driver.stop()
    store = books_of(rig, tmp_path / "l.db", rig.books.batches)
    found = verify_books(store, replay_of([recording]))
    assert (found.differences, found.replayed) == ([], 1)
    store.close()
    assert verify(ledger=str(tmp_path / "l.db"), recording=(recording,)) == 0


@pytest.mark.parametrize("lost", [1, 2, 9])
@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_a_run_that_was_killed(tmp_path: Path, name: str, lost: int) -> None:
    """The recording is flushed before a step is posted: it holds what the books hold, and maybe more."""
    rig, recording = live(tmp_path, name=name)
    killed = tmp_path / f"killed-{name}"
    killed.write_bytes(recording.read_bytes())  # as it is on disk now: nobody has closed it
    assert len(rig.books.batches) > 20
    store = books_of(rig, tmp_path / "l.db", rig.books.batches[:-lost], end=False)
    found = verify_books(store, replay_of([killed]))
    assert (found.differences, found.replayed) == ([], 1)
    assert recover(store, "here", WALL_US + rig.clock.now_us())[0].last_batch == len(rig.books.batches) - lost
    found = verify_books(store, replay_of([killed]))
    assert (found.differences, found.replayed) == ([], 1)
    store.close()
    rig.driver.stop()


def test_what_was_moved_between_agents_is_named(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    rig.driver.stop()
    batches = rig.books.batches
    ran = [(batch, at) for batch in batches for at, p in enumerate(batch.postings) if p.cause is Cause.STEP]
    batch, at = ran[0]
    assert isinstance(batch.postings, list)
    batch.postings[at] = batch.postings[at]._replace(amount=batch.postings[at].amount - 1)
    store = books_of(rig, tmp_path / "l.db", batches)
    found = verify_books(store, replay_of([recording]))
    assert any(
        "compute_us" in one.sentence and "by the recording" in one.sentence for one in found.differences
    )
    store.close()
    assert verify(ledger=str(tmp_path / "l.db"), recording=(recording,)) == 1


def test_a_batch_after_the_last_step_is_in_neither(tmp_path: Path) -> None:
    """A loop that is ended with a batch under way leaves the books as its recording ends."""
    rig, recording = live(tmp_path)
    rig.ask(range(60, 90), 7)
    while not rig.driver.executor.has_results:
        rig.driver.step()
    rig.driver._stopped = True
    rig.driver.loop.close()
    again = replay_books(recording)
    assert again.balances == balances(rig.books.batches)
    assert again.totals == rig.keeper.meter.totals


# --- what is not right ---------------------------------------------------------------------------


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_last_line_that_was_cut_off_is_the_end(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    all_lines = lines(recording)
    recording.write_bytes(b"".join(all_lines)[:-5])
    replay_books(recording, len(rig.books.batches) - 1)
    with pytest.raises(RecordingError, match="not whole"):
        replay_books(recording, len(rig.books.batches) + 1)
    rig.driver.stop()


def test_damage_in_the_middle_is_damage(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    all_lines = lines(recording)
    all_lines[5] = all_lines[5][:-9] + b"\n"
    recording.write_bytes(b"".join(all_lines))
    with pytest.raises(RecordingError, match="line 6 is damaged"):
        replay_books(recording)
    rig.driver.stop()


def test_gzip_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    rig, recording = live(tmp_path, name="run.jsonl.gz")
    whole = recording.read_bytes()
    recording.write_bytes(whole[: len(whole) // 2])
    replay_books(recording, 5)
    rig.driver.stop()


def changed(path: Path, **header: Any) -> Path:
    first, *rest = lines(path)
    content = json.loads(first)
    content["ledger"] = {**content["ledger"], **header} if header else None
    path.write_bytes(json.dumps(content).encode() + b"\n" + b"".join(rest))
    return path


def test_recordings_that_do_not_belong_here(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    rig.driver.stop()
    books_of(rig, tmp_path / "l.db", rig.books.batches).close()
    ledger = str(tmp_path / "l.db")
    with pytest.raises(BadInput, match="the same run"):
        verify(ledger=ledger, recording=(recording, recording))
    with pytest.raises(BadInput, match="1 of 1 recordings"):
        verify(ledger=ledger, recording=(changed(recording, run=7),))
    with pytest.raises(RecordingError, match="what it says of its ledger is damaged"):
        verify(ledger=ledger, recording=(changed(recording, run=1, price_book=None),))
    with pytest.raises(RecordingError, match="kept no ledger"):
        verify(ledger=ledger, recording=(changed(recording),))


def test_other_decisions_are_not_compared(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    rig.driver.stop()
    first, *rest = lines(recording)
    content = json.loads(first)
    content["config"]["device_blocks"] -= 1
    recording.write_bytes(json.dumps(content).encode() + b"\n" + b"".join(rest))
    with pytest.raises(RecordingError, match="decides differently"):
        replay_books(recording)


def test_a_compressed_recording_reads_the_same(tmp_path: Path) -> None:
    rig, recording = live(tmp_path)
    rig.driver.stop()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(recording.read_bytes()))
    assert replay_books(tmp_path / "b.jsonl.gz") == replay_books(recording)
