"""Agents, verbs and tools against a scripted server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents import events
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.limits import Refused
from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.functions import from_function
from stepwell.errors import BadInput
from tests.agents.scripted import PATIENCE_S, Asked, Scripted, answer, calls, crew, session

LEAD = """
[roles.lead]
instructions = "You lead."
may_spawn = ["helper"]
[roles.helper]
instructions = "You help."
"""
ALONE = '[roles.lead]\ninstructions = "You lead."\n'


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def tool(name: str, call: Any, **options: Any) -> Tool:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    return Tool(name, "A tool.", schema, call, **options)


async def double(arguments: Mapping[str, Any]) -> str:
    return str(2 * arguments["x"])


def spawns(children: int) -> Any:
    """A lead that spawns, waits and tells what it heard."""

    def model(asked: Asked) -> Any:
        if asked.role == "helper":
            return f"I am {asked.agent}"
        if asked.turn == 1:
            return calls(*[("spawn_agent", {"role": "helper", "task": f"part {n}"}) for n in range(children)])
        return calls(("wait_agent", {})) if asked.turn == 2 else asked.last

    return model


def test_one_agent_answers_one_question() -> None:
    server = Scripted(lambda asked: "Because.")
    result = run(answer(server, crew(ALONE)))
    assert (result.status, result.answer, result.turns, result.agents) == ("completed", "Because.", 1, 1)
    assert (result.visible_tokens, result.intermediate_tokens) == (5, 0)
    assert [m["content"] for m in server.asked[0].body["messages"]] == ["You lead.", "Why?"]


def test_children_run_at_once_and_their_answers_come_back() -> None:
    all_there = asyncio.Event()

    async def gate(asked: Asked) -> None:
        if asked.role == "helper":
            if sum(1 for one in server.asked if one.role == "helper") == 4:
                all_there.set()
            await all_there.wait()  # no answer before all four have asked: one after the other would hang

    server = Scripted(spawns(4), gate=gate)
    result = run(answer(server, crew(LEAD)))
    assert all(f"helper-{n} (completed): I am helper-{n}" in result.answer for n in range(1, 5))
    assert server.most_at_once == 4
    assert (result.agents, result.turns) == (5, 7)
    assert {one.parent for one in server.asked if one.role == "helper"} == {"lead"}


def test_messages_only_grow_so_that_the_prefix_is_found_again() -> None:
    server = Scripted(spawns(1))
    run(answer(server, crew(LEAD)))
    turns = [one.body["messages"] for one in server.asked if one.role == "lead"]
    assert len(turns) == 3
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(turns))


def test_a_tool_is_called_and_its_answer_read() -> None:
    def model(asked: Asked) -> Any:
        return calls(("double", {"x": 21})) if asked.turn == 1 else f"It is {asked.last}."

    made = crew(ALONE + 'tools = ["double"]\n')
    assert run(answer(Scripted(model), made, tool("double", double))).answer == "It is 42."


def test_calls_under_a_schema_need_no_field_for_tools() -> None:
    def model(asked: Asked) -> Any:
        shapes = asked.body["response_format"]["json_schema"]["schema"]["anyOf"]
        assert [one["properties"]["action"]["enum"] for one in shapes] == [["double"], ["answer"]]
        said = {"action": "double", "arguments": {"x": 4}} if asked.turn == 1 else None
        return json.dumps(said or {"action": "answer", "answer": asked.last})

    made = crew(ALONE + 'tools = ["double"]\ncalls = "schema"\n')
    server = Scripted(model)
    assert run(answer(server, made, tool("double", double))).answer == "Result of double: 8"
    assert all("tools" not in one.body for one in server.asked)


@pytest.mark.parametrize(("max_tokens", "chars"), [(100, 300), (256, 768), (1_000, None)])
def test_an_answer_under_a_schema_ends_before_its_turn_is_cut(max_tokens: int, chars: int | None) -> None:
    made = crew(ALONE + f'tools = ["double"]\ncalls = "schema"\nmax_tokens = {max_tokens}\n')
    server = Scripted(lambda asked: json.dumps({"action": "answer", "answer": "four"}))
    assert run(answer(server, made, tool("double", double))).answer == "four"
    (shape,) = (one.body["response_format"]["json_schema"]["schema"]["anyOf"][-1] for one in server.asked)
    assert shape["properties"]["answer"].get("maxLength") == chars


async def _hang(arguments: Mapping[str, Any]) -> str:
    await asyncio.Event().wait()
    return ""


async def _raise(arguments: Mapping[str, Any]) -> str:
    raise ZeroDivisionError("oh")


async def _fail(arguments: Mapping[str, Any]) -> str:
    raise ToolError("the table does not exist")


async def _long(arguments: Mapping[str, Any]) -> str:
    return "y" * 1_000


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            _hang,
            "double failed: it did not answer within 0.01 s and was given up. It may be tried once more.",
        ),
        (_raise, "double is broken: ZeroDivisionError: oh"),
        (_fail, "double failed: the table does not exist"),
        (_long, "yyyyyyyyyy\n(cut: 1,000 characters in all)"),
    ],
)
def test_a_tool_that_goes_wrong_is_told_to_the_model(call: Any, told: str) -> None:
    bad = tool("double", call, timeout_s=0.01 if call is _hang else 120.0, max_answer_chars=10)
    model = lambda asked: calls(("double", {"x": 1})) if asked.turn == 1 else asked.last  # noqa: E731
    assert run(answer(Scripted(model), crew(ALONE + 'tools = ["double"]\n'), bad)).answer == told


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (("nothing", {}), "There is no tool 'nothing': there are double."),
        (("double", {"x": "two"}), "The arguments of double are not valid: x is not of type integer."),
        (("double", {}), "The arguments of double are not valid: it has no 'x'."),
    ],
)
def test_a_wrong_call_is_told_to_the_model(wanted: Any, told: str) -> None:
    model = lambda asked: calls(wanted) if asked.turn == 1 else asked.last  # noqa: E731
    made = crew(ALONE + 'tools = ["double"]\n')
    assert run(answer(Scripted(model), made, tool("double", double))).answer == told


JSON = ALONE + 'output = "json"\n[roles.lead.schema]\ntype = "object"\nrequired = ["ok"]\n'


def test_an_invalid_answer_is_repaired_once() -> None:
    server = Scripted(lambda asked: "{" if asked.turn == 1 else '{"ok": 1}')
    result = run(answer(server, crew(JSON)))
    assert (result.status, json.loads(result.answer)) == ("completed", {"ok": 1})
    assert "That cannot be used" in server.asked[1].last


def test_a_line_break_inside_a_string_is_taken() -> None:
    result = run(answer(Scripted(lambda _: '{"ok": "yes\n\tno"}'), crew(JSON)))
    assert (result.status, json.loads(result.answer)) == ("completed", {"ok": "yes\n\tno"})


def test_a_model_that_never_answers_validly_has_one_clear_outcome() -> None:
    server = Scripted(lambda asked: "never")
    result = run(answer(server, crew(JSON)))
    assert (result.status, result.answer, result.turns) == ("invalid_output", "", 2)
    assert result.sentence.startswith("lead gave no valid answer, and none when asked again: it is not JSON")


def test_an_interrupted_agent_stops_with_all_below_it() -> None:
    text = LEAD + 'may_spawn = ["deep"]\n[roles.deep]\ninstructions = "You are deep."\n'
    deep_asks = asyncio.Event()

    async def gate(asked: Asked) -> None:
        if asked.role == "deep":
            deep_asks.set()
            await asyncio.Event().wait()
        if asked.role == "lead" and asked.turn == 2:
            await deep_asks.wait()

    def model(asked: Asked) -> Any:
        if asked.role == "helper":
            spawn = ("spawn_agent", {"role": "deep", "task": "dig"})
            return calls(spawn) if asked.turn == 1 else calls(("wait_agent", {}))
        if asked.turn == 1:
            return calls(("spawn_agent", {"role": "helper", "task": "help"}))
        return (
            calls(("interrupt_agent", {"agent": "helper-1"}), ("wait_agent", {}))
            if asked.turn == 2
            else asked.last
        )

    heard: list[events.Event] = []
    result = run(answer(Scripted(model, gate=gate), crew(text), tell=events.Stream([heard.append])))
    assert result.answer == "helper-1 (interrupted): it was stopped by lead"
    ended = [(e.agent, e.outcome) for e in heard if isinstance(e, events.Ended)]
    assert ended == [("helper-1.deep-1", "interrupted"), ("helper-1", "interrupted"), ("lead", "completed")]


def test_a_followup_goes_to_an_agent_that_remembers_and_a_message_is_read() -> None:
    def model(asked: Asked) -> Any:
        if asked.role == "helper":
            return " / ".join(str(m["content"]) for m in asked.body["messages"][1:])
        script = [
            [("spawn_agent", {"role": "helper", "task": "one"})],
            [("wait_agent", {})],
            [("send_message", {"agent": "helper-1", "message": "hurry"})],
            [("followup_task", {"agent": "helper-1", "task": "two"})],
            [("wait_agent", {"agents": ["helper-1"]})],
        ]
        return calls(*script[asked.turn - 1]) if asked.turn <= len(script) else asked.last

    told = run(answer(Scripted(model), crew(LEAD))).answer
    assert told == "helper-1 (completed): one / one / two\n\nMessage from lead: hurry"


def test_an_agent_waits_and_commands_below_itself_only() -> None:
    async def scene() -> None:
        async with session(Scripted(spawns(1)), crew(LEAD)) as running:
            await running.run("Why?")
            with pytest.raises(Refused, match="its own agents only"):
                await running.wait(["lead"], waiting="helper-1")
            with pytest.raises(Refused, match="only its own agents"):
                await running.interrupt("lead", by="helper-1")
            with pytest.raises(Refused, match="may not spawn 'lead'"):
                running.spawn("lead", "x", parent="lead", key="k")
            with pytest.raises(Refused, match="there is no agent 'nobody'"):
                running.send("nobody", "x", author="lead", key="k")

    run(scene())


def test_what_an_agent_waits_for_reaches_the_server() -> None:
    waits = ("lead", {"next": "child", "after_agent": "helper-1"})

    async def gate(asked: Asked) -> None:
        while asked.role == "helper" and waits not in server.hints:
            await asyncio.sleep(0)

    server = Scripted(spawns(1), gate=gate)
    run(answer(server, crew(LEAD)))
    assert waits in server.hints
    assert ("helper-1", {"next": "done"}) in server.hints
    helper = next(one for one in server.asked if one.role == "helper")
    assert helper.body["agent_hint"] == {"next": "agent", "after_agent": "lead"}


def test_who_waits_for_several_is_not_expected_after_the_first() -> None:
    one_left = ("lead", {"next": "child", "after_agent": "helper-2"})

    async def gate(asked: Asked) -> None:
        waits = one_left if asked.agent == "helper-2" else ("lead", {"next": "child"})
        while asked.role == "helper" and waits not in server.hints:
            await asyncio.sleep(0)

    server = Scripted(spawns(2), gate=gate)
    run(answer(server, crew(LEAD)))
    said = [hint for agent, hint in server.hints if agent == "lead" and hint["next"] == "child"]
    assert said == [{"next": "child"}, one_left[1]]


def test_a_server_without_hints_is_asked_once() -> None:
    server = Scripted(spawns(3), knows_hints=False)
    assert run(answer(server, crew(LEAD))).status == "completed"
    assert server.hint_posts == 1


def test_the_same_script_gives_the_same_answer_and_the_same_seeds() -> None:
    servers = [Scripted(spawns(5)) for _ in range(2)]
    first, second = (run(answer(server, crew(LEAD))) for server in servers)
    assert first.answer == second.answer
    seeds = [{(one.agent, one.turn): one.body["seed"] for one in server.asked} for server in servers]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == len(seeds[0])


def test_a_session_needs_a_question_and_keeps_it() -> None:
    async def scene() -> None:
        async with asyncio.timeout(PATIENCE_S), session(Scripted(lambda asked: "x"), crew(ALONE)) as running:
            with pytest.raises(BadInput, match="nothing to resume"):
                await running.run()
            await running.run("One?")
            with pytest.raises(BadInput, match="has another question"):
                await running.run("Two?")

    run(scene())


def test_the_same_agents_answer_the_next_question(tmp_path: Path) -> None:
    """In the same process, and from the file; each task and turn has a key of its own."""
    path = tmp_path / "s.db"
    server = Scripted(lambda asked: f"answer {asked.turn}")

    async def scene(*asks: tuple[str, bool]) -> list[str]:
        async with asyncio.timeout(PATIENCE_S), session(server, crew(ALONE), path) as running:
            return [(await running.run(ask, more=more)).answer for ask, more in asks]

    assert run(scene(("One?", True), ("Two?", True))) == ["answer 1", "answer 2"]
    assert run(scene(("Three?", False))) == ["answer 3"]
    assert len({asked.agent for asked in server.asked}) == 1
    said = [message["content"] for message in server.asked[-1].body["messages"] if message["role"] == "user"]
    assert said == ["One?", "Two?", "Three?"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[roles.x]\ninstruction = 'y'",
            "crew: [roles.x]: key 'instruction' is not known: did you mean 'instructions'?",
        ),
        (
            "[crew]\nentri = 'x'\n[roles.x]\ninstructions = 'y'",
            "crew: [crew]: key 'entri' is not known: did you mean 'entry'?",
        ),
        (
            "[crew]\nentry = 'y'\n[roles.x]\ninstructions = 'y'",
            "crew crew: entry 'y' is not there: there is x",
        ),
        (
            "[roles.x]\ninstructions = 'y'\nmay_spawn = ['planer']",
            "crew crew: role x: may_spawn 'planer' is not there: there is x",
        ),
        (
            "[roles.x]",
            "crew: [roles.x] has no instructions, and no role of that name ships: say what it is to do",
        ),
        (
            "[roles.writer]\nmax_turns = 'many'",
            "crew: [roles.writer]: max_turns is a whole number, not 'many'",
        ),
        (
            "[crew.limits]\nbudget_usd = 'x'\n[roles.writer]",
            "crew: [crew.limits]: the budget x is no amount: write dollars, like 0.02",
        ),
        (
            "[roles.writer]\ncalls = 'scheme'",
            "crew: [roles.writer]: calls 'scheme' is not there: did you mean 'schema'?",
        ),
        (
            "",
            "crew has 0 roles: 1 to 64 [roles.NAME] tables are needed",
        ),
    ],
)
def test_a_wrong_crew_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_crew(text)
    assert str(caught.value) == sentence


def test_money_is_read_exactly() -> None:
    made = parse_crew("[crew.limits]\nbudget_usd = 0.29\n[roles.writer]\ntemperature = 0.7")
    assert made.limits.budget_microusd == 290_000
    assert made.roles["writer"].temperature == 0.7


def probe(made: list[int], **options: Any) -> Tool:
    """A tool that notes each time it is really called."""

    def measure(depth: int) -> str:
        """Measures.

        Args:
            depth: how deep
        """
        made.append(depth)
        return f"no water at {depth}" if depth < 9 else "water"

    return from_function(measure, **options)


SOLVER = '[crew]\nname = "c"\n[roles.solver]\ntools = ["measure"]\n'
BY_SCHEMA = SOLVER + 'calls = "schema"\n'


def measured(asked: Asked, text: str, depth: int) -> Any:
    """One call in the way of the crew."""
    if text == SOLVER:
        return calls(("measure", {"depth": depth}))
    spaces = " " * (asked.turn % 2)  # the same call, laid out in another way
    return f'{{"action": "measure", "arguments": {{"depth":{spaces}{depth}}}}}'


def final(text: str, said: str) -> str:
    return said if text == SOLVER else json.dumps({"action": "answer", "answer": said})


@pytest.mark.parametrize("text", [SOLVER, BY_SCHEMA])
def test_a_call_that_was_made_before_is_answered_from_its_first_result(text: str) -> None:
    made: list[int] = []

    def model(asked: Asked) -> Any:
        if asked.turn == 4:
            assert asked.last.endswith(
                "You have made this very call before. Its result is the same: no water at 2"
            )
            return final(text, "dry")
        return measured(asked, text, min(asked.turn, 2))

    assert run(answer(Scripted(model), parse_crew(text), probe(made))).answer == "dry"
    assert made == [1, 2]


@pytest.mark.parametrize("text", [SOLVER, BY_SCHEMA])
def test_two_turns_of_repeats_lead_to_a_last_turn_that_can_only_answer(text: str) -> None:
    made: list[int] = []

    def can_call(asked: Asked) -> bool:
        if text == SOLVER:
            return asked.body.get("tool_choice") != "none"
        shapes = asked.body["response_format"]["json_schema"]["schema"]["anyOf"]
        return len(shapes) > 1

    def model(asked: Asked) -> Any:
        return measured(asked, text, 1) if can_call(asked) else final(text, "there is none")

    result = run(answer(Scripted(model), parse_crew(text), probe(made)))
    assert (result.status, result.answer, result.turns) == ("completed", "there is none", 4)
    assert made == [1]


@pytest.mark.parametrize("text", [SOLVER, BY_SCHEMA])
def test_an_agent_that_only_repeats_itself_ends_with_what_it_found(text: str) -> None:
    made: list[int] = []
    server = Scripted(lambda asked: measured(asked, text, 1))
    result = run(answer(server, parse_crew(text), probe(made)))
    assert (result.status, result.answer, result.turns) == ("repeated_call", "", 4)
    assert result.sentence.endswith(
        "made the same calls again and again in place of an answer; they gave: no water at 1"
    )
    assert made == [1]


def test_a_new_call_between_two_repeats_is_progress() -> None:
    depths = [1, 1, 2, 2, 9]
    made: list[int] = []

    def model(asked: Asked) -> Any:
        return measured(asked, SOLVER, depths[asked.turn - 1]) if asked.turn <= 5 else asked.last

    assert run(answer(Scripted(model), parse_crew(SOLVER), probe(made))).answer == "water"
    assert made == [1, 2, 9]


def test_the_same_call_twice_in_one_turn_is_made_once() -> None:
    made: list[int] = []
    twice = calls(("measure", {"depth": 3}), ("measure", {"depth": 3}))
    server = Scripted(lambda asked: twice if asked.turn == 1 else "done")
    assert run(answer(server, parse_crew(SOLVER), probe(made))).answer == "done"
    assert made == [3]


def test_a_tool_whose_answers_change_is_called_as_often_as_it_is_wanted() -> None:
    made: list[int] = []
    model = lambda asked: measured(asked, SOLVER, 1) if asked.turn < 6 else "done"  # noqa: E731
    assert run(answer(Scripted(model), parse_crew(SOLVER), probe(made, volatile=True))).answer == "done"
    assert made == [1] * 5


def test_a_call_that_failed_by_chance_may_be_made_once_more() -> None:
    tries: list[int] = []

    async def late(arguments: Mapping[str, Any]) -> str:
        tries.append(arguments["x"])
        if len(tries) == 1:
            await asyncio.Event().wait()
        return "in time"

    bad = tool("late", late, timeout_s=0.01)
    model = lambda asked: calls(("late", {"x": 1})) if asked.turn < 3 else asked.last  # noqa: E731
    assert run(answer(Scripted(model), crew(ALONE + 'tools = ["late"]\n'), bad)).answer == "in time"
    assert tries == [1, 1]
