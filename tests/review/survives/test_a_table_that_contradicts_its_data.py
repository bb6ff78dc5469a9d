"""Vibe-Trading 886: a tool's answer was cut, and the table contradicts the data that it claims to show."""

from __future__ import annotations

import re

import pytest

from stepwell.review.wording import printed
from tests.review.sample import facts, page, raw


def test_every_figure_of_the_chart_is_that_of_the_data() -> None:
    found, _ = facts()
    text = page("en").decode()
    shown = dict(
        re.findall(r'<tspan class="made" data-cell="(w\.\w+\.change)" data-form="signed">([^<]+)%<', text)
    )
    assert len(shown) == 5
    assert {name: f"{printed(found[name])}" for name in shown} == {
        name: value.replace("\u2212", "-").replace("+", "") for name, value in shown.items()
    }


@pytest.mark.parametrize("name", sorted(raw()))
def test_of_a_reply_that_was_cut_nothing_stays(name: str) -> None:
    if name.startswith("documents"):
        pytest.skip("a document's table may end anywhere; each of its lines is whole or refused")
    data = raw()[name].rstrip()
    found, refused = facts({name: data[: data.rindex(b",")] if name.endswith("csv") else data[:-20]})
    assert len(refused) == 1
    assert not [
        cell for cell in found.cells.values() if cell.place and found.names[cell.place.sha256] == name
    ]
