"""Leases of budgets: several nodes of one ledger never come to more than a hard limit, whatever happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.ledger.base import LedgerError, PostingBatch, Run, RunId, Store
from stepwell.ledger.budgets.book import BudgetBook, BudgetName
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.budgets.spending import spent_by, spent_here_microusd, spent_microusd
from stepwell.ledger.leases import LEASE_S, PART, TRUST_S, Lease, LeaseElsewhere, LeaseNeed, leased
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.stores.sqlstore import Cursor
from stepwell.ledger.types import Account, Budget, Scope, Usage
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Caller, Plan
from tests.ledger.conftest import Opener

WHO = Caller("acme", "default", "s", "a", key="key_1")
HARD = 10_000
TENANT = Budget(Scope.TENANT, "acme", "", None, HARD)
SESSION = Budget(Scope.SESSION, "acme", "s", None, 6_000)
BUDGETS = (TENANT, SESSION)


def name_of(budget: Budget) -> BudgetName:
    return BudgetName(budget.scope, budget.tenant, budget.name)


NAME = name_of(TENANT)


class CutOff:
    """A store that may be away from one node: before what is asked has happened, or after it."""

    def __init__(self, store: Store) -> None:
        self.store, self.away = store, ""

    def lease(self, name: BudgetName, node: str, need: LeaseNeed) -> Lease:
        if self.away == "before":
            raise LedgerError("away")
        lease = self.store.lease(name, node, need)
        if self.away == "after":
            raise LedgerError("away")
        return lease

    def end_leases(self, node: str) -> None:
        if self.away:
            raise LedgerError("away")
        self.store.end_leases(node)


@dataclass
class Node:
    """One server, as far as budgets go."""

    name: str
    store: Store
    rate: float = 1.0
    """How fast its own clock runs."""
    now_s: float = 0.0
    next: int = 0
    batch: int = 0
    run: RunId = 0
    holds: dict[int, int] = field(default_factory=dict)
    unwritten: list[int] = field(default_factory=list)
    cut_for_s: float = 0.0
    dead: bool = False

    def __post_init__(self) -> None:
        self.link = CutOff(self.store)
        self.start()

    def start(self) -> None:
        self.store.end_leases(self.name)
        self.run, self.batch = self.store.begin(Run(self.name, 1, "m", "{}", "", "")), 0
        self.book = BudgetBook(
            lambda name: spent_microusd(self.store, name),
            monotonic=lambda: self.now_s,
            spent_here=lambda name: spent_here_microusd(self.store, name, self.name),
        )
        self.book.seed(BUDGETS, spent_by(self.store, map(name_of, BUDGETS)))
        self.lessee = Lessee(self.book, self.link, self.name, 0)  # type: ignore[arg-type]
        self.dead = False

    def takes(self, amount: int) -> bool:
        self.next += 1
        ahead = self.lessee.lacks(WHO, amount) and self.lessee.hold_ahead(WHO, amount)
        ok = self.book.reserve(self.next, WHO, amount).ok
        assert ok or not ahead, "what was held ahead is there when it is taken up"
        if ok:
            self.holds[self.next] = amount
        self.book.check()
        return ok

    def ends(self, charge: int | None = None) -> None:
        if self.holds:
            request, held = self.holds.popitem()
            charge = held if charge is None else min(charge, held)
            self.unwritten.append(charge)
            self.book.settle(request, charge)

    def writes(self) -> None:
        self.batch += 1
        rows = [
            Usage(0, Account.of(WHO), "m", "stop", 1, requests=0, charge_microusd=charge)
            for charge in self.unwritten
        ]
        self.store.write(self.run, PostingBatch(self.batch, 1, 1, usage=rows))
        self.unwritten.clear()

    def dies(self) -> None:
        self.holds.clear()
        self.unwritten.clear()
        self.dead, self.link.away, self.cut_for_s = True, "", 0.0

    def comes_back(self) -> None:
        self.store.end(self.run, 2)  # as recovery does
        self.start()


def spent_and_leased(store: Store, budget: Budget, now_us: int) -> int:
    """As the books have it, added up by itself."""
    name = name_of(budget)
    in_force = store.rows(
        "SELECT node, granted_microusd FROM budget_leases "
        "WHERE scope = ? AND tenant = ? AND name = ? AND until_us > ?",
        (*name, now_us),
    )
    is_open = sum(max(0, granted - spent_here_microusd(store, name, node)) for node, granted in in_force)
    return spent_microusd(store, name) + is_open


class SetClock(SqliteStore):
    now_s = 1_000.0

    def _lock_name(self, cursor: Cursor, digest: str) -> int:
        return int(self.now_s * 1e6)


NODES = st.integers(0, 2)


class Fleet(RuleBasedStateMachine):
    """Three nodes with clocks of their own; they die, are cut off, and come back."""

    @initialize(rates=st.lists(st.floats(0.7, 1.4), min_size=3, max_size=3))
    def begin(self, rates: list[float]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = SetClock(Path(self.folder.name) / "books.db")
        for budget in BUDGETS:
            self.store.set_budget(budget)
        self.nodes = [Node(f"n{i}", self.store, rate, now_s=1_000.0 * i) for i, rate in enumerate(rates)]

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.nothing_left_is_scattered()
        self.store.close()
        self.folder.cleanup()

    def nothing_left_is_scattered(self) -> None:
        """Once nothing is under way, what is left can be had whole, at any node."""
        for node in self.nodes:
            node.link.away = ""
            if node.dead:
                node.comes_back()
            while node.holds:
                node.ends()
            node.writes()
        for _ in range(2):
            for node in self.nodes:
                node.now_s += 2  # books that did not answer may be asked again
                node.lessee.renew()
        left = min(
            (budget.hard_microusd or 0) - spent_microusd(self.store, name_of(budget)) for budget in BUDGETS
        )
        if left:
            assert not self.nodes[1].takes(left + 1)
            assert self.nodes[1].takes(left)
        self.no_limit_is_passed()

    @rule(which=NODES, amount=st.integers(0, 2_000))
    def arrives(self, which: int, amount: int) -> None:
        if not self.nodes[which].dead:
            self.nodes[which].takes(amount)

    @rule(which=NODES, charge=st.integers(0, 2_000))
    def ends(self, which: int, charge: int) -> None:
        self.nodes[which].ends(charge)

    @rule(which=NODES)
    def writes(self, which: int) -> None:
        node = self.nodes[which]
        if not node.dead and not node.link.away:
            node.writes()

    @rule(which=NODES)
    def renews(self, which: int) -> None:
        if not self.nodes[which].dead:
            with suppress(LedgerError):
                self.nodes[which].lessee.renew()

    @rule(which=NODES, away=st.sampled_from(["before", "after"]))
    def is_cut_off(self, which: int, away: str) -> None:
        self.nodes[which].link.away = away

    @rule(which=NODES)
    def is_back(self, which: int) -> None:
        self.nodes[which].link.away, self.nodes[which].cut_for_s = "", 0.0

    @rule(which=NODES)
    def dies(self, which: int) -> None:
        self.nodes[which].dies()

    @rule(which=NODES)
    def comes_back(self, which: int) -> None:
        if self.nodes[which].dead:
            self.nodes[which].comes_back()

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        """Nobody is cut off, with something under way, for so long that its lease ends."""
        self.store.now_s += seconds
        for node in self.nodes:
            node.now_s += seconds * node.rate
            node.cut_for_s += seconds if node.link.away else 0
            if node.dead:
                continue
            if node.cut_for_s > LEASE_S - 120:
                self.is_back(self.nodes.index(node))
            if not node.link.away:
                node.lessee.renew()

    @invariant()
    def no_limit_is_passed(self) -> None:
        for budget in BUDGETS if hasattr(self, "store") else ():
            hard = budget.hard_microusd or 0
            assert spent_and_leased(self.store, budget, int(self.store.now_s * 1e6)) <= hard
            under_way = sum(sum(node.unwritten) + sum(node.holds.values()) for node in self.nodes)
            assert spent_microusd(self.store, name_of(budget)) + under_way <= hard


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# --- one contract, two stores ----------------------------------------------------------------------


@contextmanager
def nodes_of(open_books: Opener, count: int) -> Iterator[list[Node]]:
    """Each with a connection of its own."""
    stores = [open_books() for _ in range(count)]
    for budget in BUDGETS:
        stores[0].set_budget(budget)
    yield [Node(f"n{number}", store) for number, store in enumerate(stores)]


def test_nodes_at_once_spend_all_of_a_budget_and_no_more(open_books: Opener) -> None:
    with nodes_of(open_books, 3) as nodes:

        def work(node: Node) -> int:
            taken = 0
            for turn in range(60):
                if node.takes(150):
                    node.ends(100)
                    taken += 1
                if turn % 7 == 0:
                    node.writes()
                    node.lessee.renew()
            node.writes()
            return taken

        with ThreadPoolExecutor(3) as pool:
            taken = list(pool.map(work, nodes))
        spent = spent_microusd(nodes[0].store, name_of(SESSION))
        assert spent == 100 * sum(taken) <= 6_000
        for node in nodes:
            node.lessee.renew()
            node.lessee.renew()
        while nodes[2].takes(150):
            nodes[2].ends(100)
        nodes[2].writes()
        assert 6_000 - 150 < spent_microusd(nodes[0].store, name_of(SESSION)) <= 6_000


def test_what_a_node_was_charged_is_counted_by_the_others_before_it_is_entered(open_books: Opener) -> None:
    with nodes_of(open_books, 2) as (first, second):
        assert first.takes(5_000)
        first.ends(5_000)
        assert not second.takes(1_001)
        assert second.takes(400)
        first.writes()
        assert not second.takes(601)
        assert second.takes(600)


def test_a_node_that_starts_anew_gives_back_what_it_had(open_books: Opener) -> None:
    with nodes_of(open_books, 2) as (first, second):
        assert first.takes(5_000)
        assert not second.takes(2_000)
        first.dies()
        assert not second.takes(2_000)
        first.comes_back()
        assert second.takes(2_000)


def test_one_that_is_short_gets_what_others_do_not_use_after_one_round(open_books: Opener) -> None:
    """Also of a node that is in use: it keeps what it has promised and nothing ahead."""
    with nodes_of(open_books, 2) as (first, second):
        assert first.takes(500)
        refused = second.book
        assert not second.takes(5_500)
        state = refused.judge(WHO, 5_500).refused
        assert state is not None
        assert state.passing
        first.lessee.renew()
        assert second.takes(5_500)
        assert not first.takes(1)


def test_books_have_leases_of_their_node_only_until_it_ends(open_books: Opener) -> None:
    with nodes_of(open_books, 1) as (node,):
        assert node.takes(100)
        assert node.store.rows("SELECT COUNT(*) FROM budget_leases") == [(2,)]
        node.ends(0)
        node.lessee.close()
        assert node.store.rows("SELECT COUNT(*) FROM budget_leases") == [(0,)]


# --- a node that is cut off ------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SetClock, Node, Node]]:
    store = SetClock(tmp_path / "books.db")
    for budget in BUDGETS:
        store.set_budget(budget)
    yield store, Node("first", store), Node("second", store)
    store.close()


def pass_time(store: SetClock, nodes: tuple[Node, ...], seconds: float) -> None:
    store.now_s += seconds
    for node in nodes:
        node.now_s += seconds


def test_a_node_that_is_cut_off_spends_what_it_has_and_then_nothing(
    pair: tuple[SetClock, Node, Node],
) -> None:
    store, first, second = pair
    assert first.takes(100)
    first.link.away = "before"
    assert first.takes(100), "of what it took ahead"
    pass_time(store, (first, second), TRUST_S + 1)
    assert not first.takes(100)
    refused = first.book.judge(WHO, 100).refused
    assert refused is not None
    assert refused.state.unknown
    assert not second.takes(5_900), "what is under way there is still counted"
    pass_time(store, (first, second), LEASE_S - TRUST_S)
    assert second.takes(5_900), "a node of which nothing was heard for so long is dead"


def test_a_dead_node_keeps_nothing_for_ever(pair: tuple[SetClock, Node, Node]) -> None:
    store, first, second = pair
    assert first.takes(6_000)
    first.dies()
    pass_time(store, (second,), LEASE_S + 1)
    assert second.takes(6_000)


def test_a_lease_of_before_the_machine_started_is_over(pair: tuple[SetClock, Node, Node]) -> None:
    """The machine's clock begins anew then; the node of that name may never come back."""
    store, first, second = pair
    assert first.takes(6_000)
    first.dies()
    store.now_s = 5.0
    assert second.takes(6_000)


