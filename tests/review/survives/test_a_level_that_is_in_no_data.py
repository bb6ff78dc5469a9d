"""TradingAgents 830: a report names a level and support dates that the history of prices does not have."""

from __future__ import annotations

import pytest

from stepwell.review.crew import handled, worded
from stepwell.review.outline import sentences
from stepwell.review.verifier import verify
from tests.review.sample import page

HANDLES, SHOWN = handled(next(one for one in sentences() if one.id == "index.SPX"))


@pytest.mark.parametrize(
    "said",
    [
        "{a} {b} {c} and closed at {d}, above its Bollinger band of 6,912.",
        "{a} {b} {c} and closed at {d}, with support from November twenty.",
        "{a} {b} {c} and closed at {d}, a record.",
        "{a} {b} {c} and closed at {d}, near ６９００.",
    ],
)
def test_a_model_cannot_say_it(said: str) -> None:
    assert worded(said, HANDLES, SHOWN) is None


def test_the_verifier_finds_it_in_a_finished_page() -> None:
    text = page("en").decode().replace("and closed at", "and, above its band of 6912, closed at", 1)
    assert any("belongs to no cell" in fault for fault in verify(text.encode()).faults)
