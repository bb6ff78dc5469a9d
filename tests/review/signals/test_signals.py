"""Signals on paper: nothing looks ahead, nothing can be changed afterwards, and what loses says so."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.review.signals.log import Broken, Writer, faults, read
from stepwell.review.signals.record import data_faults, record, tried
from stepwell.review.signals.rules import RULES, Closes, Rule, digest_of, looks_ahead
from stepwell.review.signals.score import LAG, earned, held_all_along, hindsight_positions, score
from stepwell.review.week import is_session

DAYS = [day for day in (date(2026, 1, 2) + timedelta(days=n) for n in range(180)) if is_session(day)]
levels = st.lists(st.decimals(min_value=50, max_value=200, places=2), min_size=4, max_size=70)
QUICK = Rule("quick", "hold above the close before", {"sessions": "2"}, RULES["trend"].decide)


def closes_of(values: list[Decimal]) -> Closes:
    return list(zip(DAYS, values, strict=False))


def walk(count: int, seed: int = 1) -> Closes:
    chance, level, found = random.Random(seed), Decimal(100), []
    for day in DAYS[:count]:
        level = (level * (1 + Decimal(chance.randrange(-200, 210)) / 10_000)).quantize(Decimal("0.01"))
        found.append((day, level))
    return found


def night_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 23, tzinfo=UTC)


def logged(path: Path, closes: Closes, rule: Rule = QUICK, first: int = 10) -> Writer:
    """A log to which a run was added on the evening of every session."""
    writer = Writer(path)
    for number in range(first, len(closes)):
        list(record(writer, rule, "SPX", closes[: number + 1], night_of(closes[number][0])))
    return writer


@given(levels, st.sampled_from(sorted(RULES)))
@settings(max_examples=50)
def test_later_closes_change_no_signal(values: list[Decimal], name: str) -> None:
    closes, rule = closes_of(values), RULES[name]
    assert looks_ahead(rule, closes) == []
    whole = hindsight_positions(rule, closes)
    for number in range(len(closes)):
        cut = hindsight_positions(rule, closes[: number + 1])
        assert cut.get(closes[number][0]) == whole.get(closes[number][0])


def test_a_rule_that_remembers_the_future_is_refused(tmp_path: Path) -> None:
    seen: list[Decimal] = []

    def decide(closes: Closes, parameters: Mapping[str, str]) -> Decimal:
        seen.append(closes[-1][1])
        return Decimal(int(max(seen) > closes[-1][1]))

    rule = Rule("cheat", "sells at the highest close", {}, decide)
    closes = walk(12)
    assert looks_ahead(rule, closes)
    seen.clear()
    with pytest.raises(BadInput, match="once later closes are known"):
        list(record(Writer(tmp_path / "log.jsonl"), rule, "SPX", closes, night_of(closes[-1][0])))


@given(levels, st.integers(0, 60))
@settings(max_examples=50)
def test_a_signal_earns_nothing_before_it_has_acted(values: list[Decimal], at: int) -> None:
    closes = closes_of(values)
    at %= len(closes)
    said = {day: Decimal(0) for day, _ in closes}
    base, _ = earned(said, closes, Decimal(5))
    more, _ = earned(said | {closes[at][0]: Decimal(1)}, closes, Decimal(5))
    changed = [day for (day, one), (_, two) in zip(base, more, strict=True) if one != two]
    assert all(day >= closes[min(at + LAG, len(closes) - 1)][0] for day in changed)


@given(levels)
@settings(max_examples=50)
def test_holding_by_signals_is_holding_less_one_purchase(values: list[Decimal]) -> None:
    closes = closes_of(values)
    rows, traded = earned({day: Decimal(1) for day, _ in closes}, closes, Decimal(10))
    held = held_all_along(closes, [day for day, _ in rows])
    assert traded == (1 if rows else 0)
    assert [one - two for (_, one), (_, two) in zip(held, rows, strict=True)] == [
        Decimal("0.001") if number == 0 else 0 for number in range(len(rows))
    ]


def test_what_is_written_in_time_is_forward_and_what_was_missed_is_late(tmp_path: Path) -> None:
    closes = walk(20)
    writer = Writer(tmp_path / "log.jsonl")
    list(record(writer, QUICK, "SPX", closes[:11], night_of(closes[10][0])))
    list(record(writer, QUICK, "SPX", closes[:15], night_of(closes[14][0])))
    signals = [line for line in writer.lines if line["kind"] == "signal"]
    assert [line["session"] for line in signals] == [str(day) for day, _ in closes[10:15]]
    assert [line["forward"] for line in signals] == [True, False, False, False, True]
    assert [line["acts"] for line in signals] == [str(day) for day, _ in closes[11:16]]
    assert not list(faults(read(writer.path)))


def test_a_session_that_has_not_closed_says_nothing(tmp_path: Path) -> None:
    closes = walk(12)
    noon = night_of(closes[-1][0]).replace(hour=16)
    added = list(record(Writer(tmp_path / "log.jsonl"), QUICK, "SPX", closes, noon))
    assert [line["session"] for line in added if line["kind"] == "signal"] == [str(closes[-2][0])]


def test_a_run_that_is_made_again_adds_nothing(tmp_path: Path) -> None:
    closes = walk(20)
    writer = logged(tmp_path / "log.jsonl", closes)
    before = writer.path.read_bytes()
    assert not list(record(Writer(writer.path), QUICK, "SPX", closes, night_of(closes[-1][0])))
    assert writer.path.read_bytes() == before


def test_every_rule_that_was_tried_is_counted(tmp_path: Path) -> None:
    closes = walk(20)
    writer = logged(tmp_path / "log.jsonl", closes)
    other = Rule("quick", QUICK.says, {"sessions": "3"}, QUICK.decide)
    list(record(writer, other, "SPX", closes, night_of(closes[-1][0])))
    assert len(tried(writer.lines)) == 2


@given(data=st.data())
@settings(max_examples=60)
def test_a_changed_log_does_not_hold(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = logged(path, walk(16)).lines
    at = data.draw(st.integers(0, len(lines) - 2))
    kind = data.draw(st.sampled_from(["drop", "swap", "change", "again"]))
    changed = [dict(line) for line in lines]
    if kind == "drop":
        del changed[at]
    elif kind == "swap":
        changed[at], changed[at + 1] = changed[at + 1], changed[at]
    elif kind == "again":
        changed.insert(at, dict(changed[at]))
    else:
        name = data.draw(st.sampled_from(sorted(set(changed[at]) - {"n", "kind"})))
        changed[at][name] = "0" if changed[at][name] != "0" else "1"
    assert list(faults(list(changed)))


def test_a_log_that_somebody_else_wrote_anew_is_signed_by_another_key(tmp_path: Path) -> None:
    closes = walk(16)
    mine, other = logged(tmp_path / "a.jsonl", closes), logged(tmp_path / "b.jsonl", closes)
    assert not list(faults(other.lines))
    assert "the log is signed with another key" in list(faults(other.lines, mine.lines[0]["key"]))


def test_a_history_that_was_revised_is_found(tmp_path: Path) -> None:
    closes = walk(20)
    lines = logged(tmp_path / "log.jsonl", closes).lines
    assert not list(data_faults(lines, QUICK, "SPX", closes))
    revised = [(day, close + (day == closes[3][0])) for day, close in closes]
    assert digest_of(revised) != digest_of(closes)
    assert any("have changed since" in one for one in data_faults(lines, QUICK, "SPX", revised))


def test_a_log_that_is_cut_short_or_broken_takes_no_line(tmp_path: Path) -> None:
    path = logged(tmp_path / "log.jsonl", walk(16)).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(Broken, match="cut short"):
        Writer(path)
    path.write_bytes(whole.replace(b'"position": "0"', b'"position": "1"', 1))
    with pytest.raises(Broken, match="was changed after it was written"):
        Writer(path)


def test_the_key_is_for_its_owner_alone_and_in_no_line(tmp_path: Path) -> None:
    path = logged(tmp_path / "log.jsonl", walk(12)).path
    key = path.with_suffix(".key")
    assert key.stat().st_mode & 0o077 == 0
    assert key.read_text().strip() not in path.read_text()


def test_figures_are_those_of_the_returns() -> None:
    days = DAYS[:3]
    found = score(list(zip(days, map(Decimal, ("0.10", "-0.20", "0.05")), strict=True)))
    assert found.total == pytest.approx((1.10 * 0.80 * 1.05 - 1) * 100)
    assert found.max_drawdown == pytest.approx(-20)
    assert score([]).total is None


def test_lines_are_json_that_anybody_can_read(tmp_path: Path) -> None:
    path = logged(tmp_path / "log.jsonl", walk(14)).path
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["open", "rule", *["signal"] * 4]
