"""Bills: what a request holds, what it is charged, and what is corrected when it is known for whom it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.ledger.pricing.bills import MAX_CORRECTABLE, BilledTokens, Bills
from stepwell.ledger.pricing.prices import PriceBook, parse_price_book
from stepwell.ledger.types import Account, Cause, Kind, Resource, Usage
from stepwell.policy.types import NO_HINT, Caller, Hint, Hinted, RequestArrived, Wait
from tests.driver.harness import make_rig
from tests.ledger.books import PRICES
from tests.ledger.meter_world import budget, end, got, turn

HOUR_US = 3_600_000_000
INPUT, CACHED, OUTPUT, INTERMEDIATE = 100, 10, 400, 300
DOCUMENT = list(range(60, 60 + 48))


def arrival(request: int = 1, **fields: Any) -> RequestArrived:
    caller = Caller("acme", session="s", agent="s/a")
    own = {name: fields.pop(name) for name in Caller.__slots__ if name in fields}
    usual = RequestArrived(request, replace(caller, **own), 1_000, 200, ())
    return replace(usual, **fields)


def made_bills(text: str = PRICES) -> Bills:
    return Bills(parse_price_book(text, "the test"), "null", wall_offset_us=10**15)


def settled(bills: Bills, request: RequestArrived, cached: int = 0, new: int = 0, **how: Any) -> Usage:
    account = Account(Kind.AGENT, request.caller.tenant, agent=request.caller.agent)
    how = {"opened": True, "ttft_us": 1, "e2e_us": 2, **how}
    reason = how.pop("reason", "stop")
    return bills.settle(request, account, BilledTokens(cached, new, 0), reason, 7, **how)


def said(request: int, wait: Wait, tenant: str = "acme") -> Hinted:
    return Hinted(request, tenant, "s/a", Hint(wait))


# --- charges -------------------------------------------------------------------------------------


def test_a_charge_is_the_sum_of_its_parts() -> None:
    usage = settled(made_bills(), arrival(), cached=600, new=50)
    assert usage.charge_microusd == 400 * INPUT + 600 * CACHED + 50 * OUTPUT
    assert (usage.input_tokens, usage.cached_tokens) == (1_000, 600)
    assert (usage.visible_tokens, usage.intermediate_tokens, usage.output_tokens) == (50, 0, 50)
    assert usage.at_us == 10**15 + 7


@pytest.mark.parametrize(
    "fields",
    [
        {"parent_agent": "s/lead"},
        {"hint": Hint(Wait.TOOL)},
        {"hint": Hint(Wait.CHILD)},
        {"hint": Hint(Wait.AGENT)},
    ],
)
def test_what_is_for_a_tool_or_another_agent_is_intermediate(fields: dict[str, Any]) -> None:
    usage = settled(made_bills(), arrival(**fields), new=50)
    assert (usage.visible_tokens, usage.intermediate_tokens) == (0, 50)
    assert usage.charge_microusd == 1_000 * INPUT + 50 * INTERMEDIATE


@pytest.mark.parametrize("wait", [Wait.PERSON, Wait.DONE, Wait.UNKNOWN])
def test_what_is_for_a_person_is_visible(wait: Wait) -> None:
    assert settled(made_bills(), arrival(hint=Hint(wait)), new=50).visible_tokens == 50


@pytest.mark.parametrize(
    ("service_tier", "factor"), [("priority", 2), ("default", 1), ("flex", 0.5), ("odd", 1)]
)
def test_every_service_tier_has_its_price_and_an_unknown_one_that_of_default(
    service_tier: str, factor: float
) -> None:
    bills, request = made_bills(), arrival(service_tier=service_tier)
    assert settled(bills, request, new=50).charge_microusd == factor * (1_000 * INPUT + 50 * OUTPUT)
    assert bills.hold_of(request) == factor * (1_000 * INPUT + 200 * OUTPUT)


@pytest.mark.parametrize("how", [{"opened": False, "reason": "cancelled"}, {"reason": "server_error"}])
def test_what_never_ran_or_failed_costs_nothing(how: dict[str, Any]) -> None:
    bills = made_bills()
    usage = settled(bills, arrival(), cached=600, new=50, **how)
    assert usage.charge_microusd == 0
    assert (usage.input_tokens > 0) is how.get("opened", True)
    assert bills.correct(said(1, Wait.TOOL), 9) is None


def test_a_ttl_is_paid_as_storage_of_what_is_kept() -> None:
    text = "[prices]\ninput = 100\noutput = 400\nstorage_per_token_hour = 4.5\n"
    usage = settled(made_bills(text), arrival(hint=Hint(retain_us=HOUR_US)), new=0, cached=1_000)
    assert usage.charge_microusd == 1_000 * 100 + 4_500


def test_what_is_computed_to_be_kept_is_paid_as_a_write() -> None:
    bills = made_bills('[prices]\ninput = 100\noutput = 400\ncache_write = { "1h" = 200 }\n')
    usage = settled(bills, arrival(hint=Hint(retain_us=HOUR_US)), cached=600)
    assert usage.charge_microusd == 600 * 100 + 400 * 200


def test_the_hold_of_a_ttl_covers_the_answer_too() -> None:
    text = "[prices]\ninput = 100\noutput = 400\nstorage_per_token_hour = 4.5\n"
    request = arrival(hint=Hint(retain_us=HOUR_US))
    hold = made_bills(text).hold_of(request)
    assert hold == 1_000 * 100 + 200 * 400 + 1_200 * 9 // 2
    assert settled(made_bills(text), request, new=200).charge_microusd == hold


# --- corrections ---------------------------------------------------------------------------------


def test_an_answer_that_turns_out_to_be_for_a_tool_is_corrected_once() -> None:
    bills = made_bills()
    usage = settled(bills, arrival(), cached=600, new=50)
    fix = bills.correct(said(1, Wait.TOOL), 9)
    assert fix is not None
    assert (fix.requests, fix.cause, fix.at_us) == (0, Cause.CORRECTION, 10**15 + 9)
    assert (fix.visible_tokens, fix.intermediate_tokens) == (-50, 50)
    assert (fix.input_tokens, fix.cached_tokens, fix.ttft_us, fix.e2e_us) == (0, 0, 0, 0)
    assert fix.charge_microusd == 50 * (INTERMEDIATE - OUTPUT)
    straight = settled(made_bills(), arrival(hint=Hint(Wait.TOOL)), cached=600, new=50)
    assert usage.charge_microusd + fix.charge_microusd == straight.charge_microusd
    assert bills.correct(said(1, Wait.TOOL), 10) is None
    assert bills.correct(said(1, Wait.CHILD), 10) is None


def test_and_back_again() -> None:
    bills = made_bills()
    settled(bills, arrival(), new=50)
    there, back = bills.correct(said(1, Wait.TOOL), 9), bills.correct(said(1, Wait.PERSON), 9)
    assert there is not None and back is not None
    assert back.charge_microusd == -there.charge_microusd > 0
    assert (back.visible_tokens, back.intermediate_tokens) == (50, -50)


def test_a_hint_that_does_not_say_for_whom_changes_nothing() -> None:
    bills = made_bills()
    settled(bills, arrival(hint=Hint(Wait.TOOL)), new=50)
    assert bills.correct(Hinted(1, "acme", "s/a", Hint(expected_us=5)), 9) is None


def test_a_childs_answer_stays_intermediate_whatever_is_said() -> None:
    bills = made_bills()
    settled(bills, arrival(parent_agent="s/lead"), new=50)
    assert bills.correct(said(1, Wait.PERSON), 9) is None
    assert bills.correct(said(1, Wait.TOOL), 9) is None


def test_another_tenant_corrects_nothing() -> None:
    bills = made_bills()
    settled(bills, arrival(), new=50)
    assert bills.correct(said(1, Wait.TOOL, tenant="rival"), 9) is None
    assert bills.correct(said(2, Wait.TOOL), 9) is None
    assert bills.correct(said(0, Wait.TOOL), 9) is None


def test_an_answer_without_a_token_has_nothing_to_correct() -> None:
    bills = made_bills()
    settled(bills, arrival(prewarm=True), new=1)
    assert bills.correct(said(1, Wait.TOOL), 9) is None


def test_only_so_many_are_remembered_the_last_ones() -> None:
    bills = made_bills()
    for request in range(1, MAX_CORRECTABLE + 2):
        settled(bills, arrival(request), new=1)
    assert bills.correct(said(1, Wait.TOOL), 9) is None
    assert bills.correct(said(2, Wait.TOOL), 9) is not None


def test_a_correction_moves_money_and_the_budget_back() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    for turns, wait in enumerate((Wait.TOOL, Wait.TOOL, Wait.PERSON, Wait.TOOL), start=1):
        turn(rig, DOCUMENT, 6, agent="a")
        rig.driver.hint(turns, "local", "a", Hint(wait))
        rig.driver.hint(turns, "local", "a", Hint(wait))
        rig.driver.hint(turns, "rival", "a", Hint(Wait.PERSON))
        rig.driver.step()
    (state,) = rig.keeper.budgets.states()
    charged = sum(usage.charge_microusd for usage in rig.books.usage())
    assert (
        state.spent_microusd
        == charged
        == rig.books.balances()[rig.keeper.meter.bills.revenue][Resource.MONEY]
    )
    fixes = [usage for usage in rig.books.usage() if usage.cause is Cause.CORRECTION]
    assert [(fix.request, fix.charge_microusd) for fix in fixes] == [(n, 6 * -100) for n in (1, 2, 4)]
    assert got(rig, Resource.MONEY, kind=Kind.CUSTOMER, cause=Cause.CORRECTION) == 3 * 600
    end(rig)


def test_a_hint_in_the_step_of_the_end_is_a_correction_too() -> None:
    """The server speaks as soon as it has seen the last token: before the policy has."""
    rig = make_rig()
    answer = rig.ask(DOCUMENT, 3, agent="a")
    while not answer.ended:
        rig.driver.step()
    rig.driver.hint(1, "local", "a", Hint(Wait.TOOL))
    rig.settle()
    assert [usage.cause for usage in rig.books.usage()] == [Cause.SETTLE, Cause.CORRECTION]
    end(rig)


# --- holds ---------------------------------------------------------------------------------------

price = st.integers(0, 500).map(lambda n: n / 10)
factor = st.sampled_from([0, 0.5, 1, 2, 10])


@st.composite
def price_books(draw: st.DrawFn) -> PriceBook:
    lines = ["[prices]", f"input = {draw(price)}", f"output = {draw(price)}"]
    optional = ("cached_input", "intermediate", "storage_per_token_hour")
    lines += [f"{name} = {draw(price)}" for name in optional if draw(st.booleans())]
    if draw(st.booleans()):
        lines.append(f'cache_write = {{ "5m" = {draw(price)}, "1h" = {draw(price)} }}')
    if draw(st.booleans()):
        lines.append(f"minimum_per_request = {draw(st.integers(0, 900)) / 1_000_000:.6f}")
    lines += ["[service_tiers.flex]", f"multiplier = {draw(factor)}"]
    if draw(st.booleans()):
        above, more = draw(st.integers(1, 3_000)), draw(factor)
        lines += ["[long_prompt]", f"above_tokens = {above}", f"multiplier = {more}"]
    return parse_price_book("\n".join(lines), "the test")


@given(
    book=price_books(),
    prompt=st.integers(1, 4_000),
    most=st.integers(1, 500),
    service_tier=st.sampled_from(["default", "flex", "unheard-of", ""]),
    retain_us=st.none() | st.integers(-5, 100 * HOUR_US),
    wait=st.sampled_from(Wait),
    later=st.sampled_from(Wait),
    parent=st.none() | st.just("s/lead"),
    prewarm=st.booleans(),
    same_prompt=st.booleans(),
    reason=st.sampled_from(["stop", "length", "cancelled", "server_error", "server_overloaded"]),
    data=st.data(),
)
def test_no_outcome_is_charged_more_than_was_held_and_rows_sum_up(
    book: PriceBook,
    prompt: int,
    most: int,
    service_tier: str,
    retain_us: int | None,
    wait: Wait,
    later: Wait,
    parent: str | None,
    prewarm: bool,
    same_prompt: bool,
    reason: str,
    data: st.DataObject,
) -> None:
    bills = Bills(book, "null")
    request = arrival(
        prompt_tokens=prompt,
        max_new_tokens=most,
        service_tier=service_tier,
        parent_agent=parent,
        hint=replace(NO_HINT, wait=wait, retain_us=retain_us),
        prewarm=prewarm,
        same_prompt=same_prompt,
    )
    cached, new = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, most))
    hold = bills.hold_of(request)
    usage = settled(bills, request, cached=cached, new=new, reason=reason)
    assert 0 <= usage.charge_microusd <= hold
    fix = bills.correct(said(1, later), 9)
    rows = [usage] if fix is None else [usage, fix]
    assert 0 <= sum(row.charge_microusd for row in rows) <= hold
    assert sum(row.requests for row in rows) == 1
    assert sum(row.output_tokens for row in rows) == (0 if prewarm else new)
    visible, intermediate = (
        sum(getattr(row, f"{kind}_tokens") for row in rows) for kind in ("visible", "intermediate")
    )
    assert min(visible, intermediate) == 0 and visible + intermediate == (0 if prewarm else new)
    if parent is not None:
        assert not visible
