"""``stepwell disk verify | stat | clear`` and the disk's speed, as a person meets them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stepwell.cli import run
from stepwell.commands import disk
from stepwell.errors import BadInput
from stepwell.tiers.inspect import measure_disk, stat_store
from stepwell.tiers.store import DiskStore
from tests.tiers.harness import BLOCK_BYTES, FINGERPRINT, block, record_files, write

LIMIT = 400_000


@pytest.fixture
def store_directory(tmp_path: Path) -> Path:
    """Five blocks of one model and one of another; nobody uses them."""
    path = tmp_path / "kv"
    for fingerprint, numbers in ((FINGERPRINT, range(5)), ("model-b", range(1))):
        store = DiskStore(path, LIMIT, fingerprint)
        for number in numbers:
            write(store, block(number))
        store.close()
    return path


def damage(path: Path, place: int = 5_000) -> None:
    changed = bytearray(path.read_bytes())
    changed[place] ^= 1
    path.write_bytes(changed)


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def test_verify_of_a_healthy_store(store_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["disk", "verify", str(store_directory)]) == 0
    out = capsys.readouterr().out
    assert "6 records" in out
    assert "6 ok, 0 damaged, 0 torn, 0 foreign" in " ".join(out.split())
    assert out.rstrip().endswith("Nothing is damaged.")


def test_verify_finds_damage_and_changes_nothing(
    store_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, torn = record_files(store_directory)[:2]
    damage(damaged)
    torn.write_bytes(torn.read_bytes()[:6_000])
    (torn.parent / "spare-0.tmp").write_bytes(b"half")
    (torn.parent / "notes.txt").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in store_directory.rglob("*") if path.is_file()}
    assert run(["disk", "verify", str(store_directory), "--json", "-"]) == 1
    result = as_json(capsys)
    assert {key: result[key] for key in ("records", "ok", "damaged", "torn", "foreign")} == {
        "records": 6, "ok": 4, "damaged": 1, "torn": 2, "foreign": 1,
    }  # fmt: skip
    assert isinstance(result["damaged_files"], list)
    assert damaged.name in result["damaged_files"][0]
    after = {path: path.read_bytes() for path in store_directory.rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p.name != "lock"} == {
        p: b for p, b in before.items() if p.name != "lock"
    }


def test_a_store_in_use_can_be_counted_and_nothing_else(
    store_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DiskStore(store_directory, LIMIT, FINGERPRINT)
    assert run(["disk", "verify", str(store_directory)]) == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert run(["disk", "clear", str(store_directory), "--yes"]) == 1
    assert run(["disk", "stat", str(store_directory), "--json", "-"]) == 0
    assert as_json(capsys)["in_use_by"] == str(os.getpid())
    store.close()
    assert len(record_files(store_directory)) == 6


def test_stat_counts_models_and_tenants(store_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["disk", "stat", str(store_directory)]) == 0
    out = capsys.readouterr().out
    assert FINGERPRINT in out
    assert "tenant-1" in out
    assert "384 tokens" in out
    found = stat_store(store_directory)
    assert found.limit_bytes == LIMIT
    assert found.in_use_by is None
    ours = next(model for model in found.models if model.fingerprint == FINGERPRINT)
    assert (ours.total.blocks, ours.total.tokens) == (5, 5 * 64)
    assert {tenant: share.blocks for tenant, share in ours.tenants.items()} == {"tenant-0": 3, "tenant-1": 2}


def test_stat_says_what_cannot_be_read(store_directory: Path) -> None:
    damage(record_files(store_directory)[0], place=60)
    found = stat_store(store_directory)
    assert found.unreadable == 1
    assert sum(model.total.blocks for model in found.models) == 5


def test_clear_removes_records_and_nothing_else(
    store_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = record_files(store_directory)[0].parent / "notes.txt"
    theirs.write_text("mine")
    assert run(["disk", "clear", str(store_directory), "--yes", "--json", "-"]) == 0
    result = as_json(capsys)
    assert (result["records"], result["left"]) == (6, 1)
    assert theirs.read_text() == "mine"
    assert not record_files(store_directory)
    theirs.unlink()
    store = DiskStore(store_directory, LIMIT, FINGERPRINT)
    assert store.recovered() == []
    store.close()


def test_clear_asks_first(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["n", "", "yes"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert disk.clear(store_directory) == 1
    assert disk.clear(store_directory) == 1
    assert len(record_files(store_directory)) == 6
    assert disk.clear(store_directory) == 0
    assert not record_files(store_directory)
    assert "Nothing was removed" in capsys.readouterr().err


def test_clear_where_nobody_can_answer_wants_yes(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(BadInput, match="--yes"):
        disk.clear(store_directory)


@pytest.mark.parametrize("command", ["verify", "stat", "clear"])
def test_what_is_no_store_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for place in (tmp_path, tmp_path / "missing"):
        assert run(["disk", command, str(place), *(["--yes"] if command == "clear" else [])]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert str(place) in err
    assert (tmp_path / "thesis.tex").exists()


def test_the_disk_is_measured_beside_the_store(store_directory: Path) -> None:
    before = sorted(store_directory.parent.rglob("*"))
    result = measure_disk(store_directory, BLOCK_BYTES, 4)
    assert result["write_bytes_per_s"] > 0
    assert result["read_bytes_per_s"] > 0
    assert (result["blocks"], result["block_bytes"]) == (4, BLOCK_BYTES)
    assert sorted(store_directory.parent.rglob("*")) == before
    measure_disk(store_directory / "not" / "there" / "yet", BLOCK_BYTES, 1)
    assert not (store_directory / "not").exists()
