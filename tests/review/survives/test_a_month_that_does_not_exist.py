"""Recession-Predictor 26, palewire/cpi 209: a month was never published, and rates go across it."""

from __future__ import annotations

import pytest

from tests.review.sample import facts, page, raw


def payrolls(*rows: tuple[str, str]) -> dict[str, bytes | None]:
    listed = ", ".join(
        f'{{"realtime_start": "2025-12-05", "date": "{day}", "value": "{value}"}}' for day, value in rows
    )
    head = '"realtime_start": "2025-12-12", "realtime_end": "2025-12-12", "units": "lin"'
    return {"fred-PAYEMS.json": f'{{{head}, "observations": [{listed}]}}'.encode()}


@pytest.mark.parametrize("october", [(), (("2025-10-01", "."),)])
def test_no_change_is_computed_across_the_gap(october: tuple[tuple[str, str], ...]) -> None:
    found, _ = facts(payrolls(("2025-09-01", "159626"), *october, ("2025-11-01", "159590")))
    assert found["w.jobs.change"].missing == "two months in a row were not published"


def test_the_newest_rate_is_that_of_the_month_that_was_published() -> None:
    assert b"2025-10-01" in raw()["fred-UNRATE.json"]
    found, _ = facts()
    assert found["fred.UNRATE.2025-10-01"].value is None
    assert found["w.unemployment"].observed == found["fred.UNRATE.2025-09-01"].observed
    assert "fred.UNRATE.2025-10-01" in page("en").decode()
