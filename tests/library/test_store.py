"""What was answered is there, what was not is gone, and nobody sees what is another's."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stepwell.errors import BadInput
from stepwell.library import blobs
from stepwell.library.errors import DamagedFile, NoSuchFile, QuotaFull, StorageFull
from stepwell.library.index import FileRecord
from stepwell.library.store import Library

QUOTA = 10_000


def add(
    library: Library, data: bytes | str, tenant: str = "acme", name: str = "a.html", **more: int
) -> FileRecord:
    content = data.encode() if isinstance(data, str) else data
    return library.add(tenant, name, content, **{"quota_bytes": QUOTA, **more})  # type: ignore[arg-type]


def contents(root: Path) -> list[Path]:
    return [path for path in root.glob("contents/*/*") if path.is_file()]


def test_what_goes_in_comes_out_also_after_a_restart(tmp_path: Path) -> None:
    made = add(Library(tmp_path), "<p>Deep</p>", name="dir/a.html")
    library = Library(tmp_path)
    assert library.get("acme", made.id) == made
    assert (made.filename, made.kind, library.text(made), library.content(made)) == (
        "a.html",
        "html",
        "Deep\n",
        b"<p>Deep</p>",
    )


def test_equal_contents_lie_there_once_per_tenant(tmp_path: Path) -> None:
    library = Library(tmp_path)
    one, two, other = add(library, "same"), add(library, "same"), add(library, "same", "blue")
    assert len({one.id, two.id, other.id}) == 3
    assert (library.used_bytes("acme"), library.used_bytes("blue")) == (4, 4)
    assert len(contents(tmp_path)) == 2
    library.delete("acme", one.id)
    assert library.text(two) == "same"
    library.delete("acme", two.id)
    assert library.used_bytes("acme") == 0
    assert library.text(other) == "same"
    assert len(contents(tmp_path)) == 1


def test_another_tenants_file_does_not_exist(tmp_path: Path) -> None:
    library = Library(tmp_path)
    made = add(library, "secret")
    for ask in library.get, library.delete:
        with pytest.raises(NoSuchFile, match="there is no file"):
            ask("blue", made.id)
    with pytest.raises(NoSuchFile):
        library.files("blue", limit=5, after=made.id)
    assert library.files("blue", limit=5).files == []


def test_the_quota_counts_what_lies_there(tmp_path: Path) -> None:
    library = Library(tmp_path)
    made = add(library, "x" * 900, quota_bytes=1_000)
    add(library, "x" * 900, quota_bytes=1_000)  # nothing more lies there
    with pytest.raises(QuotaFull, match="remove files first"):
        add(library, "y" * 101, quota_bytes=1_000)
    assert len(contents(tmp_path)) == 1
    assert not list((tmp_path / "incoming").iterdir())
    add(library, "z" * 100, quota_bytes=1_000)
    assert library.get("acme", made.id)


def test_what_has_expired_is_gone_and_frees_its_room(tmp_path: Path) -> None:
    now = [1_000.0]
    library = Library(tmp_path, now_s=lambda: now[0])
    made = add(library, "short-lived " * 70, expires_s=60)
    now[0] += 59
    assert library.text(made)
    now[0] += 1
    assert library.files("acme", limit=5).files == []
    with pytest.raises(NoSuchFile):
        library.text(made)
    add(library, "new", quota_bytes=100)
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_damage_is_told_and_adding_it_again_heals(tmp_path: Path, damage: object) -> None:
    library = Library(tmp_path)
    made, other = add(library, "deep"), add(library, "cool")
    (place,) = [path for path in contents(tmp_path) if path.read_bytes() == b"deep"]
    assert callable(damage)
    damage(place)
    with pytest.raises(DamagedFile, match=r"a\.html.*add it again"):
        library.text(made)
    assert library.text(other) == "cool"
    add(library, "deep")
    assert library.text(made) == "deep"


def test_a_damaged_index_is_one_sentence(tmp_path: Path) -> None:
    Library(tmp_path)
    for path in tmp_path.glob("index.db*"):
        path.write_bytes(b"not a database" * 100)
    with pytest.raises(DamagedFile, match="index of the library"):
        Library(tmp_path)


class _Full:
    """An fsync that finds the disk full at the nth time."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, descriptor: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    library = Library(tmp_path)
    add(library, "before")
    with monkeypatch.context() as patched:
        patched.setattr(blobs.os, "fsync", _Full(at))
        with pytest.raises(StorageFull, match="No space left"):
            add(library, "<p>after</p>")
    assert len(contents(tmp_path)) == 1
    assert not list((tmp_path / "incoming").iterdir())
    assert len(library.files("acme", limit=9).files) == 1
    assert library.text(add(library, "<p>after</p>")) == "after\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from stepwell.library import blobs, store
