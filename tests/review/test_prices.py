"""Levels from files of a person's own: Parquet, total returns, parts of an index; weeks of clock changes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.formulas import derive
from stepwell.review.page import ReviewPage
from stepwell.review.signals.record import CLOSE
from stepwell.review.sources.base import Reply
from stepwell.review.verifier import verify
from stepwell.review.week import Week, week_of
from stepwell.review.writer import from_templates
from tests.review.sample import FRIDAY, WEEK, facts, page, raw

LEVELS = [(date(2025, 12, 5), 6850.0), (date(2025, 12, 11), None), (date(2025, 12, 12), 6806.84)]


def parquet(folder: Path, columns: str = "Date, Close") -> bytes:
    rows = ", ".join(f"(DATE '{day}', {'NULL' if level is None else level}::DOUBLE)" for day, level in LEVELS)
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM (VALUES {rows}) t({columns})) TO '{folder / 'x.parquet'}'")
    return (folder / "x.parquet").read_bytes()


def test_closes_of_a_parquet_file_are_traced_to_its_bytes(tmp_path: Path) -> None:
    changed = {"prices-SPX.csv": None, "prices-SPX.parquet": parquet(tmp_path)}
    found, refused = facts(changed)
    assert not refused
    assert found["w.SPX.last"].value == Decimal("6806.84")
    assert found["idx.SPX.close.2025-12-11"].missing
    data = page("en", changed)
    assert verify(data).faults == []
    forged = data.replace(b'"value": "6806.84"', b'"value": "6806.48"')
    assert any("its bytes give 6806.84" in fault for fault in verify(forged).faults)


@pytest.mark.parametrize(("cut", "said"), [(9, "cut short"), (0, "there is no column Close")])
def test_a_parquet_file_that_is_cut_or_renamed_is_refused(tmp_path: Path, cut: int, said: str) -> None:
    data = parquet(tmp_path, "Date, Last" if not cut else "Date, Close")
    _, (refused,) = facts({"prices-SPX.csv": None, "prices-SPX.parquet": data[: len(data) - cut]})
    assert said in refused


def test_total_returns_are_a_quantity_of_their_own() -> None:
    found, _ = facts({"total-SPX.csv": b"Date,Close\n2025-12-05,15000.00\n2025-12-12,14925.00\n"})
    assert found["w.SPX.total"].value == Decimal("-0.5")
    assert found["w.SPX.change"].number.quantize(Decimal("0.01")) == Decimal("-0.63")
    with pytest.raises(ValueError, match="quantities of one unit only"):
        derive(found, "x", "change_percent", "tri.SPX.close.2025-12-12", "idx.SPX.close.2025-12-05")
    text = re.sub("<[^>]+>", "", ReviewPage(found, from_templates(found), "en").html())
    assert "With dividends reinvested, the S&amp;P 500 lost 0.50%." in text


weights = st.lists(st.tuples(st.integers(1, 160), st.integers(-900, 900)), min_size=1, max_size=6)


@given(weights)
@settings(max_examples=25, deadline=None)
def test_contributions_and_what_they_leave_make_the_change(parts: list[tuple[int, int]]) -> None:
    rows = "".join(
        f"part {'abcdef'[n]},{Decimal(weight) / 10},{WEEK.base()},{FRIDAY},1000,{1000 + change}\n"
        for n, (weight, change) in enumerate(parts)
    )
    files = {"parts-SPX.csv": f"Name,Weight,From,To,Base,Last\n{rows}".encode()}
    files["prices-SPX.csv"] = raw()["prices-SPX.csv"]
    found, refused = digest(
        WEEK, [Reply(name.partition("-")[0], name, data, FRIDAY) for name, data in files.items()]
    )
    assert not refused
    made = [found[f"w.SPX.part.{number}"].number for number in range(len(parts))]
    assert made == [Decimal(weight) / 10 * change / 10 / 100 for weight, change in parts]
    whole = sum(made, found["w.SPX.residual"].number)
    assert abs(whole - found["w.SPX.change"].number) < Decimal("1e-25")
    assert verify(ReviewPage(found, from_templates(found), "zh").html().encode()).faults == []


def test_parts_of_other_days_contribute_nothing_and_weights_have_a_sum() -> None:
    data = raw()["parts-SPX.csv"]
    found, _ = facts({"parts-SPX.csv": data.replace(b"2025-12-05", b"2025-12-04")})
    assert not [one for one in found.texts if one.id == "parts.SPX"]
    _, (refused,) = facts({"parts-SPX.csv": data.replace(b",34.6,", b",74.6,")})
    assert "the weights come to 126.7 percent" in refused


@pytest.mark.parametrize(
    ("day", "before", "after"),
    [("2025-03-14", 21, 20), ("2025-11-07", 20, 21)],
    ids=["to summer time", "to winter time"],
)
def test_the_week_in_which_the_clock_changes_is_a_week(day: str, before: int, after: int) -> None:
    """In UTC the exchange closes an hour off; days are those of New York, so no change is a day off."""
    week = week_of(day)
    closes = [datetime.combine(one, CLOSE).astimezone(UTC) for one in (week.base(), week.last())]
    assert [one.hour for one in closes] == [before, after]
    assert [one.date() for one in closes] == [week.base(), week.last()]
    rows = "".join(f"{one},{100 + n}\n" for n, one in enumerate([week.base(), *week.sessions()]))
    found = one_week(week, f"Date,Close\n{rows}".encode())
    assert found["w.SPX.change"].value == 5
    assert (found["week.base"].value, found["week.last"].value) == (week.base(), week.last())


def one_week(week: Week, data: bytes) -> Facts:
    found, refused = digest(week, [Reply("prices", "prices-SPX.csv", data, week.friday)])
    assert not refused
    return found
