"""LiteLLM 21376: the first page of a list is added up and called the total."""

from __future__ import annotations

import pytest

from tests.review.sample import facts, raw


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("fiscaldata-tga.json", b'"total-pages": 1', b'"total-pages": 2'),
        ("fiscaldata-tga.json", b'"total-pages": 1', b'"total-pages": 1, "total-count": 4000'),
        ("fred-SOFR.json", b'"units": "lin"', b'"units": "lin", "count": 4000, "limit": 6'),
        ("fred-SOFR.json", b'"units": "lin"', b'"units": "lin", "offset": 6'),
    ],
)
def test_a_part_is_refused(name: str, before: bytes, after: bytes) -> None:
    _, refused = facts({name: raw()[name].replace(before, after)})
    assert len(refused) == 1
    assert "there are further pages" in refused[0]


def test_parts_that_do_not_make_the_total_are_refused() -> None:
    data = raw()["nyfed-soma.json"].replace(b'"frn": "6300000000"', b'"frn": "630000000"', 1)
    _, refused = facts({"nyfed-soma.json": data})
    assert "do not add up to the total" in refused[0]
