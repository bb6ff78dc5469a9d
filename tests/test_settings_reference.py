"""docs/settings.md says of every setting what the program knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.commands.settings_reference import all_settings, markdown
from stepwell.settings.file import known_keys, sections

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    assert markdown() == PAGE.read_text("utf-8"), (
        "run: .venv/bin/stepwell settings --markdown > docs/settings.md"
    )


def test_every_key_is_there_and_says_what_it_means() -> None:
    settings = all_settings()
    there = {(one.table, one.name) if one.table else (one.name,) for one in settings}
    assert {key for key in known_keys() if key[0] in sections()} <= there
    assert not [one for one in settings if not one.meaning]
    assert {one.since for one in settings} == {"0.1.0", "0.2.0"}
    assert {one.environment for one in settings if one.name == "host_kv"} == {"STEPWELL_KV_HOST_KV"}


def test_the_page_is_the_same_for_every_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = markdown()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert markdown() == before


def test_a_setting_is_found_by_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["settings", "disk_kv"]) == 0
    out = capsys.readouterr().out
    assert "kv.disk_kv  (size, default 4GiB; since 0.1.0)" in out
    assert out.splitlines()[-1] == "1 settings"
    assert cli.run(["settings", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(all_settings())
    assert cli.run(["settings", "no such thing"]) == 2
