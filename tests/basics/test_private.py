"""What customers wrote and what it cost is for the server's own user alone, whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.agents.state import SessionFile
from stepwell.basics.private import begun_privately, private_file, private_folder, private_umask
from stepwell.commands.run.view import trace_file
from stepwell.fit.memo import Memo
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.library.store import Library
from stepwell.policy.config import PolicyConfig
from stepwell.recording.file import Recorder, open_recording

CONFIG = PolicyConfig(
    block_tokens=64,
    unit_tokens=32,
    device_blocks=8,
    block_bytes=64,
    token_bytes=1,
    host_bytes=0,
    disk_bytes=0,
)


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def assert_private(root: Path) -> None:
    assert mode(root) == 0o700
    below = sorted(root.rglob("*"))
    assert below
    for path in below:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path.relative_to(root)


def test_documents_and_their_index(tmp_path: Path) -> None:
    library = Library(tmp_path / "documents")
    library.add("acme", "note.txt", b"The well is deep.", quota_bytes=1 << 20)
    with library._index.read():  # the write-ahead log lies there as long as somebody reads
        assert_private(tmp_path / "documents")


def test_documents_of_an_earlier_version_are_closed(tmp_path: Path) -> None:
    root = tmp_path / "documents"
    Library(root)
    for path in (root, root / "contents", root / "incoming"):
        path.chmod(0o755)
    (root / "index.db").chmod(0o644)
    Library(root)
    assert_private(root)


def test_books(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "books" / "ledger.db")
    store.claim("here")
    assert_private(tmp_path / "books")
    store.close()


@pytest.mark.parametrize("name", ["steps.jsonl", "steps.jsonl.gz"])
def test_recordings_even_over_an_open_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"what was there before, and longer than the first line of a recording" * 100)
    path.chmod(0o644)
    Recorder(path, CONFIG).close()
    assert mode(path) == 0o600
    with open_recording(path) as recording:
        assert recording.config == CONFIG
        assert list(recording.steps) == []


def test_a_new_file_is_new(tmp_path: Path) -> None:
    private_file(tmp_path / "a", new=True).close()
    with pytest.raises(FileExistsError):
        private_file(tmp_path / "a", new=True)


def test_what_is_no_plain_file_keeps_its_mode() -> None:
    before = mode(Path(os.devnull))
    with private_file(Path(os.devnull), truncate=True) as file:
        file.write(b"gone")
    assert mode(Path(os.devnull)) == before


def test_what_others_make_meanwhile_is_private(tmp_path: Path) -> None:
    private_folder(tmp_path / "ours")
    with private_umask():
        (tmp_path / "ours" / "by a library").write_text("x")
    (tmp_path / "open").write_text("x")
    assert_private(tmp_path / "ours")
    assert mode(tmp_path / "open") == 0o666


def test_what_runs_keep_is_for_their_user_alone(tmp_path: Path) -> None:
    """Sessions, remembered replies and traces hold what people asked and what was answered."""
    before = os.umask(0o022)
    try:
        SessionFile(tmp_path / "session.db").close()
        memo = Memo(tmp_path / "memo.db")
        with trace_file(tmp_path / "trace.jsonl"):
            pass
        own = tmp_path / "own.db"
        own.touch(0o644)
        begun_privately(own)
    finally:
        os.umask(before)
    memo.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("own.db") == 0o644
    assert {"session.db", "memo.db", "trace.jsonl"} <= set(modes)
    assert set(modes.values()) == {0o600}
