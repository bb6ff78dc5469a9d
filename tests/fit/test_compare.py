"""Aims, reached or not; what a penalty saves; the report and its chart."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.crews.files import find_crew
from stepwell.agents.crews.profile import Profile, load_profile
from stepwell.errors import BadInput
from stepwell.fit.chart import draw, frontier
from stepwell.fit.compare import WITHOUT_PENALTY, Finding, findings, show
from stepwell.fit.memo import Memo, MemoCounts
from stepwell.fit.outcomes import Evaluation, ItemOutcome
from stepwell.fit.report import CHART_FILE, JSON_FILE, PROFILE_FILE, REPORT_FILE, Fit, as_json, write
from stepwell.fit.search import Search, SearchTarget
from stepwell.fit.statistics import Estimate, Resamples
from tests.fit.quiz import Counted, always, crew, evaluator, said_by

DRAWS = Resamples(count=400)
SVG = "{http://www.w3.org/2000/svg}"


def made_up(label: str, right: Sequence[bool], cost: int, intermediate: int = 0) -> Evaluation:
    outcomes = (
        ItemOutcome(str(n), one, "completed", cost_microusd=cost, turns=1, intermediate_tokens=intermediate)
        for n, one in enumerate(right)
    )
    return Evaluation(label, None if label == "single" else Profile(label), tuple(outcomes))


def rights(count: int, of: int = 100) -> list[bool]:
    return [n < count for n in range(of)]


SINGLE, PRO = made_up("single", rights(40), 10), made_up("pro", rights(60), 100)
FLASH = made_up("flash", rights(57), 35, 20)


def found(*evaluations: Evaluation) -> dict[str, Finding]:
    return {one.says: one for one in findings(evaluations, DRAWS)}


def test_the_three_aims_are_judged_by_their_figures() -> None:
    made = found(SINGLE, FLASH, PRO)
    gain = made["pro over the single call"]
    assert gain.estimate is not None
    assert (round(gain.estimate.value, 6), gain.target, gain.reached) == (20, 15, True)
    kept = made["flash keeps of pro's gain"]
    assert kept.estimate is not None
    assert (round(kept.estimate.value, 6), kept.target, kept.reached) == (85, 80, True)
    cost = made["flash: its cost against pro's"]
    assert cost.estimate is not None
    assert (round(cost.estimate.value, 6), cost.target, cost.reached) == (35, 40, True)


def test_aims_that_are_missed_say_so() -> None:
    made = found(SINGLE, made_up("flash", rights(45), 41), made_up("pro", rights(54), 100))
    assert [made[name].reached for name in made if made[name].target is not None] == [False, False, False]
    assert "NOT reached" in made["pro over the single call"].line()


def test_where_pro_gains_nothing_there_is_nothing_to_keep() -> None:
    made = found(SINGLE, FLASH, made_up("pro", rights(30), 100))
    kept = made["flash keeps of pro's gain"]
    assert (kept.estimate, kept.reached) == (None, False)
    assert "no meaning here" in kept.line()


def test_other_profiles_are_compared_without_aims() -> None:
    made = found(SINGLE, PRO, made_up("mine", rights(50), 50))
    assert made["mine keeps of pro's gain"].target is None
    assert made["mine: its cost against pro's"].reached is None


def test_a_penalty_is_weighed_tokens_against_accuracy() -> None:
    off = made_up(f"flash {WITHOUT_PENALTY}", rights(59), 70, 40)
    made = found(SINGLE, FLASH, off, PRO)
    saved = made["flash: intermediate tokens that its penalty saves"].estimate
    lost = made["flash: accuracy that its penalty loses"].estimate
    cheaper = made["flash: cost that its penalty saves"].estimate
    assert saved is not None
    assert lost is not None
    assert cheaper is not None
    assert (saved.value, round(lost.value, 6), cheaper.value) == (50, 2, 50)
    assert not any(name.startswith(f"flash {WITHOUT_PENALTY}") for name in made)


def test_figures_in_words() -> None:
    assert show(Estimate(3.25, -1.0, 7.5), " points") == "+3.2 points (-1.0 to 7.5)"
    assert show(Estimate(3.25, None, None), " %") == "3.2 % (not bounded by so few items)"
    line = Finding("x", " %", Estimate(50, 40, 60), target=40, at_most=True).line()
    assert line == "x: 50.0 % (40.0 to 60.0); target at most 40 %: NOT reached"


def test_a_finding_without_bounds_is_null_for_machines() -> None:
    data = Finding("x", " %", Estimate(50, None, None)).as_json()
    assert (data["value"], data["low"], data["reached"]) == (50, None, None)


# --- the frontier ----------------------------------------------------------------------------------


def test_the_frontier_is_what_none_beats() -> None:
    worse = made_up("worse", rights(40), 60)
    same = made_up("dearer", rights(60), 110)
    assert frontier([PRO, worse, SINGLE, same, FLASH], True) == [SINGLE, FLASH, PRO]
    assert frontier([SINGLE], True) == [SINGLE]


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 9)), min_size=1, max_size=12))
def test_whatever_is_not_on_the_frontier_is_beaten_by_one_that_is(figures: list[tuple[int, int]]) -> None:
    candidates = [made_up(str(n), rights(right, 10), cost) for n, (right, cost) in enumerate(figures)]
    best = frontier(candidates, True)
    for one in candidates:
        beaten = any(
            other.share >= one.share and other.mean_cost(True) <= one.mean_cost(True)
            for other in best
            if other is not one
        )
        assert (one in best) != beaten
    assert [one.share for one in best] == sorted({one.share for one in best})


@pytest.mark.parametrize("in_money", [True, False])
def test_the_chart_shows_every_candidate_inside_its_frame(in_money: bool) -> None:
    candidates = [SINGLE, FLASH, PRO, made_up("free <&>", rights(0), 0)]
    svg = ET.fromstring(draw("<title>", candidates, [SINGLE, PRO], in_money, ["single", "flash", "pro"]))
    dots = [one for one in svg.iter(f"{SVG}circle") if one.find(f"{SVG}title") is not None]
    assert len(dots) == 4
    for one in dots:
        assert 0 <= float(one.attrib["cx"]) <= 960
        assert 0 <= float(one.attrib["cy"]) <= 560
    texts = [one.text or "" for one in svg.iter(f"{SVG}text")]
    assert any("USD" in text if in_money else "tokens per item" in text for text in texts)
    assert len([one for one in svg.iter(f"{SVG}line") if one.get("class") == "span"]) == 2
    if in_money:
        assert {"single", "flash", "pro"} <= {name for text in texts for name in text.split(", ")}


# --- the report ------------------------------------------------------------------------------------


async def fitted(tmp_path: Path, costs: bool = True) -> Fit:
    async with evaluator(tmp_path, Counted(said_by(always), costs=costs), memo=Memo()) as here:
        fit_half, held_out = here.tasks.halves()
        search = Search(here, fit_half, SearchTarget(), DRAWS)
        chosen = await search.run()
        assert chosen.profile is not None
        looked = [await here.single(held_out)]
        looked += [
            await here.profile(one, held_out) for one in (Profile("flash"), Profile("pro"), chosen.profile)
        ]
        return Fit(search, chosen, looked, MemoCounts(40, 60), True, "scripted")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return asyncio.run(fitted(tmp_path_factory.mktemp("fit")))


def test_the_report_says_what_went_and_why_and_what_it_is_worth(done: Fit, tmp_path: Path) -> None:
    files = write(done, tmp_path / "new" / "out")
    assert [file.name for file in files] == [PROFILE_FILE, REPORT_FILE, CHART_FILE, JSON_FILE]
    report = (tmp_path / "new" / "out" / REPORT_FILE).read_text()
    assert f"- Chosen: {done.search.chosen_label}. Dropped: the planner, the critic." in report
    assert done.search.chosen_label.startswith("without")
    assert "| the scout: dropped | no | +75.0 points" in report
    assert "the target is missed without it" in report
    assert "right answers more per USD" in report
    assert "40 turns were asked, 60 remembered" in report
    assert f"]({CHART_FILE})" in report
    for line in report.splitlines():
        if line.startswith("| pro |"):
            assert "100.0 %" in line
    ET.fromstring((tmp_path / "new" / "out" / CHART_FILE).read_text())


def test_the_written_profile_is_loaded_again_and_does_what_was_measured(done: Fit, tmp_path: Path) -> None:
    write(done, tmp_path)
    loaded = load_profile(tmp_path / PROFILE_FILE)
    assert loaded == done.fitted.profile

    async def again() -> Evaluation:
        async with evaluator(tmp_path, Counted(said_by(always))) as here:
            return await here.profile(loaded, here.tasks.halves()[0])

    assert asyncio.run(again()).outcomes == done.fitted.outcomes


def test_machines_get_every_figure(done: Fit, tmp_path: Path) -> None:
    write(done, tmp_path)
    data = json.loads((tmp_path / JSON_FILE).read_text())
    assert data == json.loads(json.dumps(as_json(done)))
    assert sorted(data["dropped"]) == ["the critic", "the planner"]
    assert [one["label"] for one in data["held_out"]] == ["single", "flash", "pro", "fitted"]
    assert len(data["held_out"][0]["outcomes"]) == 20
    assert data["reached"] is True
    assert {one["part"] for one in data["worths"]} == {"the planner", "the scout", "the critic"}
    assert set(data["frontier"]) <= {one["label"] for one in data["candidates"]}


def test_a_report_without_prices_speaks_of_tokens(tmp_path: Path) -> None:
    done = asyncio.run(fitted(tmp_path, costs=False))
    write(done, tmp_path)
    report = (tmp_path / REPORT_FILE).read_text()
    assert "USD per" not in report
    assert "right answers more per million tokens" in report


def test_a_place_that_cannot_be_written_is_named(done: Fit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"--out .*file"):
        write(done, tmp_path / "file")


def test_the_crew_of_these_tests_is_one_that_ships_no_profile_of_this_name() -> None:
    assert "fitted" not in crew().profiles
    assert "fitted" not in find_crew("code").profiles
