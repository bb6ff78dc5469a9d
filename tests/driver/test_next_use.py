"""What is declared or learned about the next use decides what sinks, what comes up, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.loop.requests import Admitted
from stepwell.policy.contracts import Contract
from stepwell.policy.eviction.value import agent_value
from stepwell.policy.types import Hint, KvTier, Wait
from tests.driver.harness import Answer, Rig, expected_tokens, make_rig

SECOND = 1_000_000
CONTEXT = 63
"""Tokens of a context after a turn of 62 and 2: the last one is known and not computed."""
FLAT = (Contract("default"),)


def rig_of(device: int, host: int, disk: int, **config: Any) -> Rig:
    return make_rig(device, host, disk, eviction="stepwell", contracts=FLAT, **config)


def prompt(seed: int, tokens: int) -> tuple[int, ...]:
    """Different from every other seed's from its first token on."""
    return (
        97 + seed % 26,
        97 + seed // 26 % 26,
        *((97 + (seed * 5 + i * 3) % 26) for i in range(tokens - 2)),
    )


def turn(rig: Rig, agent: str, seed: int, tokens: int = 62, hint: Hint | None = None, **more: Any) -> Answer:
    """One turn from start to end: two tokens of answer."""
    more.setdefault("tenant", "t")
    answer = rig.ask(prompt(seed, tokens), 2, agent=agent, hint=hint or Hint(), **more)
    rig.settle()
    assert answer.ended
    return answer


def where(rig: Rig, agent: str, tenant: str = "t") -> dict[KvTier, int]:
    return next(v.kv_tokens for v in rig.driver.snapshot().agents if (v.tenant, v.agent) == (tenant, agent))


def cached(answer: Answer) -> int:
    return next(output.cached_tokens for output in answer.outputs if isinstance(output, Admitted))


def declared(seconds: float, wait: Wait = Wait.TOOL) -> Hint:
    return Hint(wait, int(seconds * SECOND))


def test_who_comes_back_soon_stays() -> None:
    rig = rig_of(device=12, host=4, disk=0)
    turn(rig, "soon", 1, hint=declared(2))
    turn(rig, "late", 2, hint=declared(3_000))  # used later than 'soon': LRU would keep it
    turn(rig, "next", 3, tokens=120)
    assert where(rig, "soon")[KvTier.DEVICE] + where(rig, "soon")[KvTier.HOST] == CONTEXT
    assert where(rig, "late")[KvTier.DEVICE] < CONTEXT


def test_who_is_finished_goes_first() -> None:
    rig = rig_of(device=12, host=0, disk=0)
    turn(rig, "waits", 1, hint=Hint(Wait.PERSON))
    turn(rig, "done", 2, hint=Hint(Wait.DONE))
    turn(rig, "new", 3, tokens=90)
    assert where(rig, "waits")[KvTier.DEVICE] == CONTEXT
    assert sum(where(rig, "done").values()) < CONTEXT


def test_what_is_finished_is_not_written_to_disk() -> None:
    rig = rig_of(device=8, host=8, disk=200)
    for n in range(6):
        turn(rig, f"done{n}", n, hint=Hint(Wait.DONE))
    assert rig.driver.snapshot().counters["moved_bytes_host_disk"] == 0
    for n in range(6):
        turn(rig, f"tool{n}", 30 + n, hint=declared(5))
    assert rig.driver.snapshot().counters["moved_bytes_host_disk"] > 0


def test_blocks_come_up_before_their_declared_use() -> None:
    rig = rig_of(device=10, host=12, disk=200)
    turn(rig, "tool", 1, hint=declared(20))
    rig.driver.demote_idle(KvTier.DISK)
    assert where(rig, "tool")[KvTier.DISK] == CONTEXT
    turn(rig, "other", 2, tokens=5, hint=Hint(Wait.DONE))  # what was pushed down stays until somebody calls
    for _ in range(100):  # whenever the policy wants to be woken; nobody else calls
        wake_at_us = rig.driver.step()
        if wake_at_us is None or where(rig, "tool")[KvTier.HOST]:
            break
        rig.clock.sleep_us(max(0, wake_at_us - rig.clock.now_us()))
    rig.settle()
    assert rig.clock.now_us() < 20 * SECOND
    assert where(rig, "tool")[KvTier.HOST] == CONTEXT
    answer = turn(rig, "tool", 1, tokens=100)
    assert next(o for o in answer.outputs if isinstance(o, Admitted)).cached.disk == 0


def test_an_idle_machine_is_woken_for_what_came_to_the_disk_since_its_timer_was_set() -> None:
    """Three others push the context down, and nobody calls any more. No timer of its own woke the machine
    then: it was read when its agent came. Now it comes up once the others have outlasted what they said."""
    rig = rig_of(device=8, host=4, disk=60)
    turn(rig, "long", 1, hint=declared(60))
    began_us = rig.clock.now_us()
    for n in range(3):
        rig.clock.sleep_us(SECOND)
        turn(rig, f"short{n}", 3 + n, hint=declared(20))
    assert where(rig, "long")[KvTier.DISK] == CONTEXT
    for _ in range(100):
        wake_at_us = rig.driver.step()
        if wake_at_us is None or where(rig, "long")[KvTier.HOST]:
            break
        rig.clock.sleep_us(max(0, wake_at_us - rig.clock.now_us()))
    assert where(rig, "long")[KvTier.HOST] > 0
    assert rig.clock.now_us() - began_us < 55 * SECOND, "a sixth of what was declared is left at least"


