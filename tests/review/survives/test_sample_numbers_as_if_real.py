"""TradingAgents 162: a key is missing, and numbers made up for a demo are printed as if they were real."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import cli
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import page

NOTE = {
    "en": "Sample: levels and replies in this review are made up.",
    "zh": "样例：本文中的点位与数据为虚构。",
}
MARK = {"en": " · made up", "zh": " · 虚构数据"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("words", [NOTE, MARK])
def test_a_page_without_its_watermark_does_not_hold(language: Language, words: dict[str, str]) -> None:
    text = page(language).decode()
    assert words[language] in text
    assert not verify(text.replace(words[language], "").encode()).holds


def test_a_mark_that_hides_its_origin_does_not_hold() -> None:
    text = (
        page("en")
        .decode()
        .replace('class="made" data-cell="w.SPX.change"', 'class="data" data-cell="w.SPX.change"')
    )
    assert any("is marked as data, and is made" in fault for fault in verify(text.encode()).faults)


def test_no_week_falls_back_to_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["review", "write", "--week", "2024-03-01", "--out", str(tmp_path)]) == 2
    assert "only the sample week" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