def test_idle_names_are_not_renewed(pair: tuple[SetClock, Node, Node]) -> None:
    _, first, _ = pair
    assert first.takes(100)
    first.ends(100)
    first.writes()
    first.lessee.renew()
    first.lessee.renew()
    assert first.book.to_renew() == {}
    first.link.away = "before"
    first.lessee.renew()


def test_a_limit_that_is_lowered_counts_at_once_for_who_asks(pair: tuple[SetClock, Node, Node]) -> None:
    store, first, second = pair
    assert first.takes(1_000)
    store.set_budget(Budget(Scope.SESSION, "acme", "s", None, 1_200))
    assert not second.takes(500), "this node has not heard of it, the books have"
    first.lessee.renew()
    assert second.takes(200)


def test_a_budget_of_later_counts_what_its_node_was_charged_before(
    pair: tuple[SetClock, Node, Node],
) -> None:
    store, first, second = pair
    assert first.takes(300)
    first.ends(300)
    first.writes()
    agent = Budget(Scope.AGENT, "acme", "a", None, 1_000)
    store.set_budget(agent)
    first.book.set(agent)
    second.book.set(agent)
    assert not second.takes(701)
    assert first.takes(400)
    assert second.takes(300)
    assert not second.takes(1)


def test_free_requests_need_no_room(pair: tuple[SetClock, Node, Node]) -> None:
    _, first, _ = pair
    first.link.away = "before"
    assert first.takes(0)


