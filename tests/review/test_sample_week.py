"""The sample week: what it says, what it finds, and that it says the same again."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from stepwell.review.facts import Origin
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language, printed
from stepwell.review.writer import from_templates
from tests.review.sample import facts, page

CHANGES = {"IXIC": "-1.62", "SPX": "-0.63", "DJI": "1.05", "RUT": "1.19", "SOX": "-3.58"}


def test_the_five_weekly_changes_come_out() -> None:
    found, refused = facts()
    assert not refused
    assert {name: printed(found[f"w.{name}.change"]) for name in CHANGES} == {
        name: Decimal(change) for name, change in CHANGES.items()
    }


def test_every_contradiction_of_the_week_is_found() -> None:
    found, _ = facts()
    assert [conflict.kind for conflict in found.conflicts] == ["weekday", "product_agrees", "start", "claim"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_holds_and_repeats_to_the_byte(language: Language) -> None:
    data = page(language)
    assert verify(data).faults == []
    assert page(language) == data


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_that_must_be_said_is(language: Language) -> None:
    found, _ = facts()
    must = {cell for sentence in from_templates(found).said() for cell in sentence.must}
    shown = set(re.findall(r'data-cell="([^"]+)"', page(language).decode()))
    assert must <= shown
    assert len(must) >= 17


def test_both_languages_say_the_same_cells() -> None:
    marks = [
        {
            one
            for one in re.findall(r'data-cell="([^"]+)"', page(language).decode())
            if not one.startswith("name.")
        }
        for language in LANGUAGES
    ]
    assert marks[0] == marks[1]


def test_what_is_made_up_is_said_to_be() -> None:
    found, _ = facts()
    assert found["w.SPX.change"].origin is Origin.MADE
    assert b'class="made">Sample' in page("en")


def test_a_claim_is_printed_with_its_speaker() -> None:
    text = re.sub(r"<[^>]+>", "", page("en").decode())
    assert "According to the text of that week, payrolls were revised down by 60,000." in text
    assert "According to analysts, Oracle&#x27;s cumulative loss of cash could come to $70 billion" in text
