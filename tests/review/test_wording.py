"""How values read in two languages, and that templates say nothing of their own."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.review.facts import Cell, CellPlace, Unit
from stepwell.review.outline import Handle, pieces_of, sentences
from stepwell.review.page import CONFLICTS, WORDS
from stepwell.review.verifier import Mark, Verification, _check_mark, untraced
from stepwell.review.wording import LANGUAGES, MOVES, Language, word


def cell(value: Decimal | date | str, unit: Unit) -> Cell:
    return Cell("c", unit, value, observed=date(2025, 12, 12), place=CellPlace("0", "csv", "0/x"))


@pytest.mark.parametrize(
    ("value", "unit", "english", "chinese"),
    [
        ("40000000000", Unit.USD, "$40 billion", "400亿美元"),
        ("12340000000", Unit.USD, "$12.34 billion", "123.4亿美元"),
        ("1200000000000", Unit.USD, "$1.2 trillion", "1.2万亿美元"),
        ("150000000", Unit.USD, "$150 million", "1.5亿美元"),
        ("-60000", Unit.COUNT, "\u221260,000", "\u22126万"),
        ("-1.625", Unit.PERCENT, "\u22121.62%", "\u22121.62%"),
        ("-0.004", Unit.PERCENT, "0.00%", "0.00%"),
        ("25", Unit.BASIS_POINTS, "25 basis points", "25个基点"),
        ("1", Unit.BASIS_POINTS, "1 basis point", "1个基点"),
        ("0.2", Unit.PERCENTAGE_POINTS, "0.20 percentage points", "0.20个百分点"),
        ("2027", Unit.YEAR, "2027", "2027年"),
    ],
)
def test_values_read_as_the_press_writes_them(value: str, unit: Unit, english: str, chinese: str) -> None:
    one = cell(Decimal(value), unit)
    assert (word(one, "value", "en"), word(one, "value", "zh")) == (english, chinese)


@pytest.mark.parametrize(
    ("value", "unit", "form", "english", "chinese"),
    [
        ("-4", Unit.BASIS_POINTS, "move", "fell by 4 basis points", "下行4个基点"),
        ("0.004", Unit.PERCENT, "move", "was unchanged", "持平"),
        ("-1.62", Unit.PERCENT, "gained", "lost 1.62%", "下跌1.62%"),
        ("-25", Unit.BASIS_POINTS, "set", "was cut by 25 basis points", "下调25个基点"),
        ("0", Unit.BASIS_POINTS, "set", "was left unchanged", "维持不变"),
        ("-60000", Unit.COUNT, "revised", "were revised down by 60,000", "下修6万人"),
        ("119000", Unit.COUNT, "hired", "grew by 119,000", "增加11.9万人"),
        ("1.05", Unit.PERCENT, "signed", "+1.05%", "+1.05%"),
        ("0.001", Unit.PERCENT, "signed", "0.00%", "0.00%"),
    ],
)
def test_a_move_is_said_as_one(value: str, unit: Unit, form: str, english: str, chinese: str) -> None:
    one = cell(Decimal(value), unit)
    assert (word(one, form, "en"), word(one, form, "zh")) == (english, chinese)


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("fell by 4 basis points", "move", "4"),
        ("was unchanged", "move", "4"),
        ("rose 4 basis points", "move", "4"),
        ("rose by \u22124 basis points", "move", "4"),
        ("was cut by 4 basis points", "move", "-4"),
        ("was raised by 25 basis points", "set", "-25"),
        ("4 basis points", "signed", "4"),
        ("+\u22124 basis points", "signed", "-4"),
    ],
)
def test_a_move_that_is_another_is_refused(text: str, form: str, value: str) -> None:
    verdict = Verification()
    row = {"value": value, "unit": "basis_points", "observed": "2025-12-12"}
    _check_mark(Mark("c", form, {}, text), {"c": row}, verdict)
    assert len(verdict.faults) == 1


def test_a_weekday_is_the_days_own() -> None:
    one = cell(date(2025, 12, 13), Unit.DATE)
    assert word(one, "value", "en") == "Saturday, December 13, 2025"
    assert word(one, "value", "zh") == "2025年12月13日星期六"


@given(
    st.decimals(min_value=-(10**14), max_value=10**14, places=4),
    st.sampled_from([unit for unit in Unit if unit not in (Unit.DATE, Unit.NAME, Unit.YEAR)]),
    st.sampled_from(["value", "magnitude", "verb", "signed", "move", *MOVES]),
    st.sampled_from(LANGUAGES),
)
def test_whatever_is_printed_is_read_back(value: Decimal, unit: Unit, form: str, language: Language) -> None:
    """The renderer and the verifier share no code: each value that one prints the other accepts."""
    one = cell(value, unit)
    verdict = Verification()
    row = {"value": str(value), "unit": unit.value, "observed": "2025-12-12"}
    _check_mark(Mark("c", form, {}, word(one, form, language)), {"c": row}, verdict)
    assert not verdict.faults


@pytest.mark.parametrize("sentence", sentences(), ids=lambda one: one.id)
def test_templates_say_no_number_and_no_direction(sentence: object) -> None:
    for language in LANGUAGES:
        for way in sentence.variants[language]:  # type: ignore[attr-defined]
            for piece in way:
                assert isinstance(piece, Handle) or not list(untraced(piece)), (language, piece)


def test_words_of_the_page_say_no_number_and_no_direction() -> None:
    texts = [text for table in (WORDS, CONFLICTS) for words in table.values() for text in words.values()]
    for text in texts:
        for piece in pieces_of(text):
            assert isinstance(piece, Handle) or not list(untraced(piece)), text


@pytest.mark.parametrize("sentence", sentences(), ids=lambda one: one.id)
def test_every_wording_of_a_sentence_says_the_same_cells(sentence: object) -> None:
    said = [
        {piece.cell for piece in way if isinstance(piece, Handle)}
        for ways in sentence.variants.values()  # type: ignore[attr-defined]
        for way in ways
    ]
    assert all(cells == said[0] for cells in said)


@pytest.mark.parametrize("text", ["{", "a }", "{a{b}", "{a"])
def test_a_brace_without_its_partner_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="brace"):
        pieces_of(text)
