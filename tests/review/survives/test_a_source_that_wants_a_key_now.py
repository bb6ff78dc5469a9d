"""pandas-datareader 1012: a source begins to ask for a key, and answers with a page or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import cli
from tests.review.sample import facts

ANSWERS = [
    b"Exceeded the daily hits limit",
    b"<html>Get your apikey</html>",
    b"No data",
    b"\n",
    b"apikey,required\n1,2\n",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_its_answer_is_no_table_of_prices(answer: bytes) -> None:
    found, refused = facts({"prices-SPX.csv": answer})
    assert len(refused) == 1
    assert "closing levels of SPX (prices-SPX.csv)" in refused[0]
    assert found["w.SPX.change"].missing


def test_a_key_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FRED_API_KEY", raising=False)
    flags = ["--week", "2025-12-12", "--into", str(tmp_path), "--source", "fred"]
    assert cli.run(["review", "fetch", *flags]) == 1
    assert "not kept  fred: set FRED_API_KEY to ask this source" in capsys.readouterr().out