def test_what_is_used_sooner_comes_up_first_and_stays_up() -> None:
    rig = rig_of(device=8, host=5, disk=200)
    turn(rig, "late", 1, hint=declared(3_000))
    turn(rig, "soon", 2, hint=declared(50))
    rig.driver.demote_idle(KvTier.DISK)
    turn(rig, "other", 3, tokens=5, hint=Hint(Wait.DONE))
    for _ in range(10):
        rig.clock.sleep_us(SECOND)
        rig.settle()
        assert where(rig, "soon")[KvTier.HOST] == CONTEXT
    assert where(rig, "late")[KvTier.DISK] >= 47
    assert rig.driver.snapshot().counters["moved_bytes_disk_host"] <= 5 * 128, "nothing goes up and down"


def test_a_gap_is_learned_without_a_word() -> None:
    """Checkers come back after two seconds, writers after an hour; nobody says so."""
    rig = rig_of(device=24, host=0, disk=0)
    for n in range(8):
        for agent, gap_s in (("checker", 2), ("writer", 3_600)):
            turn(rig, f"{agent}{n}", 40 + n, role=agent)
            rig.clock.sleep_us(gap_s * SECOND)
            turn(rig, f"{agent}{n}", 40 + n, tokens=70, role=agent)
            rig.driver.scheduler.agents._forget(("t", f"{agent}{n}"))
    turn(rig, "checker", 1, tokens=120, role="checker")
    turn(rig, "writer", 2, tokens=120, role="writer")
    turn(rig, "new", 3, tokens=160)
    assert where(rig, "checker")[KvTier.DEVICE] == 121
    assert where(rig, "writer")[KvTier.DEVICE] < 121


def test_who_waits_for_another_comes_back_when_that_one_has_answered() -> None:
    rig = rig_of(device=64, host=0, disk=0)
    turn(rig, "writer", 1, hint=Hint(Wait.AGENT, after_agent="reader"))
    record = rig.driver.scheduler.agents.records["t", "writer"]
    rig.clock.sleep_us(100 * SECOND)
    rig.settle()
    before = rig.driver.scheduler.block_manager.eviction.expectation(record, rig.clock.now_us())
    turn(rig, "reader", 2)
    after = rig.driver.scheduler.block_manager.eviction.expectation(record, rig.clock.now_us())
    assert after[0] is not None
    assert before[0] is None or after[0] - rig.clock.now_us() < before[0] - 100 * SECOND
    assert "called after reader" in after[1]


def test_a_child_that_its_parent_left_behind_goes_first() -> None:
    rig = rig_of(device=12, host=0, disk=0)
    turn(rig, "child", 1, hint=Hint(Wait.UNKNOWN), parent_agent="parent")
    turn(rig, "other", 2, hint=Hint(Wait.UNKNOWN), parent_agent="somebody")
    rig.clock.sleep_us(SECOND)
    turn(rig, "parent", 3, tokens=30)
    turn(rig, "new", 4, tokens=40)
    assert where(rig, "other")[KvTier.DEVICE] == CONTEXT
    assert where(rig, "child")[KvTier.DEVICE] < CONTEXT


def test_paid_retention_is_written_and_outlives_what_nobody_asked_to_keep() -> None:
    rig = rig_of(device=8, host=8, disk=12)
    turn(rig, "kept", 1, hint=Hint(Wait.DONE, retain_us=3_600 * SECOND))
    for n in range(8):
        turn(rig, f"done{n}", 10 + n, hint=Hint(Wait.DONE))
    assert sum(where(rig, "kept").values()) == CONTEXT


