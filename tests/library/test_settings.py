"""The table [library]: sizes, quotas of service tiers that exist, a place that can be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.errors import BadInput, StepwellError
from stepwell.launch.serve import served_library
from stepwell.settings.file import LibrarySettings, load


def loaded(tmp_path: Path, text: str) -> LibrarySettings:
    path = tmp_path / "stepwell.toml"
    path.write_text("[library]\n" + text)
    return load(path, env={}).library


def test_sizes_and_quotas(tmp_path: Path) -> None:
    read = loaded(tmp_path, 'quota = "2MiB"\nquotas = { flex = "1KiB" }\nmax_file = "1MiB"\nmax_pages = 7\n')
    assert (read.quota, read.quotas) == (2**21, {"flex": 1_024})
    assert (read.limits().max_bytes, read.limits().max_pages) == (2**20, 7)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('quotas = { gold = "1KiB" }', "'gold', which does not exist"),
        ('quota = "much"', "is not a size"),
        ("max_file = 0", "max_file"),
        ("upload_timeout_s = 0", "upload_timeout_s"),
        ("qouta = 1", "did you mean"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match="library") as caught:
        loaded(tmp_path, text)
    assert sentence in str(caught.value)


def test_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was asked for ends the start; the usual one only the library."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StepwellError, match="cannot be written"):
        served_library(LibrarySettings(dir=tmp_path / "file" / "library"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert served_library(LibrarySettings()) is None
    assert "no documents are kept" in capsys.readouterr().err


def test_switched_off(tmp_path: Path) -> None:
    usual = LibrarySettings(dir=tmp_path / "library")
    assert served_library(replace(usual, quota=0)) is None
    assert not (tmp_path / "library").exists()
    served = served_library(replace(usual, quota=0, quotas={"flex": 10}))
    assert served is not None
    assert served.quota_bytes == 0
