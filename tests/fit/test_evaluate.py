"""One profile on many items: what is counted, what a failure is, and when the whole stops."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx2
import pytest

from stepwell.agents.crews.files import find_crew, parse_crew
from stepwell.agents.crews.profile import Profile
from stepwell.agents.tools import Workspace
from stepwell.errors import BadInput, StepwellError
from stepwell.fit.evaluate import Evaluator, ItemsProgressed, alone
from stepwell.fit.memo import Memo
from stepwell.fit.outcomes import Evaluation
from stepwell.fit.reading import ranked, reading_of, whole_of
from stepwell.fit.tasks import Item, TaskSet
from tests.agents.scripted import Asked, failure
from tests.fit.quiz import Counted, always, answer_of, crew, evaluator, item_of, quiz, said_by

PRO = Profile("pro")
PASSAGES = (
    "The well of Kavek was dug in 1643.",
    "The well of Lorin is 40 metres deep.",
    "Sheep graze there.",
)


def evaluate(tmp_path: Path, server: Counted, profile: Profile | None = PRO, **options: object) -> Evaluation:
    async def run() -> Evaluation:
        async with evaluator(tmp_path, server, **options) as made:  # type: ignore[arg-type]
            items = made.tasks.items
            return await (made.profile(profile, items) if profile else made.single(items))

    return asyncio.run(run())


def test_every_figure_of_an_item_is_counted(tmp_path: Path) -> None:
    found = evaluate(tmp_path, Counted(said_by(always)), tasks=quiz(4))
    first = found.outcomes[0]
    assert (first.item, first.right, first.status, first.turns) == ("quiz-000", True, "completed", 4)
    assert (first.answer, first.visible_tokens) == (f"It is {answer_of(0)}.", 3)
    used = {name: (use.turns, use.completion_tokens) for name, use in first.by_role.items()}
    assert used["scout"] == (1, 8)
    assert used["solver"] == (1, 3)
    assert first.lengths["scout"] == (8,)
    assert first.intermediate_tokens == used["planner"][1] + 8 + used["critic"][1]
    assert first.cost_microusd == first.prompt_tokens + 4 * (first.intermediate_tokens + 3)
    assert found.in_money
    assert found.mean_cost(True) == sum(one.cost_microusd or 0 for one in found.outcomes) / 4


def test_the_single_call_is_one_turn_of_one_role(tmp_path: Path) -> None:
    server = Counted(said_by(always))
    found = evaluate(tmp_path, server, None, made=crew(samples=5))
    assert (found.label, found.share) == ("single", 0.25)
    assert {one.turns for one in found.outcomes} == {1}
    assert {one.role for one in server.asked} == {"solver"}
    assert not any(one.body.get("tools") for one in server.asked)


def test_alone_no_tool_helps() -> None:
    plain = alone(find_crew("code"), "coder")
    assert (plain.entry, list(plain.roles), plain.penalty) == ("coder", ["coder"], None)
    assert (plain.roles["coder"].tools, plain.roles["coder"].check, plain.roles["coder"].samples) == (
        (),
        "",
        1,
    )


def test_without_prices_tokens_stand_for_cost(tmp_path: Path) -> None:
    found = evaluate(tmp_path, Counted(said_by(always), costs=False), tasks=quiz(2))
    assert not found.in_money
    assert found.costs(False) == [one.tokens for one in found.outcomes]
    assert found.as_json()["cost_per_item_usd"] is None


def test_a_session_that_fails_is_a_wrong_answer_with_its_reason(tmp_path: Path) -> None:
    def model(asked: Asked) -> str:
        return "" if item_of(asked) == 1 else said_by(always)(asked)

    found = evaluate(tmp_path, Counted(model), None, tasks=quiz(3))
    assert found.right == [True, False, False]
    assert [one.status for one in found.outcomes] == ["completed", "invalid_output", "completed"]
    assert "no valid answer" in found.outcomes[1].reason
    assert list(found.failures().values()) == [1]


class Refusing(Counted):
    """Answers nothing for one question, or for any."""

    def __init__(self, which: str) -> None:
        super().__init__(said_by(always))
        self.which = which

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        if re.search(self.which, str(body.get("messages"))):
            return failure(403, "forbidden", "Not yours.")
        return await super().handle_async_request(request)


def test_an_error_of_one_item_is_that_items_own(tmp_path: Path) -> None:
    found = evaluate(tmp_path, Refusing("Question 2:"), tasks=quiz(12))
    assert [one.status for one in found.outcomes].count("error") == 1
    assert "Not yours" in found.outcomes[2].reason


def test_where_nothing_is_answered_at_all_it_ends_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(StepwellError, match=r"pro answers nothing: .*Not yours"):
        evaluate(tmp_path, Refusing("Question"), tasks=quiz(30))


class Mortal(Counted):
    """Goes away after so many turns."""

    left = 30

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.left -= request.url.path.endswith("/chat/completions")
        if self.left < 0:
            raise httpx2.ConnectError("gone")
        return await super().handle_async_request(request)


def test_a_server_that_goes_away_ends_it_and_the_next_one_goes_on(tmp_path: Path) -> None:
    memo = Memo()
    dying = Mortal(said_by(always))
    with pytest.raises(StepwellError, match=r"does not answer.*the same command goes on"):
        evaluate(tmp_path, dying, memo=memo)
    living = Counted(said_by(always))
    found = evaluate(tmp_path, living, memo=memo)
    fresh = Counted(said_by(always))
    assert found.outcomes == evaluate(tmp_path, fresh).outcomes
    assert len(living.asked) == len(fresh.asked) - len(dying.asked)
    assert len(dying.asked) == 30


def test_sessions_run_at_once_and_no_more_than_asked_for(tmp_path: Path) -> None:
    busy: list[int] = []
    server = Counted(said_by(always))

    async def gate(asked: Asked) -> None:
        busy.append(server.at_once)
        await asyncio.sleep(0)

    server.gate = gate
    evaluate(tmp_path, server, None, sessions=3)
    assert max(busy) == 3


def test_progress_is_told_item_by_item(tmp_path: Path) -> None:
    told: list[ItemsProgressed] = []
    evaluate(tmp_path, Counted(said_by(always)), None, tasks=quiz(5), heard=told.append)
    assert sorted({one.done for one in told}) == [0, 1, 2, 3, 4, 5]
    assert (told[0].done, told[0].turns, told[-1].turns) == (0, 0, 5)
    assert len(told) == 1 + 5 + 5
    assert (told[-1].label, told[-1].count, told[-1].right) == ("single", 5, 2)


def test_what_was_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    async def twice() -> tuple[Evaluation, Evaluation]:
        async with evaluator(tmp_path, server, tasks=quiz(3)) as made:
            return await made.profile(PRO, made.tasks.items), await made.profile(
                Profile("twin"), made.tasks.items
            )

    server = Counted(said_by(always))
    first, second = asyncio.run(twice())
    assert first.outcomes == second.outcomes
    assert (first.label, second.label) == ("pro", "twin")
    assert len(server.asked) == 3 * 4


def test_a_profile_runs_on_the_model_that_it_names(tmp_path: Path) -> None:
    async def run(model: str) -> Evaluation:
        async with evaluator(tmp_path, small, large, tasks=quiz(2)) as made:
            return await made.profile(Profile("p", model=model), made.tasks.items)

    small = Counted(said_by(always), name="small")
    large = Counted(said_by(always), name="large")
    asyncio.run(run("large"))
    assert not small.asked
    assert {one.body["model"] for one in large.asked} == {"large"}
    with pytest.raises(BadInput, match="no server has the model 'huge' here: there is small, large"):
        asyncio.run(run("huge"))


def test_a_task_set_for_another_crew_is_refused(tmp_path: Path) -> None:
    other = TaskSet("words", "poets", "poet", "words", quiz().items)
    with pytest.raises(BadInput, match=r"answered by the role poet.*for the crew poets"):
        Evaluator(crew(), other, [], tmp_path)
    odd = parse_crew('[crew]\nname="odd"\n[roles.solver]\ntools=["hammer"]\n')
    with pytest.raises(BadInput, match="hammer"):
        Evaluator(odd, quiz(), [], tmp_path)


# --- what is read ----------------------------------------------------------------------------------


def test_the_nearest_passage_comes_first_and_none_is_lost() -> None:
    order = ranked(PASSAGES, "How deep is the well of Lorin?")
    assert order[0] == PASSAGES[1]
    assert sorted(order) == sorted(PASSAGES)


def test_readers_with_one_task_read_one_passage_each_in_turn(tmp_path: Path) -> None:
    item, place = Item("i", "Which year was Kavek dug?", "1643", PASSAGES), Workspace(tmp_path)
    read = asyncio.run(reading_of(item, place))
    assert read is not None
    assert read(item.ask, 0) == PASSAGES[0]
    assert {read(item.ask, number) for number in range(3)} == set(PASSAGES)
    assert read(item.ask, 3) == PASSAGES[0]
    whole = asyncio.run(whole_of(item, place))
    assert whole is not None
    assert whole(item.ask, 0) == "\n".join(PASSAGES)
    assert asyncio.run(reading_of(Item("i", "Why?", "so"), place)) is None


def test_each_item_has_its_own_tables_and_the_single_call_reads_them_whole(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    items = tuple(
        Item(f"tables-{count}", "How many wells?", str(count), tables=(("wells", "id\n" + "1\n" * count),))
        for count in (2, 3)
    )

    def analyst(asked: Asked) -> str:
        if asked.last.startswith("Passages") and "response_format" in asked.body:
            return json.dumps({"action": "sql", "arguments": {"query": "SELECT count(*) AS n FROM wells"}})
        found = re.findall(r"\d+", asked.last)
        return json.dumps({"action": "answer", "answer": found[0]})

    server = Counted(analyst)
    options = {"made": find_crew("data"), "tasks": TaskSet("t", "data", "analyst", "number", items)}
    found = evaluate(tmp_path, server, Profile("lone", drop=("planner", "writer", "verifier")), **options)
    assert [one.right for one in found.outcomes] == [True, True]
    first = [one.last for one in server.asked if one.last.startswith("Passages")]
    assert all("Tables:\nwells" in one for one in first)
    server.asked.clear()
    evaluate(tmp_path / "single", server, None, **options)
    assert server.asked[0].last.startswith("Passages:\nwells:\nid\n1\n1\n\nTask: How many")


READERS = """
[crew]
name = "quiz"
drop = ["writer"]
[crew.limits]
rounds = 1
[roles.planner]
may_spawn = ["reader"]
[roles.reader]
"""


def test_the_crew_reads_passages_and_the_single_call_reads_all_of_them(tmp_path: Path) -> None:
    tasks = TaskSet(
        "wells", "quiz", "reader", "words", (Item("i", "Which year was Kavek dug?", "1643", PASSAGES),)
    )
    server = Counted(lambda asked: "1643" if PASSAGES[1] not in asked.last else "40")
    made = parse_crew(READERS)
    alone_right = evaluate(tmp_path, server, None, made=made, tasks=tasks)
    assert PASSAGES[2] in server.asked[0].last
    flash = evaluate(tmp_path, server, Profile("flash", drop=("planner",)), made=made, tasks=tasks)
    assert PASSAGES[0] in server.asked[-1].last
    assert PASSAGES[2] not in server.asked[-1].last
    assert (alone_right.right, flash.right) == ([False], [True])


def test_the_tests_of_an_item_are_what_its_crew_checks_with(tmp_path: Path) -> None:
    item = Item("i", "Write one().", "assert one() == 1", tests="assert one() == 1")
    tasks = TaskSet("programs", "coders", "coder", "program", (item,))
    made = parse_crew(
        '[crew]\nname="coders"\nentry="planner"\ndrop=["writer"]\n[crew.limits]\nrounds=1\n'
        '[roles.planner]\nmay_spawn=["coder"]\n[roles.coder]\ntools=[]\nsamples=3\ncheck="visible_tests"\n'
    )
    programs = {1: "def one(): return 3", 2: "```python\ndef one(): return 1\n```", 3: "never asked"}
    server = Counted(lambda asked: programs[int(asked.agent.rpartition("-")[2])])
    found = evaluate(tmp_path, server, Profile("p", drop=("planner",), wave=1), made=made, tasks=tasks)
    assert found.right == [True]
    assert [one.agent for one in server.asked] == ["coder-1", "coder-2"]