def test_the_write_budget_holds() -> None:
    day_us = 24 * 3600 * SECOND
    rig = rig_of(device=8, host=8, disk=500, disk_write_bytes_per_day=30 * 128)
    for n in range(40):
        turn(rig, f"a{n}", n, hint=declared(600))
        rig.clock.sleep_us(day_us // 400)  # a tenth of a day in all, and a tenth in advance
    written = rig.driver.snapshot().counters["moved_bytes_host_disk"]
    assert 0 < written <= 6 * 128


# --- hints that lie -----------------------------------------------------------------------------


def honest_life(hint_of_liar: Hint, tenant: str = "liar") -> int:
    """Tokens that an honest tenant's turns found cached, beside one that says ``hint_of_liar`` of
    agents that come back long after."""
    rig = rig_of(device=24, host=24, disk=0)
    found = 0
    for n in range(40):
        for agent in range(3):
            found += cached(
                turn(rig, f"h{agent}", 1 + agent, tokens=62 + n, tenant="honest", hint=declared(4))
            )
        for agent in range(4):
            seed = 100 + agent + 4 * (n % 8)
            turn(rig, f"l{seed}", seed, tokens=40 + n, tenant=tenant, hint=hint_of_liar)
        rig.clock.sleep_us(4 * SECOND)
    return found


@pytest.mark.parametrize(
    "lie",
    [
        Hint(Wait.TOOL, 1),
        Hint(Wait.TOOL, -(10**9)),
        Hint(Wait.PERSON, 10**18),
        Hint(Wait.AGENT, 1_000, after_agent="h0"),
        Hint(Wait.CHILD, None, after_agent="h1"),
    ],
    ids=["at once", "in the past", "in an age", "another tenant's agent", "another tenant's child"],
)
def test_a_lie_costs_who_tells_it(lie: Hint) -> None:
    """The honest tenant finds as much as beside the same tenant when that says nothing."""
    assert honest_life(lie) >= 0.97 * honest_life(Hint(Wait.TOOL))


def test_a_flood_of_agents_pushes_out_its_own() -> None:
    rig = rig_of(device=24, host=64, disk=0, max_agents=20)
    for n in range(5):
        turn(rig, f"h{n}", n, tenant="honest", tokens=20)
    for n in range(200):
        turn(rig, f"f{n}", 50 + n, tenant="flood", tokens=20)
    known = [(tenant, agent) for tenant, agent in rig.driver.scheduler.agents.records if tenant == "honest"]
    assert len(known) == 5
    assert len(rig.driver.scheduler.agents.records) == 20


def test_a_name_in_another_tenant_is_another_agent() -> None:
    rig = rig_of(device=64, host=0, disk=0)
    turn(rig, "same", 1, tenant="a", hint=declared(5))
    turn(rig, "same", 2, tenant="b", hint=Hint(Wait.DONE))
    records = rig.driver.scheduler.agents.records
    assert records["a", "same"].hint == declared(5)
    rig.driver.hint(0, "b", "same", Hint(Wait.PERSON))
    rig.settle()
    assert records["a", "same"].hint == declared(5)
    assert records["b", "same"].hint == Hint(Wait.PERSON)


def test_an_agent_that_nobody_named_is_known_by_its_prompt() -> None:
    rig = rig_of(device=64, host=0, disk=0)
    first = rig.ask(prompt(1, 60), 4)
    rig.settle()
    rig.ask(prompt(1, 60) + tuple(first.tokens) + (99, 98), 4)
    rig.ask(prompt(2, 60), 4)
    rig.settle()
    records = list(rig.driver.scheduler.agents.records.values())
    assert [record.turns for record in records] == [2, 1]


def test_answers_do_not_depend_on_what_was_declared() -> None:
    rig = rig_of(device=8, host=6, disk=40)
    for n in range(12):
        hint = Hint(list(Wait)[n % len(Wait)], (n * 7919) % 10**7, f"a{n % 5}", n * 10**6)
        answer = turn(rig, f"a{n % 6}", n % 6, tokens=62 + n, hint=hint)
        assert answer.tokens == expected_tokens(prompt(n % 6, 62 + n), 2)


def test_bytes_written_and_read_to_a_purpose_are_counted() -> None:
    rig = rig_of(device=8, host=12, disk=200)
    turn(rig, "a", 1)
    rig.driver.demote_idle(KvTier.DISK)
    counters = rig.driver.snapshot().counters
    assert counters["disk_written_bytes"] == counters["moved_bytes_host_disk"] > 0
    assert counters["disk_useful_bytes"] == 0
    turn(rig, "a", 1, tokens=80)
    counters = rig.driver.snapshot().counters
    assert 0 < counters["disk_useful_bytes"] <= counters["moved_bytes_disk_host"]


def test_a_tenant_that_holds_or_held_much_gives_way() -> None:
    """Block-seconds of host memory: more than twice an equal part counts for less, for a while after too."""
    rig = rig_of(device=6, host=40, disk=0)
    for n in range(9):
        turn(rig, f"h{n}", n, tenant="hoarder", hint=declared(500))
    for n, tenant in enumerate(("a", "b", "c", "a", "b", "c")):
        turn(rig, f"s{n}", 40 + n, tenant=tenant, tokens=20, hint=declared(500))
    quotas = rig.driver.scheduler.block_manager.eviction.quotas

    def valued(tenant: str) -> int:
        return agent_value(1_000, 1, *quotas.held_of_part("default", tenant))

    assert valued("a") == 1_000
    assert valued("hoarder") < 1_000
    rig.clock.sleep_us(64 * SECOND)
    rig.settle()
    holding = quotas._by_tenant["default", 1]
    holding["hoarder"], holding["a"] = 1, holding["a"] + holding["hoarder"] - 1  # it has just let go
    assert valued("hoarder") < 1_000
    rig.clock.sleep_us(640 * SECOND)
    rig.settle()
    assert valued("hoarder") == 1_000