# --- how much is granted ---------------------------------------------------------------------------


def test_less_is_taken_ahead_as_a_budget_runs_out() -> None:
    used, granted = 0, []
    while used < HARD - 100:
        lease = leased(LeaseNeed(used, 100, 100), HARD, used, used, [], 0)
        assert not lease.refused
        granted.append(lease.granted_microusd - used - 100)
        used = lease.granted_microusd
    assert granted == sorted(granted, reverse=True)
    assert granted[0] == (HARD - 100) // PART
    assert granted[-1] == 0


def test_other_nodes_that_are_short_get_what_is_not_used() -> None:
    other = LeaseElsewhere(5_000, 1_000, short=True)
    lease = leased(LeaseNeed(100, 0, 50), HARD, 1_100, 100, [other], 2_000)
    assert lease.give_back
    assert leased(LeaseNeed(100), HARD, 1_100, 100, [other], 2_000).granted_microusd == 100


# --- through a server's books ----------------------------------------------------------------------


def ledger_of(path: Path, name: str) -> Ledger:
    return open_ledger(
        LedgerSettings(path=str(path), follow_budgets_s=3_600),
        PolicyConfig(64, 64, 1, 0, 0, 0, 0),
        "m",
        now_us=0,
        wall_us=10**15,
        node=name,
        budgets=BUDGETS,
    )


