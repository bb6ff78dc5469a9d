"""OpenBB 7110: the calendar is a day late, and payrolls come out on a Saturday."""

from __future__ import annotations

import pytest

from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import facts, page, raw

ROW = b"| evt.jobs.release | date | 2025-12-06 | 2025-12-06 | 2025-12-06 | |\n"


def changed() -> dict[str, bytes | None]:
    return {"documents-events.md": raw()["documents-events.md"] + ROW}


def test_a_release_on_a_weekend_does_not_fit() -> None:
    assert ("release", ("evt.jobs.release",)) in [
        (one.kind, one.cells) for one in facts(changed())[0].conflicts
    ]
    friday = {"documents-events.md": raw()["documents-events.md"] + ROW.replace(b"2025-12-06", b"2025-12-05")}
    assert "release" not in [one.kind for one in facts(friday)[0].conflicts]


def test_a_vintage_of_a_weekend_does_not_fit() -> None:
    data = raw()["fred-PAYEMS.json"].replace(b'"2025-11-20"', b'"2025-11-22"')
    assert "vintage" in [one.kind for one in facts({"fred-PAYEMS.json": data})[0].conflicts]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_so_and_holds(language: Language) -> None:
    data = page(language, changed())
    assert verify(data).faults == []
    assert {"en": "no statistics come out", "zh": "不发布统计数据"}[language] in data.decode()
