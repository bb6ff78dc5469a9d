"""``stepwell signals`` as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import cli
from tests.review.sample import raw
from tests.review.signals.test_signals import walk


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices-SPX.csv"
    file.write_text("Date,Close\n" + "".join(f"{day},{close}\n" for day, close in walk(90)))
    return file


def said(capsys: pytest.CaptureFixture[str], *flags: object, code: int = 0) -> str:
    assert cli.run(["signals", *map(str, flags)]) == code
    return capsys.readouterr().out


def test_run_log_verify_score(prices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, page = tmp_path / "s.jsonl", tmp_path / "s.html"
    out = said(capsys, "run", "--prices", prices, "--log", log)
    assert "fixed   trend on SPX: " in out
    head = out.split()[-1]
    assert said(capsys, "run", "--prices", prices, "--log", log).endswith(f"head {head}\n")
    assert "2 signals added" in out
    checked = said(capsys, "verify", "--log", log, "--prices", prices, "--head", head)
    assert checked == f"5 lines: all hold; head {head}\n"
    scored = said(capsys, "score", "--log", log, "--prices", prices)
    assert "trend, forward: 0 returns, too few returns to say" in scored
    assert "holding" in scored
    assert "2 rules were tried; on paper only" in scored
    said(capsys, "log", "--log", log, "--html", page, "--prices", prices)
    assert head in page.read_text()
    assert "Rules that were tried: 2" in page.read_text()


def test_a_changed_line_is_named(prices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "s.jsonl"
    said(capsys, "run", "--prices", prices, "--log", log)
    log.write_text(log.read_text().replace('"cost_basis_points": "5"', '"cost_basis_points": "1"', 1))
    assert "line 2 was changed after it was written" in said(capsys, "verify", "--log", log, code=1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["run", "--prices", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["run", "--prices", "levels.csv"], "name the file after its instrument"),
        (["run", "--prices", "prices-SPX.csv", "--rule", "momentum"], "the rules are trend, reversal"),
        (["log"], "cannot be read"),
        (["verify", "--log", "levels.csv"], "line 1: no JSON"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("levels.csv", "prices-SPX.csv"):
        (tmp_path / name).write_bytes(raw()["prices-SPX.csv"])
    assert cli.run(["signals", *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
