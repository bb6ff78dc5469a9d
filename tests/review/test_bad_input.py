"""Half of the sources away, an empty week, a week to come: a review that says so, or a sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell import cli
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES
from tests.review.sample import facts, page, raw


@given(st.sets(st.sampled_from(sorted(raw())), min_size=len(raw()) // 2))
@settings(max_examples=12, deadline=None)
def test_whatever_is_away_the_page_holds_and_says_what_is_missing(away: set[str]) -> None:
    for language in LANGUAGES:
        data = page(language, dict.fromkeys(away))
        assert verify(data).faults == []
        assert {"en": "What is missing", "zh": "缺失的数据"}[language] in data.decode()


@given(st.binary(max_size=400), st.sampled_from(sorted(raw())))
@settings(max_examples=60, deadline=None)
def test_no_reply_whatever_breaks_a_review(data: bytes, name: str) -> None:
    assert verify(page("en", {name: data})).faults == []


@pytest.mark.parametrize("name", ["cboe-VIX.csv", "prices-SPX.csv"])
def test_a_quotation_mark_that_does_not_end_is_refused(name: str) -> None:
    _, refused = facts({name: b'"'})
    assert len(refused) == 1


SHAPES = [
    b"[]", b"3", b"null", b'{"observations": [3]}', b'{"observations": [], "realtime_end": null}',
    b'{"treasury": {"auctions": [null]}}', b'{"soma": {"summary": [7]}}', b'{"treasury": 3, "soma": []}',
    b'{"data": [1], "meta": {"dataFormats": {"open_today_bal": "$1,000,000"}}}', b'{"data": [], "meta": []}',
    b'{"observations": [{"date": "2025-12-12", "value": {}}], "realtime_end": "2025-12-12", "count": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("name", ["fred-SOFR.json", "fiscaldata-tga.json", "nyfed-soma.json"])
def test_json_of_another_shape_is_refused_by_name(name: str) -> None:
    for shape in SHAPES:
        _, refused = facts({name: shape})
        assert [one for one in refused if name in one], shape


@pytest.mark.parametrize("seed", range(3))
def test_a_reply_with_a_wrong_byte_is_refused_or_read_as_it_stands(seed: int) -> None:
    chance = random.Random(seed)
    for name, data in raw().items():
        changed = bytearray(data)
        changed[chance.randrange(len(data))] = chance.randrange(256)
        assert verify(page("en", {name: bytes(changed)})).faults == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["write", "--week", "2049-12-30", "--from", "."], "the exchange's calendar ends on"),
        (["fetch", "--week", "2048-01-01", "--into", "x"], "has not been yet"),
        (["write", "--signals", "nothing.jsonl"], "nothing.jsonl cannot be read"),
        (["write", "--level", "choose", "--server", "http://127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_it_is_one_sentence(
    flags: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stepwell.agents.client.FIRST_WAIT_MS", 8)
    (tmp_path / "prices-SPX.csv").write_bytes(raw()["prices-SPX.csv"])
    assert cli.run(["review", *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip().count("\n") == 0


def test_without_a_network_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stepwell.review.fetch.BACKOFF_S", 0.0)
    flags = ["--source", "cboe", "--base-url", "cboe=http://127.0.0.1:9"]
    assert cli.run(["review", "fetch", "--week", "2025-12-12", "--into", str(tmp_path), *flags]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("not kept  cboe was not reached (")
    assert told[-1] == "nothing was fetched, 1 failed: is there a network, and are the keys set?"


def test_an_empty_week_is_a_page_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "prices-SPX.csv").write_bytes(raw()["prices-SPX.csv"])
    out = ["--out", str(tmp_path / "out"), "--week", "2024-03-01", "--from", str(mine)]
    assert cli.run(["review", "write", *out]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 sentences; ")
    assert "<p>No data.</p>" in (tmp_path / "out/review-2024-03-01.en.html").read_text("utf-8")
