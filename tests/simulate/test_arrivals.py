"""Arrival processes: rates and spreads are those asked for; ServeGen's clients keep theirs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from stepwell.errors import BadInput
from stepwell.simulate.arrivals import Arrivals, arranged, gap_s, read_clients
from stepwell.simulate.generated import generated


@pytest.mark.parametrize(
    ("text", "cv"), [("poisson:2", 1.0), ("gamma:2:3", 3.0), ("weibull:2:0.5", 0.5), ("weibull:2:2", 2.0)]
)
def test_gaps_have_the_mean_and_spread_asked_for(text: str, cv: float) -> None:
    base = generated(sessions=1)
    many = replace(base, sessions=base.sessions * 20_000)
    starts = [s.start_us / 1e6 for s in arranged(many, Arrivals.parse(text), 7).sessions]
    gaps = [later - sooner for sooner, later in pairwise(starts)]
    assert fmean(gaps) == pytest.approx(0.5, rel=0.1)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.15)


@pytest.mark.parametrize(
    "text",
    [
        "poisson",
        "poisson:0",
        "poisson:-1",
        "poisson:x",
        "gamma:1",
        "gamma:1:0",
        "weibull:1:99",
        "often",
        "gamma:nan:1",
    ],
)
def test_a_wrong_process_is_one_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="--arrivals"):
        Arrivals.parse(text)


@pytest.mark.parametrize("family", ["G", "W"])
def test_a_gap_has_the_mean_of_its_window(family: str) -> None:
    draw = random.Random(1)
    assert fmean(gap_s(draw, family, 0.6, 4.0) for _ in range(40_000)) == pytest.approx(4.0, rel=0.1)


def test_sessions_begin_as_the_clients_do(tmp_path: Path) -> None:
    rows = [
        {"category": "c", "model": "m", "client": n, "window_s": 600, "trace": [[at, rate, 1, "W", 0.5, 1.0]]}
        for n, at, rate in ((0, 0, 9.0), (1, 6000, 1.0))
    ]
    file = tmp_path / "clients.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [client.name for client in read_clients(file)[0]] == ["c-m-0", "c-m-1"]
    found = arranged(generated(sessions=200), Arrivals.parse(f"servegen:{file}"), 3)
    assert found.sessions[0].start_us >= 0
    first = [s for s in found.sessions if s.tenant == "c-m-0"]
    second = [s for s in found.sessions if s.tenant == "c-m-1"]
    assert len(first) > 3 * len(second) > 0 and len(first) + len(second) == 200
    assert all(s.start_us <= 600_000_000 for s in first)
    assert all(6_000_000_000 <= s.start_us <= 6_600_000_000 for s in second)
    assert {s.service_tier for s in first} == {"priority"}
    assert [s.start_us for s in found.sessions] == sorted(s.start_us for s in found.sessions)


def test_malformed_clients_are_named_and_refused_past_a_share(tmp_path: Path) -> None:
    rows = [
        {"category": "c", "model": "m", "client": n, "window_s": 600, "trace": [[0, 2.0, 1, "G", 1.0, 1.0]]}
        for n in range(30)
    ]
    good, file = [json.dumps(row) for row in rows], tmp_path / "clients.jsonl"
    file.write_text("\n".join([*good, "{"]), encoding="utf-8")
    clients, bad = read_clients(file)
    assert len(clients) == 30 and bad.startswith("1 of 31 lines") and "line 31: it is no JSON" in bad
    found = arranged(generated(sessions=5), Arrivals.parse(f"servegen:{file}"), 3)
    assert any("line 31" in note for note in found.notes)
    wrong = json.dumps(rows[0] | {"trace": [[0, 1, 1, "Q", 1, 1]]})
    file.write_text("\n".join([*good, *[wrong] * 3]), encoding="utf-8")
    with pytest.raises(BadInput, match="more than 5% is malformed: 3 of 33"):
        read_clients(file)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"trace": [[0, 1, 1, "Q", 1, 1]], "category": 1, "model": 1, "client": 1, "window_s": 600}'],
)
def test_what_is_no_file_of_clients_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "clients.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="servegen"):
        read_clients(file)
