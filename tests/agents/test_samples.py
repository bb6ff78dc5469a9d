"""Several answers to one step: who is asked, when it is enough, which one is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.penalty import Penalty
from stepwell.agents.request import opening, sample_key, sample_number
from stepwell.agents.samples import ballot
from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.functions import from_function
from stepwell.errors import BadInput
from tests.agents.scripted import Asked, Scripted, answer
from tests.agents.test_runtime import run

CREW = """
[crew]
name = "votes"
entry = "planner"
drop = ["planner", "writer"]
[crew.limits]
concurrent = 20
[roles.planner]
may_spawn = ["solver"]
[roles.solver]
"""


def crew(settings: str = "", more: str = "") -> Crew:
    return parse_crew(CREW + settings + more)


def in_turn(*answers: str) -> Scripted:
    """Answers in the order in which agents are asked, by the agent's number."""

    def model(asked: Asked) -> Any:
        return answers[int(asked.agent.rpartition("-")[2]) - 1]

    return Scripted(model)


def solvers(server: Scripted) -> list[Asked]:
    return [one for one in server.asked if one.role == "solver"]


def check(good: Callable[[str], bool]) -> Tool:
    def is_right(text: str) -> str:
        """Says whether it is right.

        Args:
            text: the answer
        """
        if not good(text):
            raise ToolError(f"{text} is wrong")
        return "right"

    return from_function(is_right, idempotent=True)


def test_most_votes_win_however_they_are_written() -> None:
    server = in_turn("Five.", "Twelve", "twelve!", "6", "5")
    result = run(answer(server, crew("samples = 5")))
    assert (result.answer, len(solvers(server))) == ("Twelve", 5)
    assert result.visible_tokens + result.intermediate_tokens == sum(
        use.completion_tokens for use in result.by_role.values()
    )
    assert result.by_role["solver"].turns == 5


def test_without_a_majority_it_is_the_first() -> None:
    assert run(answer(in_turn("a", "b", "c"), crew("samples = 3"))).answer == "a"


def test_the_judge_decides_between_those_that_tie() -> None:
    def model(asked: Asked) -> str:
        if asked.role == "judge":
            assert asked.last.startswith("Why?\nAnswers:\n1. red\n2. blue\nWhich one")
            return json.dumps({"best": 2, "reason": "so"})
        return "red" if asked.agent == "solver-1" else "blue"

    server = Scripted(model)
    assert run(answer(server, crew("samples = 2", "\n[roles.judge]\n"))).answer == "blue"
    assert [one.role for one in server.asked].count("judge") == 1


@pytest.mark.parametrize("said", ["{}", '{"best": 9, "reason": ""}', "no idea"])
def test_a_judge_who_says_nothing_of_use_leaves_the_first(said: str) -> None:
    def model(asked: Asked) -> str:
        return said if asked.role == "judge" else asked.agent

    assert run(answer(Scripted(model), crew("samples = 2", "\n[roles.judge]\n"))).answer == "solver-1"


def test_an_answer_that_passes_its_check_is_the_answer_whatever_others_say() -> None:
    server = in_turn("no", "yes", "no")
    result = run(answer(server, crew('samples = 3\ncheck = "is_right"'), check(lambda text: text == "yes")))
    assert result.answer == "yes"


def test_nobody_writes_or_judges_what_has_passed() -> None:
    text = (
        CREW.replace('drop = ["planner", "writer"]', 'drop = ["planner"]')
        + 'check = "is_right"\n[roles.verifier]\n'
    )
    server = in_turn("yes")
    assert run(answer(server, parse_crew(text), check(lambda text: True))).answer == "yes"
    assert [one.role for one in server.asked] == ["solver"]


def test_what_the_check_says_is_read_by_those_who_go_on() -> None:
    text = CREW.replace(', "writer"]', "]") + 'check = "is_right"\n'
    server = Scripted(lambda asked: "wrong one" if asked.role == "solver" else "written")
    assert run(answer(server, parse_crew(text), check(lambda text: False))).answer == "written"
    assert "(this does not pass: is_right failed: wrong one is wrong)" in server.asked[-1].last


def under(crew: Crew, *, price: int, value: int = 500, wave: int = 1, **more: Any) -> Crew:
    return replace(crew, wave=wave, penalty=Penalty(price, value, **more))


def test_a_price_stops_asking_when_votes_agree() -> None:
    made = crew("samples = 9\nmax_tokens = 40")
    agree = in_turn(*["same"] * 9)
    assert run(answer(agree, under(made, price=10_000_000))).answer == "same"
    assert len(solvers(agree)) < 5
    free = in_turn(*["same"] * 9)
    run(answer(free, under(made, price=0)))
    assert len(solvers(free)) == 5  # four more could not turn it
    split = in_turn(*"ababababa")
    run(answer(split, under(made, price=10_000_000)))
    assert len(solvers(split)) > len(solvers(agree))


def test_a_price_gives_up_on_what_fails_again_and_again() -> None:
    made = crew('samples = 20\nmax_tokens = 40\npass_rate = 0.5\ncheck = "is_right"')
    asked = []
    for price in (0, 10_000_000, 60_000_000):
        server = in_turn(*["bad"] * 20)
        run(answer(server, under(made, price=price), check(lambda text: False)))
        asked.append(len(solvers(server)))
    assert asked[0] == 20
    assert asked[0] > asked[1] > asked[2] >= 1


