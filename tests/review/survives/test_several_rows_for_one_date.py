"""fredapi 28, 48, 67, 69 and 70: several vintages answer for one date, and chance picks one."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.review.digest import digest
from tests.review.sample import WEEK, replies

VINTAGES = {"2025-10-03": "159540", "2025-11-20": "159626", "2025-12-05": "159593"}


@given(st.permutations(sorted(VINTAGES)))
def test_the_newest_vintage_of_the_week_is_taken_whatever_the_order(order: list[str]) -> None:
    rows = [
        {
            "realtime_start": known,
            "realtime_end": "2025-12-12",
            "date": "2025-09-01",
            "value": VINTAGES[known],
        }
        for known in order
    ]
    head = {"realtime_start": "2025-10-03", "realtime_end": "2025-12-12", "units": "lin", "count": len(rows)}
    data = json.dumps(head | {"observations": rows}).encode()
    (reply,) = [one for one in replies({"fred-PAYEMS.json": data}) if one.name == "fred-PAYEMS.json"]
    found, refused = digest(WEEK, [reply])
    assert not refused
    assert found["fred.PAYEMS.2025-09-01"].value == Decimal(159_593_000)
    assert not found.conflicts


@pytest.mark.parametrize("count", [3, 100_000])
def test_a_part_of_the_observations_is_refused(count: int) -> None:
    rows = [{"realtime_start": "2025-11-20", "date": "2025-09-01", "value": "159626"}]
    head = {"realtime_start": "2025-12-12", "realtime_end": "2025-12-12", "count": count, "limit": 1}
    data = json.dumps(head | {"observations": rows}).encode()
    (reply,) = [one for one in replies({"fred-PAYEMS.json": data}) if one.name == "fred-PAYEMS.json"]
    _, refused = digest(WEEK, [reply])
    assert f"1 of {count} observations: there are further pages" in refused[0]
