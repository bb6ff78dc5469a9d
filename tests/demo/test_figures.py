"""Figures: computed from turns by hand here, and written in a shape that can be read back."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from stepwell.demo.figures import (
    SCHEMA,
    DemoFigures,
    RunFigures,
    figures_of_run,
    marks,
    read_json,
    result_sentence,
    same_answers,
    speedup,
)
from stepwell.demo.record import AgentSample, Capacity, DemoRun, DemoTurn, Sample
from stepwell.demo.tables import comparison_table, notes, service_tier_table
from tests.demo.fake import CUSTOMERS, fake_figures, fake_run


def turn(agent: str, number: int, ttft_s: float, prompt: int, cached: dict[str, int], again: int) -> DemoTurn:
    cached = {"device": 0, "host": 0, "disk": 0} | cached
    return DemoTurn(agent, number, "reads", 1.0, 1.0 + ttft_s, 3.0, prompt, 10, cached, again)


def small_run() -> RunFigures:
    run = DemoRun("With KV tiers", Capacity(640, 1_000, 2_000, 10, 2_560, 3_000), duration_s=5.0)
    run.agents = ("almond/lead", "birch/lead")
    run.turns = [
        turn("almond/lead", 1, 1.0, 100, {}, 0),
        turn("almond/lead", 2, 3.0, 200, {"device": 50, "disk": 60}, 20),
        turn("birch/lead", 1, 2.0, 80, {"host": 30}, 50),
    ]
    run.sessions_s = {"almond": (0.5, 4.5), "birch": (1.0, 4.0)}
    run.samples = [
        Sample(0.0, {"almond/lead": AgentSample("running", 100, 90, 0, 0)}, _used(900, 0, 0), 1, 0),
        Sample(0.2, {"almond/lead": AgentSample("running", 100, 90, 0, 0)}, _used(900, 0, 0), 1, 0),
        Sample(0.4, {"almond/lead": AgentSample("idle", 100, 0, 40, 30)}, _used(0, 400, 300), 0, 0),
    ]
    return figures_of_run(run, CUSTOMERS)


def _used(device: int, host: int, disk: int) -> dict[str, int]:
    return {"device": device, "host": host, "disk": disk}


def test_a_row_per_service_tier_and_one_for_all() -> None:
    run = small_run()
    priority, default, flex = run.service_tiers
    assert (priority.ttft_p50_s, priority.return_ttft_p50_s, priority.session_s) == (2.0, 3.0, 4.0)
    assert priority.computed_tokens == (100 + 10) + (90 + 10)
    assert priority.recompute_tax == pytest.approx(20 / 210)
    assert default.cached_tokens == {"device": 0, "host": 30, "disk": 0}
    assert flex.turns == 0
    assert run.total.ttft_p95_s == pytest.approx(2.9)
    assert run.total.cached_tokens == {"device": 50, "host": 30, "disk": 60}
    assert run.total.recomputed_tokens == 70


def test_lanes_hold_changes_only() -> None:
    run = small_run()
    assert [point.t_s for point in run.lanes["almond/lead"]] == [0.0, 0.4]
    assert run.lanes["birch/lead"] == ()
    assert [point.t_s for point in run.fill] == [0.0, 0.4]
    assert run.peak_bytes == {"device": 900, "host": 400, "disk": 300}


def test_answers_are_marked_and_compared() -> None:
    run = figures_of_run(fake_run(), CUSTOMERS)
    assert marks([run]) == [True] * 3
    other = replace(
        run,
        answers={
            tenant: (replace(answers[0], text="Else.", right=False), *answers[1:])
            for tenant, answers in run.answers.items()
        },
    )
    assert marks([other]) == [False] * 3
    assert (same_answers(run, run), same_answers(run, other)) == ((6, 6), (3, 6))


def test_recomputation_after_a_preemption_counts_as_computed() -> None:
    assert turn("a/lead", 1, 1.0, 100, {"device": 90}, 70).computed_tokens == 70


def test_json_comes_back_as_it_went() -> None:
    figures = fake_figures()
    data = figures.to_json()
    assert read_json(data) == figures
    assert json.loads(data)["schema"] == SCHEMA == "stepwell.demo/3"


def test_json_keeps_to_its_schema() -> None:
    schema = msgspec.json.schema(DemoFigures)
    assert set(json.loads(fake_figures().to_json())) == set(schema["$defs"]["DemoFigures"]["properties"])
    with pytest.raises(msgspec.ValidationError):
        read_json(b'{"schema": "stepwell.demo/3", "date": 7}')


def test_no_key_gets_into_the_figures() -> None:
    data = fake_figures().to_json().decode()
    assert not [customer for customer in CUSTOMERS if customer.api_key in data]


def test_speedup_is_without_over_with() -> None:
    ours, theirs = small_run(), replace(small_run(), duration_s=10.0)
    assert speedup(ours, theirs)["duration"] == 2.0


@pytest.mark.parametrize(
    ("without_s", "words"),
    [(10.0, "2.0 times as fast as"), (5.1, "about as fast as"), (4.0, "slower than")],
)
def test_the_result_is_said_honestly(without_s: float, words: str) -> None:
    runs = [small_run(), replace(small_run(), duration_s=without_s)]
    assert words in result_sentence(runs, 21, 0.25)


def test_tables_have_a_cell_for_every_column() -> None:
    runs = [figures_of_run(fake_run(tiering=tiering), CUSTOMERS) for tiering in (True, False)]
    for table in (*map(service_tier_table, runs), comparison_table(*runs)):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_notes_say_what_service_tiers_are_owed() -> None:
    assert any("16 times as much as flex" in note for note in notes(fake_figures()))
