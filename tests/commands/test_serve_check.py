"""``stepwell serve --check``: everything that would keep a server from starting, and nothing is made."""

from __future__ import annotations

import fcntl
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.ledger.stores.sqlite import SqliteStore

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def checked(capsys: Capture, *flags: str, fails: bool = False) -> dict[str, Any]:
    usual = [(name, value) for name, value in (("--engine", "null"), ("--port", "0")) if name not in flags]
    tokens = ["serve", "--check", "--json", *(one for pair in usual for one in pair), *flags]
    assert cli.run(tokens) == (2 if fails else 0)
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is not fails
    return {one["name"]: one for one in result["checks"]}


def test_all_is_well_and_nothing_was_made(capsys: Capture, tmp_path: Path) -> None:
    found = checked(capsys)
    assert all(one["ok"] for one in found.values())
    assert "will be made" in found["ledger"]["says"]
    assert not list(tmp_path.iterdir())
    assert cli.run(["serve", "--check", "--engine", "null", "--port", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"all {len(found)} checks passed: 'stepwell serve' starts with these settings"


@pytest.mark.parametrize(
    ("flags", "name", "says"),
    [
        (["--policy", "magic"], "policy", "unknown policy 'magic'"),
        (["--host", "0.0.0.0"], "keys", "without API keys only loopback"),
        (["--port", "99999"], "port", "is not a port"),
        (["--price-book", "nope"], "price book", "there is no price book 'nope'"),
        (["--cost-book", "nope"], "cost book", "there is no cost book 'nope'"),
        (["--host-kv", "900TiB"], "memory", "more than this machine's memory"),
        (["--keys-file", "nowhere.toml"], "keys", "nowhere.toml cannot be read"),
        (["--engine", "llamacpp", "--model", "nowhere.gguf"], "model", "neither one of"),
        (["--record", "nowhere/run.jsonl"], "recording", "its directory is not there"),
    ],
)
def test_what_is_wrong_is_named(capsys: Capture, flags: list[str], name: str, says: str) -> None:
    found = checked(capsys, *flags, fails=True)
    assert [one["name"] for one in found.values() if not one["ok"]] == [name]
    assert says in found[name]["says"]


def test_several_things_are_said_at_once(capsys: Capture, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ledger = tmp_path / "ledger.db"
        ledger.write_text("not a ledger at all, but long enough to look like a file of something else")
        flags = ["--port", str(taken.getsockname()[1]), "--ledger", str(ledger)]
        assert cli.run(["serve", "--check", "--engine", "null", *flags]) == 2
    out = capsys.readouterr().out
    assert "FAILED  port" in out and "FAILED  ledger" in out
    assert out.splitlines()[-1].startswith("2 of 16 checks failed")


def test_a_ledger_that_is_there_is_opened_for_reading(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore(path).close()
    before = path.read_bytes()
    assert "0 runs" in checked(capsys, "--ledger", str(path))["ledger"]["says"]
    assert path.read_bytes() == before


def test_a_directory_that_another_server_uses(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4711\n")
    with (tmp_path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = checked(capsys, "--disk-dir", str(tmp_path), fails=True)
    assert found["disk KV"]["says"].endswith("is in use by process 4711")


def test_an_object_store_is_written_to_and_read(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(capsys)["object KV"]["says"] == "off"
    used = checked(capsys, "--objects", str(tmp_path), "--objects-kv", "2GiB")
    assert "up to 2 GiB; 1 MiB written in" in used["object KV"]["says"]
    diskless = checked(capsys, "--objects", str(tmp_path), "--disk-kv", "0", fails=True)
    assert any("give it some (--disk-kv)" in one["says"] for one in diskless.values() if not one["ok"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "geheim99")
    away = checked(capsys, "--objects", "s3://bucket/kv", fails=True)["object KV"]
    assert away["says"].startswith("s3://bucket/kv: ") and "it cannot be reached or fails" in away["says"]
    assert "geheim99" not in away["says"]


def test_no_password_is_shown(capsys: Capture) -> None:
    url = "postgresql://books:geheim99@127.0.0.1:9/none"
    found = checked(capsys, "--ledger", url, fails=True)
    assert not found["ledger"]["ok"]
    assert "geheim99" not in json.dumps(found)


def test_json_goes_with_check(capsys: Capture) -> None:
    assert cli.run(["serve", "--json", "--engine", "null"]) == 2
    assert "--json goes with --check" in capsys.readouterr().err


def test_telemetry_without_its_package_is_found_before_the_start(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(capsys, "--otel")["telemetry"]["ok"]
    monkeypatch.setattr("stepwell.telemetry.otel.find_spec", lambda name: None)
    assert "needs the extra 'otel'" in checked(capsys, "--otel", fails=True)["telemetry"]["says"]
    assert checked(capsys)["telemetry"]["ok"]
