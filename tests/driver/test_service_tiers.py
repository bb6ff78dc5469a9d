"""Service tiers own memory and compute: who is displaced, who is not, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.loop.requests import Admitted, Finished, Preempted, Rejected
from stepwell.policy.contracts import Contract, Shares, validate_contracts
from tests.driver.harness import Answer, Rig, expected_tokens, make_rig

SECOND = 1_000_000
PRIORITY = Contract("priority", weight=16)
FLEX = Contract("flex", weight=1)


def prompt(seed: int, tokens: int = 40) -> tuple[int, ...]:
    """Different prompts from their first token on."""
    return tuple(97 + (seed * 7 + i * (seed + 3)) % 26 for i in range(tokens))


def tiered(*contracts: Contract, **config: Any) -> Rig:
    settings = {"eviction": "stepwell", "contracts": contracts or (PRIORITY, FLEX), **config}
    return make_rig(
        settings.pop("device", 12), settings.pop("host", 200), settings.pop("disk", 0), **settings
    )


def steps(rig: Rig, count: int) -> None:
    for _ in range(count):
        rig.driver.step()


def preempted(answer: Answer) -> int:
    return sum(isinstance(output, Preempted) for output in answer.outputs)


def finished_at(answers: list[Answer], rig: Rig) -> list[int]:
    """In which order the answers end, as positions."""
    order: list[int] = []
    for _ in range(5_000):
        order += [n for n, answer in enumerate(answers) if answer.ended and n not in order]
        if len(order) == len(answers):
            return order
        rig.driver.step()
    raise AssertionError("they do not end")


def test_paid_arrival_displaces_a_running_lighter_turn_and_both_answer_rightly() -> None:
    rig = tiered()
    flex = rig.ask(prompt(1, 100), 60, tenant="f", service_tier="flex")
    steps(rig, 30)
    paid = rig.ask(prompt(2, 100), 20, tenant="p", service_tier="priority")
    assert finished_at([flex, paid], rig) == [1, 0]
    assert preempted(flex) == 1
    assert preempted(paid) == 0
    assert flex.tokens == expected_tokens(prompt(1, 100), 60)
    assert paid.tokens == expected_tokens(prompt(2, 100), 20)
    assert rig.driver.snapshot().counters["recomputed_tokens"] == 0, "its KV went down a step, not away"


@pytest.mark.parametrize("host", [1, 2])
def test_who_left_for_another_does_not_take_the_room_back_while_that_one_waits_for_writes(host: int) -> None:
    """Both service tiers are owed a place. The flex turn was opened again at once, in the room that it had
    just left; beside a second paid turn it was displaced in the same step again, and nobody ran any more."""
    paid = Contract("priority", weight=16, guaranteed=Shares(step_tokens=400))
    flex = Contract("flex", weight=1, guaranteed=Shares(step_tokens=100))
    rig = tiered(paid, flex, host=host, disk=60)
    answers = [rig.ask(prompt(2, 100), 40, tenant="f", service_tier="flex")]
    steps(rig, 30)
    rig.tiers.stalled = True
    answers.append(rig.ask(prompt(3, 150), 4, tenant="p", service_tier="priority"))
    table = rig.driver.scheduler.table
    for _ in range(8):
        rig.driver.step()
        assert not table.running
    rig.tiers.stalled = False
    assert finished_at(answers, rig) == [1, 0]
    assert table.preemptions == 1


@pytest.mark.parametrize("another_waits", [False, True])
def test_while_a_paid_turn_waits_for_anothers_room_lighter_turns_do_not_slow_that_one_down(
    another_waits: bool,
) -> None:
    """A paid turn that streams leaves others the time up to its target, but not while one of its own service
    tier waits for its place: it ends sooner, and that one begins sooner."""
    paid = Contract("priority", weight=16, ttft_target_us=10**6, tpot_target_us=20_000)
    rig = tiered(paid, FLEX, device=24)
    first = rig.ask(prompt(1, 170), 40, tenant="p", service_tier="priority")
    steps(rig, 8)
    rig.ask(prompt(2, 140), 4, tenant="f", service_tier="flex")
    steps(rig, 2)
    if another_waits:
        rig.ask(prompt(3, 200), 4, tenant="p", service_tier="priority", session="another")
        steps(rig, 1)
    turns = rig.driver.scheduler.table.turns
    before = turns[2].computed
    steps(rig, 6)
    assert not first.ended
    assert (turns[2].computed == before) == another_waits
    rig.settle()


def test_a_lighter_arrival_never_displaces_a_heavier_turn() -> None:
    rig = tiered()
    paid = rig.ask(prompt(2, 100), 40, tenant="p", service_tier="priority")
    steps(rig, 10)
    flex = rig.ask(prompt(1, 100), 20, tenant="f", service_tier="flex")
    assert finished_at([paid, flex], rig) == [0, 1]
    assert preempted(paid) == 0


def test_idle_blocks_go_before_a_running_turn() -> None:
    """Idle blocks of the lighter service tier are enough: nobody is preempted."""
    rig = tiered(device=24)
    idle = rig.ask(prompt(5, 120), 4, tenant="f", service_tier="flex", agent="idle")
    rig.settle()
    running = rig.ask(prompt(1, 100), 60, tenant="f", service_tier="flex", agent="busy")
    steps(rig, 12)
    paid = rig.ask(prompt(2, 100), 10, tenant="p", service_tier="priority")
    rig.settle()
    assert idle.ended
    assert paid.ended
    assert preempted(running) == 0
    assert rig.driver.snapshot().counters["evictions_device_host"] > 0


def test_lighter_idle_blocks_go_before_ones_own() -> None:
    rig = tiered(device=20)
    rig.ask(prompt(5, 100), 4, tenant="p", service_tier="priority", agent="own")
    rig.settle()
    rig.clock.sleep_us(SECOND)  # the paid one's idle blocks are the older ones
    rig.ask(prompt(6, 100), 4, tenant="f", service_tier="flex", agent="theirs")
    rig.settle()
    rig.ask(prompt(2, 140), 10, tenant="p", service_tier="priority", agent="new")
    rig.settle()
    where = {view.agent: view.kv_tokens for view in rig.driver.snapshot().agents}
    assert where["own"]["device"] > where["theirs"]["device"]  # type: ignore[index]


def test_what_rests_within_a_guarantee_stays() -> None:
    """A flood of flex turns finds the device full before it reaches what priority is guaranteed."""
    owed = Contract("priority", weight=16, guaranteed=Shares(device=400))
    rig = tiered(owed, FLEX, device=25)
    rig.ask(prompt(5, 140), 8, tenant="p", service_tier="priority", agent="own")
    rig.settle()
    flood = [
        rig.ask(prompt(10 + n, 90), 30, tenant="f", service_tier="flex", agent=f"f{n}") for n in range(12)
    ]
    for _ in range(400):
        rig.driver.step()
        view = next(v for v in rig.driver.snapshot().agents if v.agent == "own")
        assert view.kv_tokens["device"] >= 140  # type: ignore[index]
    rig.settle()
    assert all(answer.ended for answer in flood)


def test_without_others_a_service_tier_borrows_everything() -> None:
    owed = Contract("priority", weight=16, guaranteed=Shares(device=800, step_tokens=800))
    rig = tiered(owed, FLEX, device=12)
    flex = rig.ask(prompt(1, 150), 20, tenant="f", service_tier="flex")
    rig.settle()
    assert isinstance(flex.end, Finished)


def test_a_cap_holds_on_an_empty_machine() -> None:
    capped = Contract("flex", weight=1, cap=Shares(step_tokens=1000, device=500, host=1000, disk=1000))
    rig = tiered(PRIORITY, capped, device=20)
    flood = [rig.ask(prompt(n, 90), 20, tenant="f", service_tier="flex") for n in range(4)]
    most = 0
    while not all(answer.ended for answer in flood):
        rig.driver.step()
        most = max(most, rig.driver.snapshot().running)
    assert most == 1  # each reserves 7 of the 10 frames that flex may have


def test_a_displaced_turn_is_not_displaced_again_at_once() -> None:
    """Hysteresis: between two preemptions it generates something."""
    rig = tiered()
    flex = rig.ask(prompt(1, 100), 80, tenant="f", service_tier="flex")
    steps(rig, 20)
    paid = []
    for n in range(40):
        paid.append(rig.ask(prompt(20 + n, 90), 2, tenant="p", service_tier="priority"))
        steps(rig, 6)
    rig.settle()
    assert preempted(flex) <= 1 + len(flex.tokens) // 16
    assert all(answer.ended for answer in paid)
    assert flex.tokens == expected_tokens(prompt(1, 100), 80)


# --- compute -----------------------------------------------------------------------------------


def gaps_us(rig: Rig, answer: Answer) -> list[int]:
    """Clock time between the tokens of an answer, stepping the rig until it ends."""
    gaps, seen, last_us = [], len(answer.tokens), rig.clock.now_us()
    while not answer.ended:
        rig.driver.step()
        if len(answer.tokens) > seen:
            gaps.append(rig.clock.now_us() - last_us)
            seen, last_us = len(answer.tokens), rig.clock.now_us()
    return gaps


def machine(*contracts: Contract, **config: Any) -> Rig:
    costs = {"decode_us_per_step": 8_000, "decode_us_per_sequence": 2_000, **config}
    rig = tiered(*contracts, device=400, host=400, **costs)
    for n in range(4):  # what decoding and prefill cost is measured, not configured
        rig.ask(prompt(60 + n, 30), 12, tenant="w", service_tier="flex", agent=f"warm{n}")
        rig.driver.run_until_idle()
    return rig


def test_a_stream_with_a_target_is_not_slowed_beyond_it() -> None:
    target = Contract("priority", weight=16, tpot_target_us=20_000)
    rig = machine(target, FLEX)
    flood = [rig.ask(prompt(100 + n, 200), 30, tenant="f", service_tier="flex") for n in range(12)]
    paid = rig.ask(prompt(2, 40), 30, tenant="p", service_tier="priority")
    gaps = gaps_us(rig, paid)[2:]
    rig.settle()
    assert sorted(gaps)[len(gaps) // 2] <= 20_000
    assert all(answer.ended for answer in flood)


def test_without_a_target_the_flood_slows_everybody() -> None:
    rig = machine(PRIORITY, FLEX)
    for n in range(12):
        rig.ask(prompt(100 + n, 200), 30, tenant="f", service_tier="flex")
    paid = rig.ask(prompt(2, 40), 30, tenant="p", service_tier="priority")
    gaps = gaps_us(rig, paid)[2:]
    rig.settle()
    assert sorted(gaps)[len(gaps) // 2] > 20_000


def test_a_guarantee_of_compute_is_kept_beside_paid_streams() -> None:
    """Paid streams leave no time in a step; flex still gets about the tenth that it is guaranteed."""
    tight = Contract("priority", weight=16, tpot_target_us=1_000)
    owed = Contract("flex", weight=1, guaranteed=Shares(step_tokens=100))
    rig = machine(tight, owed)
    paid = [rig.ask(prompt(2 + n, 40), 150, tenant="p", service_tier="priority") for n in range(2)]
    flex = rig.ask(prompt(90, 2000), 10, tenant="f", service_tier="flex")
    begun_us = rig.clock.now_us()
    while not any(answer.ended for answer in paid):
        rig.driver.step()
    spent_us = rig.clock.now_us() - begun_us
    turn = next(t for t in rig.driver.scheduler.table.turns.values() if t.arrival.tenant == "f")
    share = turn.computed * 2_000 / spent_us
    assert 0.07 <= share <= 0.2
    rig.settle()
    assert flex.ended


def test_a_reserved_part_of_the_step_stays_free_for_who_may_come() -> None:
    reserved = Contract("priority", weight=16, guaranteed=Shares(step_tokens=750), borrowable=0)
    rig = machine(reserved, FLEX)
    rig.ask(prompt(9, 200), 2, tenant="f", service_tier="flex")
    rig.driver.step()
    before_us = rig.clock.now_us()
    rig.driver.step()
    assert rig.clock.now_us() - before_us <= 16 * 2_000  # a quarter of the 64 tokens of a step
    rig.settle()


def test_one_tenant_with_many_agents_does_not_starve_another() -> None:
    rig = machine(FLEX, max_running=2)
    crowd = [rig.ask(prompt(100 + n, 100), 10, tenant="crowd", service_tier="flex") for n in range(20)]
    steps(rig, 2)
    lone = rig.ask(prompt(2, 100), 10, tenant="lone", service_tier="flex")
    order = finished_at([*crowd, lone], rig)
    assert order.index(20) <= 3  # the two that ran, and at most one more


def test_one_session_with_many_agents_does_not_starve_another() -> None:
    rig = machine(FLEX, max_running=2)
    asked = [
        rig.ask(prompt(100 + n, 100), 10, tenant="t", service_tier="flex", session="big") for n in range(12)
    ]
    steps(rig, 2)
    asked.append(rig.ask(prompt(2, 100), 10, tenant="t", service_tier="flex", session="small"))
    assert finished_at(asked, rig).index(12) <= 4


def test_a_flood_of_paid_turns_leaves_the_guaranteed_places() -> None:
    """However many paid turns wait: flex has its tenth of the places and of the compute, long before the
    bound on its waiting."""
    owed = Contract("flex", weight=1, guaranteed=Shares(step_tokens=100), max_wait_us=10_000 * SECOND)
    rig = machine(PRIORITY, owed, max_running=10)
    for n in range(60):
        rig.ask(prompt(100 + n, 60), 60, tenant="p", service_tier="priority")
    flex = [rig.ask(prompt(700 + n, 60), 20, tenant="f", service_tier="flex") for n in range(3)]
    rig.driver.step()
    while not all(answer.ended for answer in flex):
        assert len(rig.driver.scheduler.table.waiting) > 8, "the flood is over and flex still waits"
        rig.driver.step()
    rig.settle()


def test_a_turn_that_is_owed_a_place_and_does_not_fit_holds_up_nobody() -> None:
    owed = Contract("flex", weight=1, guaranteed=Shares(step_tokens=100))
    rig = tiered(PRIORITY, owed, device=12)
    running = rig.ask(prompt(1, 90), 30, tenant="p", service_tier="priority")
    steps(rig, 8)
    large = rig.ask(prompt(2, 150), 10, tenant="f", service_tier="flex")
    small = rig.ask(prompt(3, 20), 4, tenant="p", service_tier="priority")
    assert finished_at([running, large, small], rig) == [2, 0, 1]


# --- the bound on waiting ----------------------------------------------------------------------


@pytest.mark.parametrize("guaranteed", [Shares(), Shares(step_tokens=50, device=100)])
def test_an_adversary_cannot_starve_flex(guaranteed: Shares) -> None:
    """Paid turns arrive faster than the machine serves them and fill it to the last frame. A flex turn
    is opened once it has waited for its bound and whoever ran then has ended."""
    bound_us = 3 * SECOND
    waiting = Contract("flex", weight=1, guaranteed=guaranteed, max_wait_us=bound_us)
    costs = {"decode_us_per_step": 8_000, "decode_us_per_sequence": 2_000}
    rig = tiered(Contract("priority", weight=16, ttft_target_us=1_000), waiting, max_waiting=10_000, **costs)
    flex = rig.ask(prompt(1, 60), 10, tenant="f", service_tier="flex")
    asked_us, n = rig.clock.now_us(), 0
    one_turn_us = 150 * 2_000 + 20 * 12_000
    while not flex.ended:
        assert rig.clock.now_us() - asked_us < bound_us + 4 * one_turn_us, "it starves"
        if len(rig.driver.scheduler.table.waiting) < 10:
            n += 1
            rig.ask(prompt(10 + n % 900, 100 + n % 50), 20, tenant="p", service_tier="priority")
        rig.driver.step()
    assert any(isinstance(output, Admitted) for output in flex.outputs)
    rig.settle()


def test_a_turn_that_is_displaced_again_and_again_keeps_the_time_that_it_has_waited() -> None:
    """Each time it has a place a paid turn comes and takes it, long before the bound on one stay in the
    queue. Its stays are added up: else it would have no first token for as long as the adversary likes."""
    bound_us = 2 * SECOND
    owed = Contract("flex", weight=1, guaranteed=Shares(step_tokens=100), max_wait_us=bound_us)
    costs = {"decode_us_per_step": 8_000, "decode_us_per_sequence": 2_000}
    rig = tiered(PRIORITY, owed, device=44, step_tokens=32, **costs)
    flex = rig.ask(prompt(1, 600), 10, tenant="f", service_tier="flex")
    asked_us, n = rig.clock.now_us(), 0
    one_turn_us = 600 * 2_000 + 20 * 12_000
    while not flex.tokens:
        assert rig.clock.now_us() - asked_us < bound_us + 2 * one_turn_us, "it starves"
        rig.driver.step()
        turns = rig.driver.scheduler.table.turns.values()
        if not any(turn.contract.name == "priority" for turn in turns):
            n += 1
            rig.ask(prompt(10 + n % 900, 200), 20, tenant="p", service_tier="priority")
    assert preempted(flex) > 2
    rig.settle()


def test_a_turn_that_has_a_place_and_is_given_no_compute_waits_as_well() -> None:
    """Paid streams, one after the other, leave no time in any step, and flex is guaranteed none."""
    bound_us = 2 * SECOND
    tight = Contract("priority", weight=16, tpot_target_us=1_000)
    waiting = Contract("flex", weight=1, max_wait_us=bound_us)
    rig = machine(tight, waiting)
    for n in range(3):
        rig.ask(prompt(200 + n, 40), 40 + 20 * n, tenant="p", service_tier="priority")
    steps(rig, 4)
    flex = rig.ask(prompt(1, 60), 10, tenant="f", service_tier="flex")
    asked_us, n = rig.clock.now_us(), 0
    while not flex.ended:
        assert rig.clock.now_us() - asked_us < 2 * bound_us, "it starves"
        rig.driver.step()
        if rig.driver.snapshot().running + rig.driver.snapshot().waiting < 4:
            n += 1
            rig.ask(prompt(210 + n, 40), 60, tenant="p", service_tier="priority")
    rig.settle()


@pytest.mark.parametrize("streams", [1, 3, 6])
@pytest.mark.parametrize("decode_us", [5_000, 40_000, 90_000])
def test_turns_at_their_bound_slow_paid_streams_by_a_fifth_and_go_on_in_every_step(
    streams: int, decode_us: int
) -> None:
    """Their target leaves no time at all and flex is guaranteed none: what the bound costs who streams
    is known beforehand."""
    tight = Contract("priority", weight=16, tpot_target_us=1_000)
    rig = machine(tight, Contract("flex", weight=1, max_wait_us=SECOND), decode_us_per_step=decode_us)
    paid = [rig.ask(prompt(200 + n, 40), 400, tenant="p", service_tier="priority") for n in range(streams)]
    steps(rig, 8)
    flood = [rig.ask(prompt(300 + n, 400), 10, tenant="f", service_tier="flex") for n in range(3)]
    turns, alone_us, took_us = rig.driver.scheduler.table.turns, decode_us + 2_000 * streams, []
    while not flood[0].tokens:
        of_flex = [turn for turn in turns.values() if turn.contract.name == "flex"]
        seen, begun_us = [len(answer.tokens) for answer in paid], rig.clock.now_us()
        aged = bool(of_flex) and all(turn.aged for turn in of_flex)
        rig.driver.step()
        if not aged or any(answer.ended for answer in paid):
            continue
        took_us.append(rig.clock.now_us() - begun_us)
        assert [len(answer.tokens) for answer in paid] == [count + 1 for count in seen]
        assert sum(turn.computed for turn in of_flex) >= len(took_us) - 1, "a token in every step"
    most_us = alone_us + max(alone_us // 5, 2_000)  # one token in any case
    assert sum(took_us) <= 1.05 * most_us * len(took_us)  # by prices that are learned on the way
    rig.settle()


def test_prompts_beside_a_paid_stream_leave_a_turn_at_its_bound_a_sixth_of_its_pace() -> None:
    """The stream says what may run beside it, and the prompts of an adversary come first and never end."""
    bound_us = 2 * SECOND
    tight = Contract("priority", weight=16, tpot_target_us=1_000)
    rig = machine(tight, Contract("flex", weight=1, max_wait_us=bound_us))
    rig.ask(prompt(200, 40), 900, tenant="p", service_tier="priority")
    steps(rig, 4)
    flex, asked_us = rig.ask(prompt(1, 300), 10, tenant="f", service_tier="flex"), rig.clock.now_us()
    prompts: list[Answer] = []
    while not flex.tokens:
        if sum(not answer.ended for answer in prompts) < 3:
            prompts.append(rig.ask(prompt(300 + len(prompts), 150), 1, tenant="p", service_tier="priority"))
        rig.driver.step()
    waited_us = rig.clock.now_us() - asked_us
    assert bound_us < waited_us < 1.1 * (bound_us + 6 * 300 * 2_000)
    rig.settle()


def test_a_turn_at_its_bound_waits_for_a_paid_stream_to_end_but_not_for_ever() -> None:
    """The stream has the room that it needs, once for longer than the bound and once for more than twice."""
    bound_us = 2 * SECOND
    rig = tiered(PRIORITY, Contract("flex", weight=1, max_wait_us=bound_us), decode_us_per_step=60_000)
    paid = rig.ask(prompt(2, 100), 50, tenant="p", service_tier="priority")
    steps(rig, 4)
    flex = rig.ask(prompt(1, 100), 10, tenant="f", service_tier="flex")
    assert finished_at([paid, flex], rig) == [0, 1]
    assert preempted(paid) == 0
    paid = rig.ask(prompt(3, 100), 90, tenant="p", service_tier="priority")
    steps(rig, 4)
    flex, asked_us = rig.ask(prompt(4, 100), 10, tenant="f", service_tier="flex"), rig.clock.now_us()
    while not flex.tokens:
        rig.driver.step()
    assert preempted(paid) == 1
    assert 2 * bound_us <= rig.clock.now_us() - asked_us < 2 * bound_us + SECOND
    rig.settle()


def test_a_paid_turn_finds_room_among_turns_at_their_bound_and_the_one_that_leads_stays() -> None:
    """They share a fifth of the compute, so all of them together would hold their frames for long, and paid
    turns would wait for that: only one of them at a time keeps its place."""
    tight = Contract("priority", weight=16, tpot_target_us=1_000)
    flex = Contract("flex", weight=1, max_wait_us=SECOND)
    rig = tiered(tight, flex, device=32, decode_us_per_step=20_000)
    rig.ask(prompt(2, 100), 400, tenant="p", service_tier="priority")
    steps(rig, 4)
    flood = [rig.ask(prompt(300 + n, 90), 20, tenant="f", service_tier="flex") for n in range(3)]
    rig.driver.step()
    turns = rig.driver.scheduler.table.turns.values()
    of_flex = [turn for turn in turns if turn.contract.name == "flex"]
    while not all(turn.aged for turn in of_flex):
        rig.driver.step()
    rig.driver.step()
    assert [turn.leads for turn in of_flex] == [True, False, False]
    second = rig.ask(prompt(5, 100), 20, tenant="p", service_tier="priority", session="second")
    steps(rig, 2)
    assert any(isinstance(output, Admitted) for output in second.outputs)
    assert preempted(flood[0]) == 0
    assert any(preempted(answer) for answer in flood[1:])
    assert finished_at(flood, rig) == [0, 1, 2]


def test_a_full_queue_gives_up_the_youngest_of_the_lightest() -> None:
    rig = tiered(max_running=1, max_waiting=3)
    running = rig.ask(prompt(1, 20), 200, tenant="f", service_tier="flex")
    rig.driver.step()
    old, young = (rig.ask(prompt(n, 20), 2, tenant="f", service_tier="flex") for n in (2, 3))
    first, second, third, fourth = (
        rig.ask(prompt(n, 20), 2, tenant="p", service_tier="priority") for n in range(4, 8)
    )
    rig.settle()
    refused = [one for one in (running, old, young, first, second, third, fourth) if is_refused(one)]
    assert refused == [old, young, fourth], "two were taken back, then all the queue was theirs"


def is_refused(answer: Answer) -> bool:
    return isinstance(answer.end, Rejected) and answer.end.code == "rate_limit_exceeded"


def test_guarantees_that_exceed_the_machine_are_named() -> None:
    half = Shares(host=600)
    with pytest.raises(ValueError, match=r"guarantees of host add up to 1\.2 .*a 0\.6 \+ b 0\.6"):
        validate_contracts([Contract("a", guaranteed=half), Contract("b", guaranteed=half)])
    with pytest.raises(ValueError, match="'a' is there twice"):
        validate_contracts([Contract("a"), Contract("a")])


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", 0), ("weight", 1001), ("borrowable", -1), ("guaranteed", Shares(disk=1001))],
)
def test_a_contract_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="service tier 'x'"):
        Contract("x", **{field: value})  # type: ignore[arg-type]
