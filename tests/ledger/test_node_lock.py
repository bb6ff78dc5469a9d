"""Locks of a name, by real processes: one holder at a time, and nothing left of those that ended well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.ledger.stores.node_lock import LockHeld, NodeLock
from stepwell.ledger.stores.sqlite import SqliteStore
from tests.ledger.entries import RUN

ROUNDS = 400
LONG_S = 60.0
IN_TURN = """
import os, sys
from pathlib import Path
from stepwell.ledger.stores.node_lock import LockHeld, NodeLock

path, inside, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
while rounds:
    try:
        lock = NodeLock.take(path)
    except LockHeld:
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where somebody else is inside
    os.unlink(inside)
    lock.release()
    rounds -= 1
"""
HOLDS = """
import sys, time
from pathlib import Path
from stepwell.ledger.stores.node_lock import NodeLock

lock = NodeLock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_processes_that_race_for_a_name_have_it_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    words = [sys.executable, "-c", IN_TURN, str(path), str(tmp_path / "inside"), str(ROUNDS)]
    children = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate(timeout=LONG_S)[1] for child in children]
    assert said == ["", "", ""]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_leaves_one_file_that_the_next_one_uses(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    words = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            with pytest.raises(LockHeld, match=f"process {child.pid}$"):
                NodeLock.take(path)
        finally:
            child.kill()
    left = path.stat().st_ino
    lock = NodeLock.take(path)
    assert [file.stat().st_ino for file in tmp_path.iterdir()] == [left]
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_a_person_removed_takes_nobody_elses_with_it(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    first = NodeLock.take(path)
    path.unlink()
    second = NodeLock.take(path)
    first.release()
    with pytest.raises(LockHeld):
        NodeLock.take(path)
    second.release()
    assert not path.exists()


def test_books_that_are_closed_leave_their_one_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    store.begin(RUN)
    assert store.lock_path(RUN.node).is_file()
    store.close()
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]