def test_one_wave_after_another_ends_where_one_passes() -> None:
    made = under(crew('samples = 8\ncheck = "is_right"'), price=0, wave=2)
    server = in_turn("no", "no", "no", "yes", "yes", "yes")
    assert run(answer(server, made, check(lambda text: text == "yes"))).answer == "yes"
    assert len(solvers(server)) == 4


def test_turns_are_as_long_as_they_are_worth_and_their_end_grows_likelier() -> None:
    made = crew('samples = 4\nmax_tokens = 200\npass_rate = 0.5\ncheck = "is_right"')
    server = in_turn(*["some words that are wrong"] * 4)
    rule = under(made, price=2_000_000, eos_bias=4.0, eos_bias_tokens=8)
    run(answer(server, rule, check(lambda text: False)))
    bodies = [one.body for one in solvers(server)]
    lengths = [body["max_tokens"] for body in bodies]
    assert lengths[0] == 125  # half of 500 millionths at two a token
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]
    biases = [body.get("logit_bias", {}) for body in bodies]
    assert biases[0] == {}
    assert biases[-1] == {"2": 4.0}


def test_without_a_penalty_nothing_is_sent_that_a_server_may_not_know() -> None:
    server = in_turn("a")
    run(answer(server, crew()))
    assert "logit_bias" not in server.asked[0].body


# --- what makes answers differ -------------------------------------------------------------------

EXAMPLES = "shots = 2\nexamples = [" + ", ".join(f'["q{n}", "a{n}"]' for n in range(6)) + "]\n"


def test_the_first_answer_is_the_roles_own_and_others_see_other_examples() -> None:
    server = in_turn("a", "a", "a")
    run(answer(server, crew(EXAMPLES + "samples = 3")))
    shown = [[m["content"] for m in one.body["messages"][1:-1]] for one in solvers(server)]
    assert shown[0] == ["q0", "a0", "q1", "a1"]
    assert len({tuple(one) for one in shown}) == 3
    assert {one.body["temperature"] for one in solvers(server)} == {0.0}


def test_without_examples_chance_makes_them_differ() -> None:
    server = in_turn("a", "a", "a")
    run(answer(server, crew("samples = 3")))
    assert [one.body["temperature"] for one in solvers(server)] == [0.0, 0.7, 0.7]
    assert len({one.body["seed"] for one in solvers(server)}) == 3


@given(st.integers(0, 60))
def test_examples_are_the_same_in_every_run(number: int) -> None:
    role = crew(EXAMPLES).roles["solver"]
    key = sample_key("round-1-s1", number)
    assert sample_number(key) == number
    assert opening(role, key, role.instructions) == opening(role, key, role.instructions)


@pytest.mark.parametrize(("one", "other"), [("12", "12."), ("Yes!", "yes"), ("a  b", "A b")])
def test_ballots_are_equal_where_words_are(one: str, other: str) -> None:
    assert ballot(one) == ballot(other)


@pytest.mark.parametrize(("one", "other"), [("12", "1.2"), ("-5", "5"), ("5", "5%")])
def test_ballots_differ_where_figures_do(one: str, other: str) -> None:
    assert ballot(one) != ballot(other)


# --- an answer through a tool --------------------------------------------------------------------

FINISH = """
output = "json"
finish = "double"
[roles.solver.schema]
type = "object"
required = ["number"]
[roles.solver.schema.properties.number]
type = "integer"
"""


def double() -> Tool:
    def double(number: int) -> str:
        """Doubles.

        Args:
            number: what
        """
        if number < 0:
            raise ToolError("too small")
        return str(2 * number)

    return from_function(double, idempotent=True)


def test_the_answer_is_what_the_tool_makes_of_it() -> None:
    assert run(answer(in_turn('{"number": 21}'), crew(FINISH), double())).answer == "42"


def test_what_the_tool_cannot_use_is_sent_back_once() -> None:
    def model(asked: Asked) -> str:
        return '{"number": -1}' if asked.turn == 1 else '{"number": 1}'

    server = Scripted(model)
    assert run(answer(server, crew(FINISH), double())).answer == "2"
    assert "double failed: too small" in server.asked[-1].last
    never = run(answer(in_turn('{"number": -1}'), crew(FINISH), double()))
    assert never.status == "invalid_output"


def test_a_tool_that_may_not_be_called_twice_can_neither_finish_nor_check() -> None:
    def once(text: str) -> str:
        """Once.

        Args:
            text: what
        """
        return text

    with pytest.raises(BadInput, match="not idempotent"):
        run(answer(in_turn("a"), crew('check = "once"'), from_function(once)))


def test_other_examples_have_one_of_every_kind() -> None:
    kinds = "shots = 3\nexamples = [" + ", ".join(f'["k{n % 3}", "{n}"]' for n in range(9)) + "]\n"
    role = crew(kinds).roles["solver"]
    for number in range(20):
        asked = [
            message["content"] for message in opening(role, sample_key("s1", number), role.instructions)[1::2]
        ]
        assert sorted(asked) == ["k0", "k1", "k2"]


def test_those_who_answer_the_same_step_read_the_same() -> None:
    read: list[int] = []

    def reading(task: str, number: int) -> str:
        read.append(number)
        return f"page {number}"

    made = crew("samples = 3\nreads = true")
    run(answer(in_turn("a", "b", "c"), made, reading=reading))
    assert read == [0, 0, 0]


def test_what_ends_an_answer_is_told_to_the_server() -> None:
    server = in_turn("a")
    run(answer(server, crew('stop = ["END"]')))
    assert server.asked[0].body["stop"] == ["END"]
