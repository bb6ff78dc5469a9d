"""``stepwell review`` as a person runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stepwell import cli
from tests.review.sample import raw


def test_write_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["review", "write", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("44 sentences; ")
    assert " 0 untraced or wrong; 4 checks of what does not fit; 4 facts missing" in said
    for language in ("en", "zh"):
        assert cli.run(["review", "verify", str(tmp_path / f"review-2025-12-12.{language}.html")]) == 0
        assert capsys.readouterr().out.endswith("all hold\n")


def test_a_changed_digit_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["review", "write", "--out", str(tmp_path), "--lang", "en"])
    page = tmp_path / "review-2025-12-12.en.html"
    page.write_text(page.read_text("utf-8").replace(">lost 0.63%<", ">lost 0.36%<"), "utf-8")
    capsys.readouterr()
    assert cli.run(["review", "verify", str(page)]) == 1
    assert "'lost 0.36%' is not what w.SPX.change says" in capsys.readouterr().out


def test_a_folder_of_ones_own_is_written_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("prices-SPX.csv", "documents-events.md"):
        (mine / name).write_bytes(raw()[name])
    out = tmp_path / "out"
    assert cli.run(["review", "write", "--from", str(mine), "--out", str(out), "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["untraced"] == 0
    assert figures["sentences"] == 15
    assert b"made up" not in (out / "review-2025-12-12.en.html").read_bytes().split(b"<script")[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["write", "--week", "2025-13-01"], "give a day of the week as YYYY-MM-DD"),
        (["write", "--week", "1999-01-01"], "reviews are written for weeks from 2000"),
        (["write", "--week", "2024-03-01"], "only the sample week 2025-12-12 is shipped"),
        (["write", "--lang", "fr"], "give en, zh, or en,zh"),
        (["write", "--from", "nowhere"], "there is no such folder"),
        (["verify", "nothing.html"], "nothing.html cannot be read: No such file"),
        (["explain", "w.SPX.chnage"], "there is no figure w.SPX.chnage"),
        (["fetch", "--week", "2048-01-01", "--into", "x"], "has not been yet"),
        (
            ["fetch", "--week", "2025-12-12", "--into", "x", "--source", "stooq"],
            "the sources are cboe, fred,",
        ),
        (["fetch", "--week", "2025-12-12", "--into", "x", "--base-url", "fred"], "write SOURCE=URL"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["review", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_reply_that_was_changed_after_it_was_fetched_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "nyfed-soma.json"
    (tmp_path / name).write_bytes(raw()[name] + b" ")
    row = {"source": "nyfed", "name": name, "sha256": "0" * 64, "fetched": "2025-12-12", "url": ""}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.run(["review", "write", "--from", str(tmp_path)]) == 1
    assert f"{name} was changed after it was fetched" in capsys.readouterr().err


def test_an_empty_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(__file__, tmp_path / "notes.txt")
    assert cli.run(["review", "write", "--from", str(tmp_path)]) == 2
    assert "nothing in it is a reply of a source" in capsys.readouterr().err