def spend(one: Ledger, microusd: int) -> None:
    row = Usage(0, Account.of(WHO), "m", "stop", 0, requests=0, charge_microusd=microusd)
    one.keeper.correct(row)
    one.keeper.decided(10, [], Plan())


def test_two_servers_of_one_ledger(tmp_path: Path) -> None:
    first, second = ledger_of(tmp_path / "books.db", "first"), ledger_of(tmp_path / "books.db", "second")
    assert first.lessee is not None
    assert second.lessee is not None
    try:
        assert first.lessee.lacks(WHO, 4_000)
        assert first.lessee.hold_ahead(WHO, 4_000)
        assert not first.lessee.lacks(WHO, 10), "something was taken ahead"
        assert not second.lessee.hold_ahead(WHO, 3_000)
        first.lessee.end_ahead(WHO, 4_000)
        spend(first, 700)
        first.lessee.renew()
        first.lessee.renew()
        assert second.lessee.hold_ahead(WHO, 5_300), "a charge counts whether or not it is entered yet"
        assert not first.lessee.hold_ahead(WHO, 1)
    finally:
        for one in (first, second):
            one.keeper.close(30)
            one.close()


def test_a_server_that_has_the_ledger_to_itself_asks_nothing(tmp_path: Path) -> None:
    one = open_ledger(
        LedgerSettings(path=str(tmp_path / "books.db")),
        PolicyConfig(64, 64, 1, 0, 0, 0, 0),
        "m",
        now_us=0,
        wall_us=10**15,
        budgets=BUDGETS,
    )
    try:
        assert one.lessee is None
        assert one.budgets.reserve(1, WHO, 6_000).ok
    finally:
        one.keeper.close(30)
        one.close()
