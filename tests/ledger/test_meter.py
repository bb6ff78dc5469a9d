"""The meter, one rule a test, with sums by hand. Random lives hold that nothing is lost in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.engines.base import EngineError
from stepwell.ledger.metering.metered import split
from stepwell.ledger.metering.storage import MOST_PAUSE_US
from stepwell.ledger.types import Cause, Kind, Resource
from stepwell.loop.requests import Finished, Rejected
from stepwell.policy.costs import PrefillFit
from stepwell.policy.types import Computed, KvTier, Piece, RequestCancelled
from tests.driver.harness import FlakyTiers, Rig, make_rig
from tests.ledger.meter_world import (
    FRAME,
    HOUR_US,
    budget,
    end,
    got,
    machine_gave,
    nothing_is_held,
    postings,
    turn,
    usage_of,
    wait,
)

DOCUMENT = list(range(60, 60 + 48))  # three blocks of 16
OTHER = list(range(120, 120 + 48))
MINUTE_US = 60_000_000


# --- a batch is split by work -------------------------------------------------------------------


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=12))
def test_parts_sum_to_the_whole_and_each_is_within_one_of_its_share(amount: int, weights: list[int]) -> None:
    parts = split(amount, weights)
    assert sum(parts) == amount
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        exact = amount * weight / total if total else amount / len(weights)
        assert abs(part - exact) <= 1 + exact * 1e-9
        assert part >= 0


def two_running() -> Rig:
    rig = make_rig(device=64)
    rig.ask(DOCUMENT, 8, agent="a")
    rig.ask(OTHER, 8, agent="b")
    rig.driver.step()
    return rig


def split_of(rig: Rig, duration_us: int, pieces: list[Piece], fit: PrefillFit) -> list[int]:
    before = [compute_us(rig, piece.request) for piece in pieces]
    rig.keeper.meter.costs.prefill = fit
    rig.keeper.meter.ran(Computed(0, 0, 0, duration_us), pieces)
    after = [compute_us(rig, piece.request) for piece in pieces]
    return [b - a for a, b in zip(before, after, strict=True)]


def compute_us(rig: Rig, request: int) -> int:
    use = rig.keeper.use_of(request, rig.clock.now_us())
    assert use is not None
    return use.compute_us


def test_a_decode_beside_a_long_prompt_pays_for_one_token() -> None:
    parts = split_of(two_running(), 20_100, [Piece(1, 0, 200), Piece(2, 300, 1)], PrefillFit())
    assert parts == [20_000, 100]


def test_a_token_that_stands_deeper_weighs_more() -> None:
    fit = PrefillFit()
    for tokens, depth_tokens in ((100, 5_000), (100, 95_000), (1, 4_000)):
        fit.add(
            tokens, depth_tokens, 1_000 * tokens + 10 * depth_tokens
        )  # 1 us a token, 10 ns a token before
    token, depth, divisor = fit.coefficients()
    assert token // divisor in (999, 1_000) and (depth * 100) // divisor in (999, 1_000)
    # 10 tokens at depth 0 to 9 weigh 10 x 1000 + 50 x 10; at 1000 to 1009, 10 x 1000 + 10,050 x 10.
    shallow, deep = split_of(two_running(), 1_210_000, [Piece(1, 0, 10), Piece(2, 1_000, 10)], fit)
    assert shallow + deep == 1_210_000
    assert shallow == pytest.approx(1_210_000 * 10_500 / 121_000, rel=0.001)


def test_a_step_is_split_and_what_it_took_is_posted_to_the_microsecond() -> None:
    rig = make_rig(device=64, decode_us_per_step=900, decode_us_per_sequence=101)
    rig.ask(DOCUMENT, 5, agent="a")
    rig.ask(OTHER, 9, agent="b")
    rig.settle()
    end(rig)
    a, b = (got(rig, Resource.COMPUTE, agent) for agent in "ab")
    assert a + b == rig.clock.now_us() == machine_gave(rig, Resource.COMPUTE)
    assert got(rig, Resource.COMPUTE, kind=Kind.OVERHEAD) == 0
    # Two steps of prefill at 2 ms a token, shared by the sessions: 32 + 32 tokens (64 a step), then 16 + 16.
    both = [(900 + 202) // 2] * 4
    assert steps_of(rig, "a") == [64_000, 32_000, *both]
    assert steps_of(rig, "b") == [64_000, 32_000, *both, *[900 + 101] * 4]


def steps_of(rig: Rig, agent: str) -> list[int]:
    return [posting.amount for posting in postings(rig, Resource.COMPUTE, agent)]


# --- copies --------------------------------------------------------------------------------------


def test_copies_are_for_the_request_they_were_made_for_or_for_who_holds_the_block() -> None:
    rig = make_rig(copy_us_per_block=100)
    first = turn(rig, DOCUMENT, 6, agent="a")  # 53 tokens have KV: 4 blocks
    rig.driver.demote_idle(KvTier.HOST)
    turn(rig, [*DOCUMENT, *first.tokens, 97], 2, agent="a")
    end(rig)
    assert (
        got(rig, Resource.COMPUTE, "a", cause=Cause.MOVE, request=0) == 400 + 100
    )  # the tail, when it stops
    assert got(rig, Resource.COMPUTE, "a", cause=Cause.MOVE, request=2) == 400
    assert got(rig, Resource.STORED, "a", request=0) >= 53 * 8
    assert got(rig, Resource.LOADED, "a", request=2) == 53 * 8
    assert got(rig, Resource.LOADED) == machine_gave(rig, Resource.LOADED)


def test_idle_and_overhead_contain_no_copy_and_no_batch() -> None:
    rig = make_rig(copy_us_per_block=100)
    first = turn(rig, DOCUMENT, 6, agent="a")
    wait(rig, 70_000)
    rig.driver.demote_idle(KvTier.HOST)
    turn(rig, [*DOCUMENT, *first.tokens, 97], 2, agent="a")
    rig.clock.sleep_us(30_000)
    end(rig)
    assert got(rig, Resource.COMPUTE, kind=Kind.IDLE) == 70_000 + 30_000
    assert got(rig, Resource.COMPUTE, kind=Kind.OVERHEAD) == 0
    assert machine_gave(rig, Resource.COMPUTE) == rig.clock.now_us()


def test_time_that_passes_beside_a_request_is_overhead() -> None:
    rig = make_rig()
    rig.ask(DOCUMENT, 3, agent="a")
    rig.driver.step()
    rig.clock.sleep_us(1_234)
    rig.settle()
    rig.clock.sleep_us(77)
    end(rig)
    assert got(rig, Resource.COMPUTE, kind=Kind.OVERHEAD) == 1_234
    assert got(rig, Resource.COMPUTE, kind=Kind.IDLE) == 77


def test_what_two_share_is_stored_for_both() -> None:
    """Bytes that leave the device are split among who holds the block."""
    rig = make_rig(device=64, copy_us_per_block=101)
    for agent in "ab":
        turn(rig, [*DOCUMENT, *[ord(agent)] * 3], 2, agent=agent)
    rig.driver.demote_idle(KvTier.HOST)
    rig.driver.step()
    # Three blocks of both, each with 16 tokens, and a tail of 4 tokens for each.
    assert [got(rig, Resource.STORED, agent) for agent in "ab"] == [3 * FRAME // 2 + 4 * 8] * 2
    assert sum(got(rig, Resource.COMPUTE, agent, cause=Cause.MOVE) for agent in "ab") == 5 * 101
    end(rig)


def test_a_load_that_fails_moves_no_bytes_and_costs_its_time() -> None:
    rig = make_rig(copy_us_per_block=100)
    first = turn(rig, DOCUMENT, 6, agent="a")
    rig.driver.demote_idle(KvTier.HOST)
    rig.tiers.kept[KvTier.HOST].clear()
    turn(rig, [*DOCUMENT, *first.tokens, 97], 2, agent="a")
    end(rig)
    assert got(rig, Resource.LOADED) == machine_gave(rig, Resource.LOADED) == 0


# --- storage -------------------------------------------------------------------------------------


def test_two_agents_pay_half_each_for_what_they_share() -> None:
    rig = make_rig(device=64, storage_every_us=MINUTE_US)
    for agent in "ab":
        turn(rig, [*DOCUMENT, *[ord(agent)] * 3], 2, agent=agent)
    wait(rig, MINUTE_US)
    before = [got(rig, Resource.DEVICE, agent) for agent in "ab"]
    wait(rig, 2 * MINUTE_US)
    gained = [got(rig, Resource.DEVICE, agent) - had for agent, had in zip("ab", before, strict=True)]
    # Three frames that they share, and one of its own for each.
    assert gained == [2 * MINUTE_US * (3 * FRAME // 2 + FRAME)] * 2
    end(rig)


def test_room_is_the_requests_while_it_runs_and_the_agents_while_it_waits() -> None:
    rig = make_rig(storage_every_us=10**15)
    first = turn(rig, DOCUMENT, 5, agent="a")
    ended_us = rig.clock.now_us()
    wait(rig, 5_000_000)
    start_us = rig.clock.now_us()
    turn(rig, [*DOCUMENT, *first.tokens, 97], 4, agent="a")
    took_us = rig.clock.now_us() - start_us
    idle = list(postings(rig, Resource.DEVICE, "a", request=0))
    assert [posting.amount for posting in idle] == [(start_us - ended_us) * 4 * FRAME]
    assert got(rig, Resource.DEVICE, "a", request=2) >= took_us * 4 * FRAME
    end(rig)


def test_a_second_turn_of_a_running_agent_takes_no_room_from_the_first() -> None:
    rig = make_rig(device=64, storage_every_us=10**15)
    rig.ask(DOCUMENT, 20, agent="a")
    for _ in range(5):
        rig.driver.step()
    rig.clock.sleep_us(1_000_000)
    rig.ask(OTHER, 2, agent="a")
    rig.settle()
    assert got(rig, Resource.DEVICE, "a", request=0) == 0
    end(rig)


def test_what_three_could_not_divide_is_posted_in_the_end() -> None:
    rig = make_rig(device=64)
    for agent in "abc":
        turn(rig, [*DOCUMENT[:32], *[ord(agent)] * 5], 2, agent=agent)
    wait(rig, 1_000_003)
    assert rig.clock.now_us() * 2 * FRAME % 3, "there is a rest"
    end(rig)
    assert machine_gave(rig, Resource.DEVICE) == rig.clock.now_us() * 64 * FRAME


def test_all_room_is_somebodys_or_idle() -> None:
    rig = make_rig()
    turn(rig, DOCUMENT, 5, agent="a")
    rig.driver.demote_idle(KvTier.DISK)
    wait(rig, 3 * MINUTE_US)
    end(rig)
    passed_us = rig.clock.now_us()
    capacity = (16 * FRAME, 64 * FRAME, 256 * FRAME)
    for resource, size_bytes in zip((Resource.DEVICE, Resource.HOST, Resource.DISK), capacity, strict=True):
        idle, used = got(rig, resource, kind=Kind.IDLE), got(rig, resource, "a")
        assert idle + used == passed_us * size_bytes
    assert got(rig, Resource.DISK, "a") == pytest.approx(3 * MINUTE_US * 52 * 8, rel=0.01)


def test_the_longer_nobody_calls_the_more_rarely_room_is_posted_and_a_call_resets_that() -> None:
    rig = make_rig(storage_every_us=MINUTE_US)
    turn(rig, DOCUMENT, 2, agent="a")
    rig.clock.sleep_us(MINUTE_US - rig.clock.now_us())
    rig.driver.step()
    assert pauses(rig, 9) == [min(MOST_PAUSE_US, MINUTE_US * 2**n) for n in (0, 1, 2, 3, 4, 5, 6, 6, 6)]
    turn(rig, OTHER, 2, agent="b")
    due_us = rig.keeper.due_us() - rig.clock.now_us()
    assert 0 < due_us <= MINUTE_US
    assert pauses(rig, 3) == [due_us, MINUTE_US, 2 * MINUTE_US]
    end(rig)


def pauses(rig: Rig, count: int) -> list[int]:
    """How long it is each time until storage is posted, while nobody calls."""
    found = []
    for _ in range(count):
        start_us = rig.clock.now_us()
        rig.clock.sleep_us(rig.keeper.due_us() - start_us - 1)
        rig.driver.step()
        posted = len(rig.books.batches)
        rig.clock.sleep_us(1)
        rig.driver.step()
        assert len(rig.books.batches) == posted + 1
        found.append(rig.clock.now_us() - start_us)
    return found


def test_an_agent_that_comes_back_under_another_key_or_service_tier_holds_its_context_as_that() -> None:
    rig = make_rig()
    first = turn(rig, DOCUMENT, 4, agent="a", key="key_1")
    context = [*DOCUMENT, *first.tokens, 97]
    second = turn(rig, context, 4, agent="a", key="key_2")
    turn(rig, [*context, *second.tokens, 98], 4, agent="a", key="key_2", service_tier="priority")
    wait(rig, HOUR_US)
    holders = {
        holder.account for block in blocks(rig) for holder in rig.keeper.meter.holdings.holders_of(block)
    }
    assert {(one.key, one.service_tier) for one in holders} == {("key_2", "priority")}
    end(rig)


def test_another_keys_agent_of_the_same_name_under_another_tenant_is_another_agent() -> None:
    rig = make_rig(device=64)
    turn(rig, DOCUMENT, 5, agent="a", tenant="red")
    turn(rig, DOCUMENT, 5, agent="a", tenant="blue")
    holders = [rig.keeper.meter.holdings.holders_of(block) for block in blocks(rig)]
    assert sorted(one.account.tenant for some in holders for one in some) == ["blue"] * 4 + ["red"] * 4
    end(rig)


def blocks(rig: Rig) -> list[bytes]:
    return list(rig.keeper.meter.holdings.blocks)


def test_recovered_blocks_are_their_tenants_until_an_agent_uses_them() -> None:
    rig = make_rig()
    first = turn(rig, DOCUMENT, 4, agent="a", tenant="red")
    rig.driver.stop()
    again = make_rig(tiers=rig.tiers)
    wait(again, MINUTE_US)
    wait(again, 2 * MINUTE_US)
    (posting, *_) = postings(again, Resource.DISK)
    assert (posting.credit.tenant, posting.credit.agent, posting.request) == ("red", "", 0)
    turn(again, [*DOCUMENT, *first.tokens, 97], 2, agent="a", tenant="red")
    holders = {one.account.agent for b in blocks(again) for one in again.keeper.meter.holdings.holders_of(b)}
    assert holders == {"a"}
    end(again)


def test_an_agent_without_kv_is_forgotten() -> None:
    rig = make_rig(device=8, host=0, disk=0)
    for n in range(20):
        turn(rig, [100 + n] * 40, 2)
    wait(rig, 2 * HOUR_US)
    wait(rig, 2 * HOUR_US)
    assert len(rig.keeper.meter._holders) <= 8
    end(rig)


# --- the clock -----------------------------------------------------------------------------------


def test_a_clock_that_goes_back_counts_no_time_and_breaks_nothing() -> None:
    rig = make_rig()
    turn(rig, DOCUMENT, 4, agent="a")
    wait(rig, 1_000)
    before = rig.clock.now_us()
    rig.clock._now_us = before - 700  # type: ignore[attr-defined]
    rig.driver.step()
    assert rig.keeper.meter.clock_went_back_us == 700
    rig.clock._now_us = before + 300  # type: ignore[attr-defined]
    rig.driver.step()
    end(rig)
    assert machine_gave(rig, Resource.COMPUTE) == before + 300


# --- ends ----------------------------------------------------------------------------------------


def test_a_prewarm_pays_for_its_prompt_alone() -> None:
    rig = make_rig()
    turn(rig, DOCUMENT, 1, agent="a", prewarm=True)
    (usage,) = usage_of(rig, 1)
    assert (usage.input_tokens, usage.output_tokens, usage.charge_microusd) == (48, 0, 48 * 100)
    assert got(rig, Resource.COMPUTE, "a") == 48 * 2_000
    end(rig)


def test_what_was_found_is_charged_as_cached_wherever_it_lay() -> None:
    rig = make_rig()
    first = turn(rig, DOCUMENT, 6, agent="a")
    rig.driver.demote_idle(KvTier.DISK)
    turn(rig, [*DOCUMENT, *first.tokens, 97], 2, agent="a")
    (usage,) = usage_of(rig, 2)
    assert (usage.input_tokens, usage.cached_tokens, usage.recomputed_tokens) == (55, 52, 0)
    assert usage.charge_microusd == 52 * 10 + 3 * 100 + 2 * 400
    end(rig)


def test_further_choices_do_not_pay_for_the_prompt_again() -> None:
    rig = make_rig(device=64)
    rig.ask(DOCUMENT, 3, agent="a")
    rig.ask(DOCUMENT, 3, agent="a", same_prompt=True)
    rig.settle()
    first, second = usage_of(rig, 1) + usage_of(rig, 2)
    assert (first.input_tokens, first.charge_microusd) == (48, 48 * 100 + 3 * 400)
    assert (second.input_tokens, second.cached_tokens, second.charge_microusd) == (0, 0, 3 * 400)
    end(rig)


def test_who_is_cancelled_in_the_queue_pays_nothing() -> None:
    rig = make_rig(max_running=1)
    rig.ask(DOCUMENT, 8, agent="a")
    rig.ask(OTHER, 8, agent="b")
    rig.driver.step()
    rig.driver.step()
    rig.driver.cancel(2)
    rig.settle()
    (usage,) = usage_of(rig, 2)
    assert (usage.reason, usage.charge_microusd, usage.input_tokens) == ("cancelled", 0, 0)
    assert got(rig, Resource.COMPUTE, "b") == 0
    assert got(rig, Resource.MONEY, kind=Kind.HELD, request=2) == got(
        rig, Resource.MONEY, kind=Kind.CUSTOMER, request=2, cause=Cause.RELEASE
    )
    end(rig)


def test_who_is_cancelled_while_it_runs_pays_for_what_was_computed() -> None:
    rig = make_rig()
    answer = rig.ask(DOCUMENT, 100, agent="a")
    while len(answer.tokens) < 3:
        rig.driver.step()
    rig.driver.cancel(1)
    rig.settle()
    (usage,) = usage_of(rig, 1)
    assert (usage.reason, usage.input_tokens) == ("cancelled", 48)
    assert usage.charge_microusd == 48 * 100 + len(answer.tokens) * 400
    end(rig)


def test_a_step_that_failed_costs_nothing() -> None:
    rig = make_rig()
    run, failing = rig.engine.run, []

    def fails(batch: list[object]) -> object:
        if failing:
            rig.clock.sleep_us(500)
            raise EngineError("out of luck", [1])
        return run(batch)  # type: ignore[arg-type]

    rig.engine.run = fails  # type: ignore[assignment,method-assign]
    answer = rig.ask(DOCUMENT, 100, agent="a")
    while len(answer.tokens) < 3:
        rig.driver.step()
    before = got(rig, Resource.COMPUTE, "a")
    failing.append(True)
    rig.settle()
    assert isinstance(answer.end, Rejected)
    (usage,) = usage_of(rig, 1)
    assert (usage.reason, usage.charge_microusd) == ("server_error", 0)
    assert got(rig, Resource.COMPUTE, "a") <= before + 2_000
    assert got(rig, Resource.COMPUTE, kind=Kind.OVERHEAD) == 500
    end(rig)


def test_a_refused_request_leaves_no_trace() -> None:
    rig = make_rig(device=4)
    budget(rig, 10**9)
    answer = rig.ask(list(range(60, 160)), 8, agent="a")
    rig.settle()
    assert isinstance(answer.end, Rejected) and answer.end.code == "context_length_exceeded"
    nothing_is_held(rig.keeper.budgets)
    end(rig)
    assert not list(postings(rig, Resource.MONEY, kind=Kind.HELD))
    assert not rig.books.usage()


def test_a_full_queue_holds_nothing() -> None:
    rig = make_rig(max_running=1, max_waiting=2)
    budget(rig, 10**9)
    answers = [rig.ask(DOCUMENT, 8, agent=f"a{n}") for n in range(6)]
    rig.settle()
    refused = [a.end for a in answers if isinstance(a.end, Rejected)]
    assert refused and {one.code for one in refused} == {"rate_limit_exceeded"}
    nothing_is_held(rig.keeper.budgets)
    (state,) = rig.keeper.budgets.states()
    assert state.spent_microusd == sum(usage.charge_microusd for usage in rig.books.usage())
    end(rig)


def test_who_comes_and_goes_before_the_policy_looks_holds_nothing() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    answer = rig.ask(DOCUMENT, 8, agent="a")
    rig.driver.cancel(1)
    rig.settle()
    assert isinstance(answer.end, Finished) and answer.end.reason == "cancelled"
    nothing_is_held(rig.keeper.budgets)
    end(rig)


def test_draining_gives_back_what_those_in_the_queue_held() -> None:
    rig = make_rig(max_running=1)
    budget(rig, 10**9)
    first = rig.ask(DOCUMENT, 8, agent="a")
    rig.driver.step()
    waits = rig.ask(OTHER, 8, agent="b")
    rig.driver.step()
    rig.driver.stop()
    late = rig.ask(OTHER, 8, agent="c")
    assert isinstance(first.end, Finished)
    assert [one.end.code for one in (waits, late) if isinstance(one.end, Rejected)] == [
        "server_overloaded"
    ] * 2
    nothing_is_held(rig.keeper.budgets)
    (usage,) = usage_of(rig, 2)
    assert (usage.reason, usage.charge_microusd) == ("server_overloaded", 0)


def test_a_request_that_nobody_has_looked_at_when_the_driver_stops_holds_nothing() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    rig.driver.run_until_idle = lambda max_steps=0: None  # type: ignore[assignment,method-assign]
    answer = rig.ask(DOCUMENT, 8, agent="a")
    assert rig.keeper.budgets.held_microusd(1)
    rig.driver.stop()
    assert isinstance(answer.end, Rejected)
    nothing_is_held(rig.keeper.budgets)


def test_whom_the_server_gives_up_at_the_end_of_its_patience_pays_nothing() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    answer = rig.ask(DOCUMENT, 100, agent="a")
    while len(answer.tokens) < 3:
        rig.driver.step()
    rig.driver._stop_at_us = rig.clock.now_us() - 1
    rig.driver.is_over()
    assert isinstance(answer.end, Rejected) and answer.end.code == "server_overloaded"
    rig.settle()
    (usage,) = usage_of(rig, 1)
    assert (usage.reason, usage.charge_microusd) == ("server_overloaded", 0)
    nothing_is_held(rig.keeper.budgets)
    end(rig)


def test_a_server_that_gives_up_holds_nothing_of_anybody() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    running = rig.ask(DOCUMENT, 100, agent="a")
    rig.driver.step()
    unseen = rig.ask(OTHER, 100, agent="b")
    rig.driver.give_up()
    late = rig.ask(OTHER, 100, agent="c")
    assert [one.end.code for one in (running, unseen, late) if isinstance(one.end, Rejected)] == [
        "server_error"
    ] * 3
    rig.driver.run_until_idle = lambda max_steps=0: None  # type: ignore[assignment,method-assign]
    end(rig)


def test_books_closed_in_the_middle_of_everything_agree() -> None:
    """No step comes after the last batch: it was in flight, and is neither in a posting nor in the totals."""
    rig = make_rig(decode_us_per_step=500, decode_us_per_sequence=50)
    rig.ask(DOCUMENT, 100, agent="a")
    rig.ask(OTHER, 100, agent="b")
    last_us = 0
    for _ in range(6):
        last_us = rig.clock.now_us()
        rig.driver.step()
    assert last_us < rig.clock.now_us()
    rig.driver.run_until_idle = lambda max_steps=0: None  # type: ignore[assignment,method-assign]
    end(rig)
    reasons = {(usage.reason, usage.charge_microusd) for usage in rig.books.usage()}
    assert reasons == {("server_overloaded", 0)}
    assert got(rig, Resource.COMPUTE, "a") + got(rig, Resource.COMPUTE, "b") == last_us


def test_use_of_a_request_grows_while_it_runs_and_is_what_was_posted_in_the_end() -> None:
    rig = make_rig(copy_us_per_block=100)
    first = turn(rig, DOCUMENT, 6, agent="a")
    rig.driver.demote_idle(KvTier.HOST)
    second = turn(rig, [*DOCUMENT, *first.tokens, 97], 6, agent="a")
    assert isinstance(second.end, Finished) and second.end.use is not None
    use = second.end.use
    assert use.compute_us == got(rig, Resource.COMPUTE, "a", request=2)
    assert use.byte_us[0] == got(rig, Resource.DEVICE, "a", request=2)
    assert use.byte_us[1] == got(rig, Resource.HOST, "a", request=2)
    assert use.moved_bytes == got(rig, Resource.LOADED, "a", request=2)
    assert rig.keeper.use_of(2, rig.clock.now_us()) is None
    end(rig)


def test_a_cancelled_event_of_a_recording_without_a_reason_is_the_clients() -> None:
    assert RequestCancelled(1).reason == "cancelled"


def test_disk_traffic_is_of_who_holds_the_block() -> None:
    tiers = FlakyTiers(64 * FRAME, 256 * FRAME)
    rig = make_rig(tiers=tiers)
    turn(rig, DOCUMENT, 5, agent="a")
    rig.driver.demote_idle(KvTier.DISK)
    rig.driver.step()
    assert got(rig, Resource.WRITTEN, "a") == machine_gave(rig, Resource.WRITTEN) == 52 * 8
    end(rig)
