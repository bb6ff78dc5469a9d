"""TradingAgents 1007: items without a date pass the filter, so news of the future enter a past run."""

from __future__ import annotations

import pytest

from tests.review.sample import facts

HEAD = "| id | unit | value | observed | known since | speaker |\n|---|---|---|---|---|---|\n"


@pytest.mark.parametrize("known", ["", "soon", "2025-13-01"])
def test_an_item_without_a_date_is_refused_with_its_line(known: str) -> None:
    table = f"{HEAD}| evt.fermi.prepayment | usd | 150000000 | | {known} | |\n"
    found, refused = facts({"documents-events.md": table.encode()})
    assert len(refused) == 1
    assert "documents-events.md" in refused[0]
    assert found.get("evt.fermi.prepayment") is None


def test_an_item_of_the_week_after_is_not_known() -> None:
    table = f"{HEAD}| evt.fermi.prepayment | usd | 150000000 | | 2025-12-15 | |\n"
    found, _ = facts({"documents-events.md": table.encode()})
    assert found["evt.fermi.prepayment"].missing == "it was not known by the end of the week"
