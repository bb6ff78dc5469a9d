"""Margins against sums by hand: cost by resource, idle agents, loaded rates, displacement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.ledger.base import LedgerError, RunId
from stepwell.ledger.money import round_half_up
from stepwell.ledger.pricing.costs import Rates, load_cost_book
from stepwell.ledger.reading.grouping import FIELDS, parse_by
from stepwell.ledger.reading.margin import STORAGE, Margin, margin, read_sums, total_of
from stepwell.ledger.reading.queries import Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.reading.statements import statement, top
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import IDLE, MACHINE, MACHINE_RESOURCES, OVERHEAD, UNATTRIBUTED, Kind, Resource
from tests.ledger.made_books import (
    AGENTS,
    HOUR_US,
    LEAD,
    READER,
    RIVAL,
    RIVAL_READER,
    SEARCH,
    START_US,
    Books,
    Writer,
    gave,
    made_books,
)

ALL = Period()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    made = made_books(tmp_path_factory.mktemp("ledger"))
    yield made
    made.store.close()


def rates(store: SqliteStore) -> dict[RunId, Rates]:
    return rates_of(runs(store))


def margin_by(books: Books, by: str, period: Period = ALL, **options: object) -> Margin:
    sums = read_sums(books.store, period)
    return margin(sums, rates(books.store), parse_by(by), **options)  # type: ignore[arg-type]


def exact_cost(books: Books, chosen: object) -> Fraction:
    """Postings out of the machine to accounts of ``chosen``, times the rate of their run."""
    found, priced = Fraction(0), rates(books.store)
    for resource in MACHINE_RESOURCES:
        for run, posting in books.postings(resource):
            if posting.credit in chosen:  # type: ignore[operator]
                found += posting.amount * priced[run].microusd[resource]
    return found


def test_rates_are_those_of_the_book_and_the_capacities(books: Books) -> None:
    found = rates(books.store)[1].microusd
    assert found[Resource.COMPUTE] == Fraction(1_800_000, HOUR_US)  # half of 3.6 dollars an hour
    assert found[Resource.DEVICE] == Fraction(1_800_000, HOUR_US) / 1_000
    assert found[Resource.HOST] == Fraction(1_000, HOUR_US) / 10**9  # 8.76 dollars a GB and year


def test_costs_are_within_a_micro_dollar_of_the_exact_ones(books: Books) -> None:
    found = margin_by(books, "tenant,agent")
    by_group = {line.group: line for line in found.lines}
    assert set(by_group) == {(account.tenant, account.agent) for account in AGENTS}
    for account in AGENTS:
        line = by_group[account.tenant, account.agent]
        assert abs(line.cost_microusd - exact_cost(books, [account])) < len(MACHINE_RESOURCES)
    assert by_group["acme", "s1"].cost[Resource.COMPUTE] == 1_500  # 3.000001 s at half a dollar per 1000 s
    assert by_group["acme", "s1"].cost[Resource.DEVICE] == 1_800


@pytest.mark.parametrize("loaded", [False, True])
def test_the_lines_come_to_the_bill_whatever_they_are_grouped_by(books: Books, loaded: bool) -> None:
    everybody = [*AGENTS, IDLE, OVERHEAD, UNATTRIBUTED]
    bill = exact_cost(books, everybody)
    for by in FIELDS:
        found = margin_by(books, by, loaded=loaded)
        assert abs(found.bill_microusd - bill) < len(MACHINE_RESOURCES)
        assert found.bill_microusd == margin_by(books, "tenant,role").bill_microusd
        assert found.total.counts.charge_microusd == sum(usage.charge_microusd for usage in books.usage)


def test_the_machines_own_lines(books: Books) -> None:
    machine = margin_by(books, "role").machine
    for kind, account in ((Kind.IDLE, IDLE), (Kind.OVERHEAD, OVERHEAD), (Kind.UNATTRIBUTED, UNATTRIBUTED)):
        assert abs(sum(machine[kind].values()) - exact_cost(books, [account])) < len(MACHINE_RESOURCES)
    assert machine[Kind.IDLE][Resource.COMPUTE] == 3_500


def test_loaded_spreads_idle_over_what_was_used_of_the_same_resource_in_the_same_run(books: Books) -> None:
    plain, loaded = margin_by(books, "agent"), margin_by(books, "agent", loaded=True)
    # Of host memory and disk agents used something, of compute and device too: nothing stays idle.
    assert sum(loaded.machine[Kind.IDLE].values()) == 0 < sum(plain.machine[Kind.IDLE].values())
    # The second run was half idle, and its only agent was SEARCH: it pays twice what it used there.
    first = Fraction(9_341_234, 7_341_234) * 99_999 * Fraction(1, 2_000)
    search = next(line for line in loaded.lines if line.group == ("acme/search", "s2"))
    assert search.cost[Resource.COMPUTE] == pytest.approx(float(first + 5_000), abs=1)


def test_what_nobody_used_stays_idle_when_loaded(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    Writer.begin(store, "one").write([gave(IDLE, Resource.COMPUTE, 2_000_000)])
    found = margin(read_sums(store, ALL), rates(store), ("role",), loaded=True)
    store.close()
    assert found.machine[Kind.IDLE][Resource.COMPUTE] == found.bill_microusd == 1_000


def test_kv_of_agents_between_turns(books: Books) -> None:
    priced = rates(books.store)
    expected: dict[str, Fraction] = defaultdict(Fraction)
    for resource in STORAGE:
        for run, posting in books.postings(resource):
            if posting.request == 0 and posting.credit in AGENTS:
                expected[posting.credit.role] += posting.amount * priced[run].microusd[resource]
    found = {line.group[0]: line.between_microusd for line in margin_by(books, "role").lines}
    assert found == {"lead": round_half_up(expected["lead"]), "reader": round_half_up(expected["reader"])}
    assert found["lead"] == 50


def test_who_displaced_whom(books: Books) -> None:
    found = margin_by(books, "service-tier")
    (exchange,) = found.exchanges
    assert (exchange.victim, exchange.beneficiary) == (("flex",), ("priority",))
    assert (exchange.amount_us, exchange.cost_microusd) == (650_000, 325)
    lines = {line.group[0]: line for line in found.lines}
    assert (lines["flex"].lost_microusd, lines["flex"].caused_microusd) == (325, 0)
    assert (lines["priority"].lost_microusd, lines["priority"].caused_microusd) == (0, 325)
    pairs = [(one.victim, one.beneficiary) for one in margin_by(books, "agent").exchanges]
    assert pairs[0] == (("rival", "s1"), ("acme", "s1"))
    assert len(pairs) == 2


def test_displacement_is_beside_the_costs_and_not_among_them(books: Books) -> None:
    flex = next(line for line in margin_by(books, "service-tier").lines if line.group == ("flex",))
    assert Resource.DISPLACED not in flex.cost
    assert abs(flex.cost_microusd - exact_cost(books, [RIVAL, RIVAL_READER])) < len(MACHINE_RESOURCES)


def test_one_tenant_alone_has_the_same_lines(books: Books) -> None:
    whole = {line.group: line for line in margin_by(books, "agent").lines}
    alone = margin_by(books, "agent", tenant="acme")
    assert {line.group[0] for line in alone.lines} == {"acme", "acme/search"}
    for line in alone.lines:
        assert line == whole[line.group]
    assert alone.machine == {}


def test_a_period_counts_what_was_posted_in_it(books: Books) -> None:
    second = Period(START_US + 40 * HOUR_US)
    found = margin_by(books, "tenant", second)
    assert [line.group for line in found.lines] == [("acme/search",)]
    assert found.total.counts.requests == 1
    assert found.total.amounts == {Resource.COMPUTE: 5_000_000}
    assert margin_by(books, "tenant", Period(0, START_US)).lines == []


def test_amplification_and_revenue_by_role(books: Books) -> None:
    lines = {line.group: line for line in margin_by(books, "tenant,role").lines}
    assert lines["acme", "reader"].counts.intermediate_tokens == 250
    assert lines["acme", "lead"].revenue_microusd == 9_000
    assert lines["acme/search", "lead"].revenue_microusd == 120 + 600 - 50
    assert lines["acme/search", "lead"].counts.requests == 2


def test_corrections_of_resources_go_both_ways(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    back = gave(LEAD, Resource.COMPUTE, 400_000)._replace(debit=LEAD, credit=MACHINE)
    writer.write([gave(LEAD, Resource.COMPUTE, 1_000_000, 1)])
    writer.write([back])
    found = margin(read_sums(store, ALL), rates(store), ("role",))
    store.close()
    assert found.total.amounts == {Resource.COMPUTE: 600_000}
    assert found.bill_microusd == 300


def test_another_cost_book_for_all_runs(books: Books) -> None:
    dear = rates_of(runs(books.store), load_cost_book("h100-rented"))
    found = margin(read_sums(books.store, ALL), dear, ("role",))
    assert found.bill_microusd > 0
    assert found.bill_microusd != margin_by(books, "role").bill_microusd


def test_a_run_without_a_cost_book_or_capacities_says_so(books: Books) -> None:
    run = runs(books.store)[0]
    with pytest.raises(BadInput, match="run 1 on one kept no cost book"):
        rates_of([run._replace(cost_book="")])
    with pytest.raises(LedgerError, match="how much room"):
        rates_of([run._replace(config="{}")])


def test_statement_and_top(books: Books) -> None:
    found = statement(books.store, ALL, ("tenant", "model"))
    assert [row.group for row in found.rows] == [("acme", "tiny"), ("rival", "tiny"), ("acme/search", "tiny")]
    assert found.total.charge_microusd == sum(usage.charge_microusd for usage in books.usage)
    assert statement(books.store, ALL, ("tenant",), tenant="acme").total.requests == 4
    lines = margin_by(books, "agent").lines
    assert [line.group for line in top(lines, "intermediate", 9)] == [
        ("acme", "s1/reader"),
        ("rival", "s1/reader"),
    ]
    assert [line.group for line in top(lines, "loss", 1)] == [("acme/search", "s2")]
    assert [line.group for line in top(lines, "storage", 9)][:2] == [("acme", "s1"), ("acme", "s1/reader")]
    assert top(lines, "cost", 9) == lines


@pytest.mark.parametrize("text", ["", "tenants", "tenant,", "model", "role;tenant"])
def test_unknown_groupings(text: str) -> None:
    with pytest.raises(BadInput, match="group by tenant, key"):
        parse_by(text)


def test_names_within_a_tenant_bring_it_along() -> None:
    assert parse_by("session") == ("tenant", "session")
    assert parse_by("role, role,tenant") == ("role", "tenant")
    assert parse_by("model", beyond=("model",)) == ("model",)


AMOUNTS = st.integers(1, 2**62)
GIVEN = st.tuples(
    st.sampled_from([LEAD, READER, SEARCH, IDLE, UNATTRIBUTED]), st.sampled_from(MACHINE_RESOURCES), AMOUNTS
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    given_=st.lists(GIVEN, min_size=1, max_size=30), loaded=st.booleans(), by=st.sampled_from(list(FIELDS))
)
def test_nothing_is_lost_in_rounding(
    tmp_path_factory: pytest.TempPathFactory,
    given_: list[tuple[object, Resource, int]],
    loaded: bool,
    by: str,
) -> None:
    """Amounts far beyond 64 bits together: sums by resource are the rounded exact ones."""
    store = SqliteStore(tmp_path_factory.mktemp("ledger") / "ledger.db")
    postings = [gave(account, resource, amount) for account, resource, amount in given_]  # type: ignore[arg-type]
    Writer.begin(store, "one").write(postings)
    try:
        priced = rates(store)[1].microusd
        found = margin(read_sums(store, ALL), rates(store), parse_by(by), loaded=loaded)
    finally:
        store.close()
    for resource in MACHINE_RESOURCES:
        exact = sum((p.amount for p in postings if p.resource is resource), 0) * priced[resource]
        lines = total_of(found.lines).cost.get(resource, 0)
        own = sum(cost.get(resource, 0) for cost in found.machine.values())
        assert lines + own == round_half_up(Fraction(exact))
