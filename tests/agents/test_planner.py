"""Plans: what is read of them, what runs when, and when it stops."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents import events
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import find_crew, shipped_crews
from stepwell.agents.planner import Step, read_plan, with_writer
from tests.agents.scripted import Asked, Scripted, answer, crew
from tests.agents.test_runtime import run

CREW = """
[roles.planner]
may_spawn = ["solver", "reader"]
[roles.solver]
[roles.reader]
[roles.writer]
[roles.verifier]
"""


def plan(*steps: tuple[str, str, str, list[str]], done: bool = False) -> str:
    keys = ("id", "role", "task", "needs")
    return json.dumps({"done": done, "steps": [dict(zip(keys, step, strict=True)) for step in steps]})


def verdict(ok: bool, score: int) -> str:
    return json.dumps({"ok": ok, "score": score, "reason": "because"})


TWO = plan(("s1", "solver", "first", []), ("s2", "solver", "second", ["s1"]))


def scripted(plans: list[str], verdicts: list[str], **options: Any) -> Scripted:
    """A planner and a verifier by script; the writer numbers its drafts; workers repeat their task."""

    def model(asked: Asked) -> str:
        if asked.role in ("planner", "verifier"):
            script = plans if asked.role == "planner" else verdicts
            return script[min(asked.turn, len(script)) - 1]
        return (
            f"draft {asked.turn}"
            if asked.role == "writer"
            else f"result of {asked.last.splitlines()[-1].removeprefix('Your part of it: ')}"
        )

    return Scripted(model, **options)


def asked_of(server: Scripted, role: str) -> list[str]:
    return [one.last for one in server.asked if one.role == role]


def test_a_plan_is_carried_out_in_the_order_of_its_needs() -> None:
    server = scripted([TWO], [verdict(True, 9)])
    result = run(answer(server, crew(CREW)))
    assert (result.status, result.answer) == ("completed", "draft 1")
    first, second = asked_of(server, "solver")
    assert first == "Question: Why?\nYour part of it: first"
    assert second == "Question: Why?\nWhat is known already:\n- result of first\nYour part of it: second"
    assert "- second (solver): result of second" in asked_of(server, "writer")[0]


def test_steps_that_need_nothing_run_at_once() -> None:
    all_there = asyncio.Event()

    async def gate(asked: Asked) -> None:
        if asked.role == "solver":
            if len(asked_of(server, "solver")) == 3:
                all_there.set()
            await all_there.wait()

    steps = [(f"s{n}", "solver", f"part {n}", []) for n in (1, 2, 3)]
    server = scripted([plan(*steps)], [verdict(True, 9)], gate=gate)
    assert run(answer(server, crew(CREW))).status == "completed"
    assert server.most_at_once == 3


def test_more_steps_than_places_take_turns() -> None:
    steps = [(f"s{n}", "solver", f"part {n}", []) for n in range(1, 6)]
    server = scripted([plan(*steps)], [verdict(True, 9)])
    limits = "[crew.limits]\nconcurrent = 2\n"
    assert run(answer(server, crew(limits + CREW))).status == "completed"
    assert len(asked_of(server, "solver")) == 5
    assert server.most_at_once <= 2


def test_it_plans_again_from_the_results_and_the_verdict() -> None:
    more = plan(("s1", "reader", "look again", []))
    server = scripted([TWO, more], [verdict(False, 3), verdict(True, 8)])
    result = run(answer(server, crew(CREW)))
    assert result.answer == "draft 2"
    again = asked_of(server, "planner")[1]
    assert "result of second" in again and "The draft was judged (3 of 10): because" in again
    assert "result of look again" in asked_of(server, "writer")[1]
    writers = {one.agent for one in server.asked if one.role == "writer"}
    assert writers == {"writer-1"}  # one that remembers, not one for every round
    told = {one.role: one.body["agent_hint"] for one in server.asked}
    assert told["writer"] == {"next": "agent", "after_agent": "planner"}
    assert (told["solver"], told["planner"]) == ({"next": "done"}, {"next": "child"})


@pytest.mark.parametrize(
    ("verdicts", "rounds", "best"),
    [
        ([verdict(False, 5), verdict(False, 5), verdict(False, 4)], 3, "draft 1"),  # two rounds without gain
        ([verdict(False, 1), verdict(False, 2), verdict(False, 3), verdict(False, 4)], 4, "draft 4"),
        ([verdict(False, 1), verdict(False, 7), verdict(False, 3), verdict(False, 4)], 4, "draft 2"),
        ([verdict(False, 9), verdict(True, 9)], 2, "draft 2"),  # the one that it is satisfied with
    ],
)
def test_it_stops_where_nothing_improves_and_keeps_the_best(
    verdicts: list[str], rounds: int, best: str
) -> None:
    server = scripted([TWO], verdicts)
    result = run(answer(server, crew("[crew.limits]\nrounds = 4\n" + CREW)))
    assert (result.answer, len(asked_of(server, "verifier"))) == (best, rounds)


def test_the_planner_says_when_it_is_done() -> None:
    server = scripted([TWO, plan(done=True)], [verdict(False, 5)])
    assert run(answer(server, crew(CREW))).answer == "draft 1"
    assert len(asked_of(server, "verifier")) == 1


def test_references_to_nothing_are_dropped_with_a_note() -> None:
    heard: list[events.Event] = []
    server = scripted([plan(("s1", "solver", "first", ["s4"]))], [verdict(True, 9)])
    result = run(answer(server, crew(CREW), tell=events.Stream([heard.append])))
    assert result.status == "completed"
    planned = [event for event in heard if isinstance(event, events.Planned)]
    assert planned[0].dropped == ("s1 needs s4, which is no step",)
    assert (len(asked_of(server, "solver")), len(asked_of(server, "planner"))) == (1, 1)


def test_a_plan_of_which_nothing_is_left_is_sent_back_once() -> None:
    wrong = plan(("s1", "solver", " ", []))
    server = scripted([wrong, wrong], [verdict(True, 9)])
    assert run(answer(server, crew(CREW))).status == "completed"
    assert "This plan cannot be used: s1 has no task" in asked_of(server, "planner")[1]
    assert asked_of(server, "solver") == ["Why?"]


def test_the_first_plan_may_not_be_empty() -> None:
    server = scripted([plan(done=True), TWO], [verdict(True, 9)])
    run(answer(server, crew(CREW)))
    assert "done is True and not one of False" in asked_of(server, "planner")[1]
    assert len(asked_of(server, "solver")) == 2


def test_a_planner_that_never_plans_still_gets_an_answer() -> None:
    server = scripted(["no"], [verdict(True, 9)])
    result = run(answer(server, crew(CREW)))
    assert (result.status, result.answer) == ("completed", "draft 1")
    assert (len(asked_of(server, "solver")), len(asked_of(server, "reader"))) == (1, 1)


def test_a_budget_that_ends_after_a_draft_gives_that_draft() -> None:
    limits = "[crew.limits]\nbudget_usd = 0.005\nrounds = 9\n"
    server = scripted([TWO], [verdict(False, n) for n in range(9)], cost="0.001")
    result = run(answer(server, crew(limits + CREW)))
    assert (result.status, result.answer) == ("budget_reached", "draft 1")
    assert 5_000 <= result.cost_microusd < 7_000


def test_readers_are_given_passages_and_each_its_own() -> None:
    steps = [("s1", "reader", "look", []), ("s2", "reader", "look", []), ("s3", "solver", "think", [])]
    server = scripted([plan(*steps)], [verdict(True, 9)])
    run(answer(server, crew(CREW), reading=lambda task, number: f"page {number}"))
    pages = [
        one.body["messages"][1]["content"].splitlines()[:2] for one in server.asked if one.role == "reader"
    ]
    assert pages == [["Passages:", "page 0"], ["Passages:", "page 1"]]
    assert "Passages" not in asked_of(server, "solver")[0]


STEP = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["s1", "s2", "s3", "s4", "s5"]),
        "role": st.sampled_from(["solver", "reader", "nobody"]),
        "task": st.sampled_from(["", "look"]),
        "needs": st.lists(st.sampled_from(["s1", "s2", "s3", "s9"]), max_size=4),
    }
)


def test_a_circle_is_opened_so_that_every_step_is_done() -> None:
    steps = [("s1", "solver", "a", ["s2"]), ("s2", "solver", "b", ["s1"]), ("s3", "reader", "c", [])]
    got = read_plan(plan(*steps), ["solver", "reader"])
    assert [(step.id, step.needs) for step in got.steps] == [("s3", ()), ("s1", ()), ("s2", ("s1",))]
    assert got.faults == ("s1, s2 need each other in a circle",)


@given(st.lists(STEP, max_size=8), st.booleans())
def test_what_is_read_of_any_plan_can_be_run_in_order(steps: list[dict[str, Any]], done: bool) -> None:
    got = read_plan(json.dumps({"done": done, "steps": steps}), ["solver", "reader"])
    seen: set[str] = set()
    for step in got.steps:
        assert isinstance(step, Step)
        assert step.role != "nobody" and step.task and step.id not in seen
        assert set(step.needs) <= seen
        seen.add(step.id)
    assert len(got.steps) <= 5
    assert got.faults or len(got.steps) == len(steps[:5])


def schemas_of(made: Crew) -> list[dict[str, Any]]:
    roles = with_writer(made).roles.values()
    return [dict(one) for role in roles for one in (role.schema, role.first_schema) if one]


@pytest.mark.parametrize("name", shipped_crews())
def test_the_forms_of_shipped_crews_are_grammars_that_the_server_takes(name: str) -> None:
    pytest.importorskip("llama_cpp")
    from stepwell.engines.llamacpp.grammar import schema_to_gbnf

    made = find_crew(name)
    assert made.name == name
    assert all(schema_to_gbnf(json.dumps(schema)) for schema in schemas_of(made))