library = store.Library(Path(sys.argv[1]))
add = lambda text: library.add("acme", "a.html", text, quota_bytes=10**6)
print(add(b"<p>kept</p>").id, flush=True)
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "writing":
    blobs.os.fsync = die
else:
    store.insert = die
add(b"<p>lost</p>")
"""


@pytest.mark.parametrize("moment", ["writing", "entering"])
def test_kill_9_loses_nothing_and_leaves_nothing(tmp_path: Path, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(contents(tmp_path)) + len(list((tmp_path / "incoming").iterdir())) > 2
    library = Library(tmp_path)
    (record,) = library.files("acme", limit=9).files
    assert (record.id, library.text(record)) == (done.stdout.strip(), "kept\n")
    assert len(contents(tmp_path)) == 2
    assert not list((tmp_path / "incoming").iterdir())


def test_an_upload_of_a_living_process_is_not_swept(tmp_path: Path) -> None:
    store = blobs.Blobs(tmp_path)
    with store.written(b"on its way") as written:
        Library(tmp_path)
        assert written.path.exists()


def test_many_threads_at_once(tmp_path: Path) -> None:
    library = Library(tmp_path)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                made = add(library, f"text {turn % 2}", f"t{number % 2}", quota_bytes=10**6)
                assert library.text(made) == f"text {turn % 2}"
                library.delete(made.tenant, made.id)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert contents(tmp_path) == []
    assert library.used_bytes("t0") == library.used_bytes("t1") == 0


TENANTS = st.sampled_from(["acme", "blue"])
TEXTS = st.sampled_from(["one", "two", "<html><p>three</p>", "four" * 20])


class LibraryMachine(RuleBasedStateMachine):
    """Against a dictionary: adds, deletes, reads, restarts."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.library = Library(self.root)
        self.there: dict[str, tuple[FileRecord, bytes]] = {}

    @rule(tenant=TENANTS, text=TEXTS)
    def add(self, tenant: str, text: str) -> None:
        try:
            made = add(self.library, text, tenant, quota_bytes=120)
        except QuotaFull:
            return
        self.there[made.id] = made, text.encode()

    @rule(tenant=TENANTS, data=st.data())
    def delete(self, tenant: str, data: st.DataObject) -> None:
        file_id = data.draw(st.sampled_from([*self.there, "file-unknown"]))
        if file_id in self.there and self.there[file_id][0].tenant == tenant:
            self.library.delete(tenant, file_id)
            del self.there[file_id]
        else:
            with pytest.raises(NoSuchFile):
                self.library.delete(tenant, file_id)

    @rule()
    def restart(self) -> None:
        self.library = Library(self.root)

    @rule(tenant=TENANTS, limit=st.integers(1, 3), newest_first=st.booleans())
    def list(self, tenant: str, limit: int, newest_first: bool) -> None:
        listed: list[str] = []
        more = True
        while more:
            after = listed[-1] if listed else None
            page = self.library.files(tenant, limit=limit, after=after, newest_first=newest_first)
            listed += [record.id for record in page.files]
            more = page.has_more
        own = [made.id for made, _ in self.there.values() if made.tenant == tenant]
        assert listed == (own[::-1] if newest_first else own)

    @invariant()
    def everything_is_there_and_no_more(self) -> None:
        for made, data in self.there.values():
            assert self.library.content(made) == data
            assert self.library.text(made)
        for tenant in ("acme", "blue"):
            digests = {
                (digest, size)
                for made, _ in self.there.values()
                if made.tenant == tenant
                for digest, size in ((made.sha256, made.bytes), (made.text_sha256, made.text_bytes))
            }
            assert self.library.used_bytes(tenant) == sum(size for _, size in digests) <= 120
        assert sum(path.stat().st_size for path in contents(self.root)) == sum(
            self.library.used_bytes(tenant) for tenant in ("acme", "blue")
        )

    def teardown(self) -> None:
        self.folder.cleanup()


TestLibrary = LibraryMachine.TestCase
TestLibrary.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageFull, BadInput)):
        Library(tmp_path / "file" / "library")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
