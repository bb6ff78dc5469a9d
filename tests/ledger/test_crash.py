"""What a real death of the process and a real lack of room leave: whole batches, and all that returned.

The disk is made full twice over. A limit on the size of this process's files (``RLIMIT_FSIZE``) has the
kernel refuse SQLite's writes wherever the tests run; where they may mount, a tmpfs of one megabyte really is
full.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepwell.ledger.base import LedgerFull, Store
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.stores.recovery import recover
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.stores.writer import LedgerWriter
from stepwell.ledger.types import MACHINE, UNATTRIBUTED, Resource
from tests.ledger.crash_child import step
from tests.ledger.entries import RUN, START_US, Balances, added, agent, balances, batch, computed
from tests.ledger.postgres_server import Server

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
MOST_LINES = 1_500
LONG_S = 30.0


def killed_after(name: str, lines: int) -> tuple[int, int]:
    """Have a child write, and kill it when it has said so many numbers: its run, and the last number."""
    words = [sys.executable, "-m", "tests.ledger.crash_child", name]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        first = child.stdout.readline()
        if not first.startswith(b"run "):
            child.wait(LONG_S)
            pytest.fail(child.stderr.read().decode())
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.read().splitlines(keepends=True)
    whole = [int(line) for line in said if line.endswith(b"\n")]
    return int(first.split()[1]), max(whole, default=0)


def check_run(store: Store, run: int, said: int) -> None:
    """Every number that was said is there, each batch whole, nothing beyond the one in flight."""
    rows = store.rows(
        "SELECT batch, COUNT(*), MIN(amount), MAX(amount) FROM postings "
        "WHERE run = ? AND cause = 'step' GROUP BY batch ORDER BY batch",
        (run,),
    )
    numbers = [row[0] for row in rows]
    assert numbers == list(range(1, len(numbers) + 1))
    assert said <= len(numbers) <= said + 1
    assert rows == [(number, len(step(number)), number, number) for number in numbers]


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_process_loses_nothing_that_write_returned_from(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ledger.db"
    chance = random.Random(seed)
    found = [killed_after(str(path), chance.randrange(MOST_LINES)) for _ in range(KILLS // 2)]
    store = SqliteStore(path)
    (recovered,) = recover(store, RUN.node, START_US)
    assert recovered.run == found[-1][0]
    for run, said in found:
        check_run(store, run, said)
    assert store.rows("SELECT COUNT(*) FROM runs WHERE ended_at_us IS NULL") == [(0,)]
    # The totals were in the same transactions as their postings: nothing is left over.
    assert (UNATTRIBUTED, Resource.COMPUTE) not in balances(store)
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_a_killed_writer_of_postgres_loses_nothing_either(postgres_url: str) -> None:
    chance = random.Random(7)
    found = [killed_after(postgres_url, chance.randrange(300)) for _ in range(2)]
    store = open_store(postgres_url)
    recover(store, RUN.node, START_US)
    for run, said in found:
        check_run(store, run, said)
    assert (UNATTRIBUTED, Resource.COMPUTE) not in balances(store)
    store.close()


def test_a_server_that_goes_away_while_it_is_written_to_loses_nothing(
    postgres_server: Server, postgres_url: str
) -> None:
    store = open_store(postgres_url)
    writer = LedgerWriter(store, store.begin(RUN), retry_s=0.01)
    expected: Balances = {}
    try:
        for number in range(1, 61):
            if number == 30:
                postgres_server.stop()
            writer.submit(batch(number, computed(number, agent(f"a{number % 7}"))))
            added(expected, [computed(number, agent(f"a{number % 7}"))])
        with writer._changed:
            assert writer._changed.wait_for(lambda: writer.failing is not None, LONG_S)
        assert "does not answer" in str(writer.failing)
        postgres_server.start()
        assert writer.close(START_US + 900, LONG_S)
    finally:
        writer.abandon()
    assert balances(store) == expected
    assert store.rows("SELECT COUNT(*) FROM runs WHERE ended_at_us IS NULL") == [(0,)]
    store.close()


# --- no room --------------------------------------------------------------------------------------

Room = Callable[[], None]
"""Makes room again."""


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[Room]:
    """Python ignores SIGXFSZ, so the write that would pass the limit fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def restore() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield restore
    finally:
        restore()


def fill_and_recover(store: SqliteStore, make_room: Room) -> None:
    """Submit until well past the limit, make room, and compare with the model."""
    run = store.begin(RUN)
    writer = LedgerWriter(store, run, retry_s=0.01)
    expected: Balances = {}
    try:
        for number in range(1, 201):
            postings = [computed(number, agent(f"a{n}"), request=n) for n in range(100)]
            writer.submit(batch(number, *postings))
            added(expected, postings)
        with writer._changed:
            assert writer._changed.wait_for(lambda: writer.failing is not None, LONG_S)
        assert not writer.flush(0.1)
        assert writer.failing is not None
        assert f"the ledger {store.path} cannot be written" in writer.failing
        # What had returned is there and can be read while there is no room.
        (row,) = store.open_runs(RUN.node)
        assert 0 < row.last_batch < 200
        make_room()
        assert writer.close(START_US + 900, LONG_S)
    finally:
        writer.abandon()
    assert balances(store) == expected
    assert expected[MACHINE, Resource.COMPUTE] == -100 * sum(range(201))
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_disk_that_refuses_writes_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    with files_limited_to(500_000) as make_room:
        fill_and_recover(store, make_room)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    store.close()


def test_a_full_disk_is_ledger_full_and_leaves_the_batch_out(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    run = store.begin(RUN)
    store.write(run, batch(1, computed(1)))
    large = batch(2, *(computed(1, agent(f"a{n}")) for n in range(5_000)))
    with files_limited_to(200_000), pytest.raises(LedgerFull, match="cannot be written"):
        store.write(run, large)
    assert balances(store) == {(agent(), Resource.COMPUTE): 1, (MACHINE, Resource.COMPUTE): -1}
    store.write(run, large)
    assert balances(store)[MACHINE, Resource.COMPUTE] == -5_001
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    store = SqliteStore(small_disk / "ledger.db")

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        ballast.unlink()

    fill_and_recover(store, make_room)
    store.close()
