"""Replies in the real formats, and what sites send instead of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from stepwell.review.digest import digest, source
from stepwell.review.facts import Facts
from stepwell.review.sources.base import SourceError
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import WEEK, facts, page, raw, replies

NAMES = sorted(name for name in raw() if not name.startswith("documents"))


def refusal(name: str, data: bytes) -> str:
    (reply,) = [one for one in replies({name: data}) if one.name == name]
    with pytest.raises(SourceError) as failed:
        source(reply.source).read(Facts(), reply)
    return str(failed.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_web_page_instead_of_data_is_refused_with_its_first_bytes(name: str) -> None:
    said = refusal(name, b"<!DOCTYPE html><html><body>Service unavailable</body></html>")
    assert name in said
    assert "a web page instead of data; the reply begins '<!DOCTYPE html>" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_is_cut_short_is_refused(name: str) -> None:
    data = raw()[name].rstrip()
    cut = data[: data.rindex(b",")] if name.endswith("csv") else data[: len(data) * 2 // 3]
    assert name in refusal(name, cut)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_reply_is_refused(name: str) -> None:
    assert "an empty reply" in refusal(name, b" \n")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("prices-SPX.csv", b"Close", b"Last"),
        ("cboe-VIX.csv", b"CLOSE", b"SHUT"),
        ("fred-SOFR.json", b"observations", b"observed"),
        ("treasury-curve-202512.xml", b"BC_10YEAR", b"BC_TENYEAR"),
        ("fiscaldata-tga.json", b"$1,000,000", b"$1"),
        ("fiscaldata-tga.json", b'"total-pages": 1', b'"total-pages": 2'),
        ("nyfed-purchases.json", b"auctions", b"operations"),
        ("nyfed-purchases.json", b"totalParAmtAccepted", b"parAmountAccepted"),
        ("nyfed-sofr.json", b"percentRate", b"rate"),
        ("nyfed-sofr.json", b'"SOFR"', b'"EFFR"'),
        ("nyfed-repo.json", b"totalAmtAccepted", b"accepted"),
        ("nyfed-effr.json", b"refRates", b"rates"),
        ("fiscaldata-tga.json", b"open_today_bal", b"opening_balance"),
        ("fred-SOFR.json", b'"value"', b'"level"'),
        ("fred-release-cpi.json", b"release_dates", b"dates"),
        ("fred-release-cpi.json", b'"release_id": 10', b'"release_id": 50'),
        ("bls-levels.json", b'"value"', b'"level"'),
        ("bls-levels.json", b"seriesID", b"series"),
        ("edgar-0001341439.json", b"filingDate", b"filed"),
        ("edgar-0001341439.json", b'"1341439"', b'"1730168"'),
        ("nyfed-soma.json", b'"frn": "6300000000"', b'"frn": ""'),
    ],
)
def test_a_renamed_column_or_unit_is_refused(name: str, before: bytes, after: bytes) -> None:
    assert name in refusal(name, raw()[name].replace(before, after))


def test_a_column_that_was_added_is_passed_over() -> None:
    data = raw()["prices-SPX.csv"].replace(b"Close\n", b"Close,Volume\n").replace(b"\n2025", b",1\n2025")
    found, refused = facts({"prices-SPX.csv": data.replace(b",1\n", b"\n", 1).rstrip() + b",1\n"})
    assert not refused
    assert found["w.SPX.change"].value is not None


def test_missing_marks_are_missing_and_never_zero() -> None:
    found, _ = facts()
    assert found["fred.SOFR.2025-12-12"].missing == "FRED, SOFR has no value for 2025-12-12"
    assert found["fred.UNRATE.2025-10-01"].value is None


def test_the_closing_balance_stands_in_the_opening_column() -> None:
    found, _ = facts()
    assert found["tga.close.2025-12-12"].value == Decimal(848_660_000_000)


def test_a_balance_that_does_not_carry_over_is_a_contradiction() -> None:
    data = raw()["fiscaldata-tga.json"].replace(b'"884150"', b'"884151"', 1)
    found, _ = facts({"fiscaldata-tga.json": data})
    assert "sum" in [conflict.kind for conflict in found.conflicts]


def test_two_sources_that_differ_are_a_fact() -> None:
    other = b"Date,Close\n2025-12-12,6806.99\n"
    found, _ = facts({"prices-SPX.other.csv": other})
    (conflict,) = [one for one in found.conflicts if one.kind == "sources"]
    assert conflict.cells == ("idx.SPX.close.2025-12-12", "idx.SPX.close.2025-12-12~2")


def test_a_source_that_is_away_leaves_its_sentences_out() -> None:
    found, _ = facts({"treasury-curve-202512.xml": None})
    assert found["w.curve.10Y"].missing
    assert found["w.SPX.change"].value is not None


def test_rates_of_two_sources_that_differ_are_a_contradiction() -> None:
    data = raw()["nyfed-sofr.json"].replace(b"3.67", b"3.66")
    found, _ = facts({"nyfed-sofr.json": data})
    assert ("fred.SOFR.2025-12-11", "nyfed.sofr.2025-12-11") in [one.cells for one in found.conflicts]
    assert "sources" not in [one.kind for one in facts()[0].conflicts]


def test_a_statistic_that_was_asked_for_on_a_weekend_is_no_release_of_a_weekend() -> None:
    asked = [replace(one, fetched=date(2025, 12, 13)) for one in replies() if one.source == "bls"]
    found, _ = digest(WEEK, asked)
    assert found["bls.cpi.2025-09-01"].known_since == date(2025, 12, 13)
    assert not found.conflicts


def test_the_rate_of_friday_is_not_known_by_the_end_of_its_week() -> None:
    row = b'{"effectiveDate": "2025-12-12", "type": "SOFR", "percentRate": 3.7},'
    data = raw()["nyfed-sofr.json"].replace(b'"refRates": [', b'"refRates": [' + row)
    found, _ = facts({"nyfed-sofr.json": data})
    assert found["nyfed.sofr.2025-12-12"].missing == "it was not known by the end of the week"
    assert found["w.sofr"].observed == date(2025, 12, 11)


def test_closes_come_from_fred_where_there_is_no_file() -> None:
    rows = [("2025-12-05", "6850.00"), ("2025-12-12", "6806.84"), ("2025-12-11", ".")]
    listed = [{"realtime_start": "2025-12-15", "date": day, "value": value} for day, value in rows]
    reply = {"realtime_start": "2025-12-12", "realtime_end": "9999-12-31", "observations": listed}
    found, refused = facts({"prices-SPX.csv": None, "fred-SP500.json": json.dumps(reply).encode()})
    assert not refused
    assert found["w.SPX.change"].number.quantize(Decimal("0.01")) == Decimal("-0.63")
    assert found["idx.SPX.close.2025-12-12"].known_since == date(2025, 12, 12)


def test_repos_of_a_day_are_added_up_and_filings_of_the_week_are_said() -> None:
    found, _ = facts()
    assert found["w.repo"].value == 1_450_000_000
    filed = [one.id.split(".")[1] for one in found.texts if one.id.startswith("filing.")]
    assert filed == ["Oracle", "Oracle", "Broadcom"]


OWN = (
    "| id | unit | value | observed | known since | speaker | en | zh |\n|---|---|---|---|---|---|---|---|\n"
)


def own(text: str, chinese: str = "英伟达预计支出{it:move}。") -> bytes:
    row = f"| evt.nvidia.capex | usd | 4000000000 | 2025-12-11 | 2025-12-11 | Nvidia | {text} | {chinese} |\n"
    return (OWN + row).encode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_row_may_bring_its_own_sentence(language: Language) -> None:
    data = page(language, {"documents-mine.md": own("Nvidia's planned spending {it:move}.")})
    assert verify(data).faults == []
    text = re.sub(r"<[^>]+>", "", data.decode()).replace("&#x27;", "'")
    wanted = {
        "en": "Nvidia's planned spending increased by $4 billion, according to Nvidia.",
        "zh": "据Nvidia称，英伟达预计支出增加40亿美元。",
    }
    assert wanted[language] in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Nvidia's spending doubled to {it}.", "'doubled' has to be a cell"),
        ("Nvidia will spend 4 billion.", "'4' has to be a cell"),
        ("Nvidia {it", "a brace has no partner"),
        ("", "written in both columns"),
    ],
)
def test_a_sentence_of_ones_own_says_nothing_that_a_cell_has_to(text: str, said: str) -> None:
    assert said in refusal("documents-events.md", own(text))


def test_two_texts_that_disagree_in_unit_do_not_fit() -> None:
    other = raw()["documents-events.md"].replace(
        b"| evt.oracle.contract | usd |", b"| evt.oracle.contract | count |"
    )
    data = page("en", {"documents-other.md": other})
    assert b"different units: $300 billion" in re.sub(rb"<[^>]+>", b"", data)
    assert verify(data).faults == []
