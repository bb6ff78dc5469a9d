"""Prompts of one tenant: a short one does not wait for another session's long one, and none starves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stepwell.loop.requests import Delta
from stepwell.policy.batch import by_tenant, shortest_first
from stepwell.policy.turns import Turn
from stepwell.policy.types import Plan
from tests.driver.harness import Answer, Rig, make_rig
from tests.driver.test_service_tiers import prompt

LONG, STEP = 1_200, 64
BLOCK = 16


def roomy(**config: Any) -> Rig:
    return make_rig(200, 400, 0, eviction="stepwell", max_waiting=1_000, step_tokens=STEP, **config)


def has_begun(answer: Answer) -> bool:
    return any(isinstance(output, Delta) for output in answer.outputs)


def steps_until_it_begins(rig: Rig, answer: Answer) -> int:
    for count in range(5_000):
        if has_begun(answer):
            return count
        rig.driver.step()
    raise AssertionError("it does not begin")


def test_a_short_prompt_does_not_wait_for_a_long_one_of_another_session() -> None:
    rig = roomy()
    long = rig.ask(prompt(1, LONG), 4, session="a", agent="a")
    rig.driver.step()
    short = rig.ask(prompt(2, 20), 4, session="b", agent="b")
    assert steps_until_it_begins(rig, short) <= 4
    assert not has_begun(long)
    rig.settle()


def test_nor_does_it_wait_for_another_agent_of_its_own_session() -> None:
    rig = roomy()
    rig.ask(prompt(1, LONG), 4, session="a", agent="lead")
    rig.driver.step()
    assert steps_until_it_begins(rig, rig.ask(prompt(2, 20), 4, session="a", agent="helper")) <= 4
    rig.settle()


def test_however_many_long_prompts_of_a_session_wait_before_it() -> None:
    """No room and no place for most of them: the turn of another session is the next to be opened."""
    for waiting in (3, 12, 24, 60):
        rig = roomy(max_running=2)
        for number in range(waiting):
            rig.ask(prompt(10 + number, 400), 4, session="a", agent=f"a{number}")
        rig.driver.step()
        short = rig.ask(prompt(2, 20), 4, session="b", agent="b")
        assert steps_until_it_begins(rig, short) <= 2 * 400 // STEP + 4, waiting
        rig.settle()


def test_many_short_prompts_of_a_session_do_not_keep_another_session_waiting() -> None:
    rig = roomy(max_running=32)
    rig.ask(prompt(1, LONG), 4, session="a", agent="lead")
    for number in range(12):
        rig.ask(prompt(10 + number, 30), 4, session="a", agent=f"a{number}")
    rig.driver.step()
    medium = rig.ask(prompt(3, 60), 4, session="b", agent="b")
    assert steps_until_it_begins(rig, medium) <= 8
    rig.settle()


def test_an_adversary_of_short_prompts_cannot_starve_a_long_one() -> None:
    """At most twice the steps it takes alone, whatever new sessions ask meanwhile."""
    alone = roomy()
    least = steps_until_it_begins(alone, alone.ask(prompt(1, LONG), 4, session="a", agent="a"))
    rig = roomy(max_running=16)
    long = rig.ask(prompt(1, LONG), 4, session="a", agent="a")
    count = number = 0
    while not has_begun(long):
        assert count <= 2 * least + 4, "it starves"
        for _ in range(3):
            number += 1
            rig.ask(prompt(10 + number % 900, 25 + number % 30), 2, session=f"s{number}", agent=f"b{number}")
        rig.driver.step()
        count += 1
    rig.settle()


Asked = st.tuples(st.sampled_from("xyz"), st.sampled_from("st"), st.integers(1, 300))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(Asked, min_size=1, max_size=10))
def test_the_oldest_prompt_of_a_tenant_has_half_of_its_tokens(
    asked: list[tuple[str, str, int]],
) -> None:
    rig = roomy(max_running=16)
    scheduler = rig.driver.scheduler
    step = scheduler.step

    def checked(now_us: int, events: Any) -> Plan:
        plan = step(now_us, events)
        given_to = {piece.request: piece.count for piece in plan.batch}
        turns = [scheduler.table.turns[piece.request] for piece in plan.batch]
        prompts = [scheduler.table.turns[r] for r in scheduler.table.running]
        prompts = [turn for turn in prompts if turn.total - turn.computed > 1]
        assert sum(given_to.values()) <= STEP
        for tenant in sorted({turn.arrival.tenant for turn in turns}):
            same = [turn for turn in prompts if turn.arrival.tenant == tenant]
            got = sum(given_to.get(turn.id, 0) for turn in same)
            if got:
                oldest = min(same, key=lambda turn: turn.id)
                enough = min(oldest.remaining, got // 2 - BLOCK)
                assert given_to.get(oldest.id, 0) >= enough
        return plan

    scheduler.step = checked  # type: ignore[method-assign]
    answers = [
        rig.ask(prompt(number, tokens), 3, tenant=tenant, session=session, agent=f"{number}")
        for number, (tenant, session, tokens) in enumerate(asked)
    ]
    rig.settle()
    assert all(answer.ended for answer in answers)


def turn_of(number: int, tenant: str, session: str, remaining: int, *, aged: bool) -> Turn:
    arrival = SimpleNamespace(tenant=tenant, session=session)
    return cast(
        "Turn",
        SimpleNamespace(
            id=number, arrival=arrival, account=("default", tenant), remaining=remaining, aged=aged
        ),
    )


@given(st.lists(st.tuples(Asked, st.booleans()), min_size=1, max_size=20))
def test_every_session_comes_once_before_any_comes_twice(
    asked: list[tuple[Any, bool]],
) -> None:
    turns = [turn_of(number, *one, aged=aged) for number, (one, aged) in enumerate(asked)]
    groups = by_tenant(turns)
    assert sorted(turn.id for group in groups for turn in group) == [turn.id for turn in turns]
    for group in groups:
        assert len({turn.arrival.tenant for turn in group}) == 1
        assert len(group) == 1 or not any(turn.aged for turn in group)
        oldest, *others = shortest_first(group)
        assert oldest.id == min(turn.id for turn in group)
        rounds: dict[str, int] = {}
        order = []
        for turn in others:
            session = turn.arrival.session
            order.append((rounds.get(session, 0), turn.remaining, turn.id))
            rounds[session] = rounds.get(session, 0) + 1
        assert order == sorted(order)
