"""The crash benchmark finds what it is there to find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.bench.tiers import crash
from stepwell.bench.tiers.crash_child import block, content
from stepwell.cli import run
from stepwell.console.progress import ticker


def test_a_few_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crash.json"
    assert run(["bench", "crash", "--quick", "--kills", "4", "--json", str(file)]) == 0
    result = json.loads(file.read_text("utf-8"))
    assert result["results"]["kills"] == 4
    assert result["results"]["wrong_bytes_served"] == 0
    assert result["results"]["bound_exceeded"] == 0
    assert capsys.readouterr().out.rstrip().endswith("targets reached.")


def test_a_store_that_does_not_check_would_be_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same harm, with the payload's checksum switched off: wrong bytes must show."""
    monkeypatch.setattr("stepwell.tiers.store.verify_payload", lambda header, payload: None)
    monkeypatch.setattr(crash, "_do_harm", _flip_a_payload)
    setup, tally = crash.CrashSetup(tmp_path / "kv", kills=4, seed=3, harmed_share=1.0), crash.CrashTally()
    with ticker() as progress:
        crash._run(setup, tally, progress)
    assert tally.counts["wrong_bytes_served"] > 0


def _flip_a_payload(setup: crash.CrashSetup, tally: crash.CrashTally, dice: object) -> int:
    for path in setup.directory.glob("v*/*.kv"):
        changed = bytearray(path.read_bytes())
        changed[10_000] ^= 1
        path.write_bytes(changed)
    return 1


def test_every_block_and_every_page_is_different() -> None:
    seen = set()
    for number in range(20):
        data = content(block(number))
        assert len(data) == block(number).size_bytes
        pages = {data[start : start + 4096] for start in range(0, len(data), 4096)}
        assert len(pages) == -(-len(data) // 4096)
        assert not pages & seen
        seen |= pages
