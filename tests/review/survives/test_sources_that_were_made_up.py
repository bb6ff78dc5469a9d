"""gpt-researcher 1572, agents-deep-research 15: nothing was found, so sources are invented."""

from __future__ import annotations

import re

import pytest

from stepwell.review.crew import handled, worded
from stepwell.review.digest import digest
from stepwell.review.outline import SECTIONS, sentences
from stepwell.review.page import ReviewPage
from stepwell.review.verifier import verify
from stepwell.review.writer import from_templates
from tests.review.sample import WEEK

HANDLES, SHOWN = handled(next(one for one in sentences() if one.id == "curve.10Y"))


def test_an_empty_week_has_empty_sections_and_no_source() -> None:
    found, _ = digest(WEEK, [])
    data = ReviewPage(found, from_templates(found), "en").html().encode()
    assert verify(data).faults == []
    text = data.decode().split("<script")[0]
    assert text.count("<p>No data.</p>") == len(SECTIONS)
    assert text.count("<li>") == text.split("Sources and method")[0].count("<li>")
    assert not re.search(r"https?://|www\.", text)


@pytest.mark.parametrize(
    "said",
    [
        "According to Reuters, the {a} Treasury yield {b} and ended at {c}.",
        "The {a} Treasury yield {b} and ended at {c}, example.com reports.",
        "The {a} Treasury yield {b} and ended at {c}, analysts said.",
        "The {a} Treasury yield {b} and ended at {c} because of inflation.",
        "The {a} Treasury yield {b} and ended at {c} at Goldman.",
    ],
)
def test_a_model_names_no_source_and_no_cause_of_its_own(said: str) -> None:
    assert worded(said, HANDLES, SHOWN) is None
    assert worded("In the week the {a} Treasury yield {b} and ended at {c}.", HANDLES, SHOWN) is not None
