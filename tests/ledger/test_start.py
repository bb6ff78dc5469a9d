"""Opening the books: what a bad book, a busy name, a wrong clock or a killed run does to a start."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stepwell.basics.clock import Clock, ManualClock, MonotonicClock
from stepwell.engines.base import SamplingParams
from stepwell.errors import BadInput, StepwellError
from stepwell.launch import assemble
from stepwell.launch.assemble import Node, build
from stepwell.ledger.base import LedgerError
from stepwell.ledger.budgets.book import BudgetName
from stepwell.ledger.budgets.spending import spent_microusd
from stepwell.ledger.reading.queries import runs
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.settings import BudgetEntry, LedgerSettings
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Budget, Kind, Resource, Scope
from stepwell.loop.requests import Finished, Generation, Output, Rejected
from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import Contract
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings
from tests.driver.harness import with_caller

PROMPT = tuple(range(60, 160))
BASE = "[prices]\ninput = 100\noutput = 400\n"
PRICES = f"{BASE}[service_tiers.priority]\nmultiplier = 2\n[service_tiers.flex]\nmultiplier = 0.5\n"
CONFIG = PolicyConfig(
    block_tokens=16,
    unit_tokens=4,
    device_blocks=16,
    block_bytes=128,
    token_bytes=8,
    host_bytes=8_192,
    disk_bytes=32_768,
    context_tokens=256,
    contracts=(Contract("default"),),
)
DAY_US = 86_400_000_000
NOW_US = 1_795_305_600_000_000
Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A whole server on the null engine, stopped in the end whatever happens."""
    started: list[Node] = []
    book = tmp_path / "prices.toml"
    book.write_text(PRICES, "utf-8")

    def one(*budgets: BudgetEntry, name: str = "a", clock: Clock | None = None, **ledger: Any) -> Node:
        ledger = {"path": str(tmp_path / "ledger.db"), "price_book": str(book), **ledger}
        settings = Settings(
            engine=EngineSettings(kind="null", device_kv_tokens=2_048),
            kv=KvSettings(host_kv=2**20, disk_kv=2**22, disk_dir=tmp_path / f"kv-{name}"),
            ledger=LedgerSettings(**ledger),
            budgets=budgets,
        )
        node = build(settings, clock=clock or ManualClock(10), strict=True)
        started.append(node)
        return node

    yield one
    for node in started:
        node.stop(0)


def ask(node: Node, new_tokens: int = 10, **generation: Any) -> Output:
    outputs: list[Output] = []
    sampling = SamplingParams(temperature=0.0)
    node.driver.submit(Generation(PROMPT, new_tokens, sampling, **with_caller(generation)), outputs.append)
    node.driver.run_until_idle()
    return outputs[-1]


COST_US = 100 * 100 + 10 * 400
"""Of a first turn; a later one finds its prompt."""


def hard(usd: str, **scope: str) -> BudgetEntry:
    return BudgetEntry("local", hard_usd=Decimal(usd), **scope)


def kill(node: Node) -> None:
    """What is left of a process that dies: the kernel closes its files."""
    assert node.ledger is not None
    node.ledger.writer.abandon()
    node.ledger.store.close()
    node.tiers.close()
    node.driver._stopped = True


def ledger_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "stepwell-ledger"]


def state_of(node: Node) -> Any:
    assert node.ledger is not None
    (state,) = node.ledger.keeper.budgets.states()
    return state


# --- budgets at work -----------------------------------------------------------------------------


def test_a_spent_budget_refuses_with_its_code_and_sentence(start: Start) -> None:
    node = start(hard("0.014"))
    assert isinstance(ask(node), Finished)
    end = ask(node)
    assert isinstance(end, Rejected)
    assert (end.code, end.retry_after_ms) == ("insufficient_quota", None)
    assert end.message.startswith("The budget of this customer is reached: $0.014 of $0.014 is spent")
    assert state_of(node).spent_microusd == COST_US == 14_000


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ({"key": "key_1"}, "insufficient_quota"),
        ({"session": "run-42"}, "session_budget_exceeded"),
        ({"agent": "run-42/reader"}, "agent_budget_exceeded"),
    ],
)
def test_every_scope_has_its_code_and_names_whose_it_is(
    start: Start, scope: dict[str, str], code: str
) -> None:
    node = start(hard("0.001", **scope))
    end = ask(node, key="key_1", session="run-42", agent="run-42/reader")
    assert isinstance(end, Rejected) and end.code == code
    ((kind, name),) = scope.items()
    assert f"{kind} '{name}'" in end.message and "this request may come to $0.014" in end.message
    assert isinstance(ask(node, key="key_2", session="run-43", agent="run-43/reader"), Finished)


def test_only_others_holds_in_the_way_is_to_try_again(start: Start) -> None:
    node = start(hard("0.02"))
    outputs: list[Output] = []
    generation = Generation(PROMPT, 10, SamplingParams(temperature=0.0))
    for _ in range(2):
        node.driver.submit(generation, outputs.append)
    end = outputs[-1]
    assert isinstance(end, Rejected)
    assert (end.code, end.retry_after_ms) == ("rate_limit_exceeded", 1_000)
    assert "$0 of $0.02 spent" in end.message and "try again" in end.message
    node.driver.run_until_idle()
    assert state_of(node).spent_microusd == COST_US


def test_a_session_pauses_and_goes_on_when_its_budget_is_raised(start: Start) -> None:
    node = start(hard("0.015", session="s"))
    ledger = node.ledger
    assert ledger is not None
    assert isinstance(ask(node, session="s", agent="s/a"), Finished)
    end = ask(node, session="s", agent="s/a")
    assert isinstance(end, Rejected) and end.code == "session_budget_exceeded"
    kept = node.driver.agent("local", "s/a")
    assert kept is not None and kept.tokens == 110
    ledger.set_budget(Budget(Scope.SESSION, "local", "s", None, 100_000, NOW_US, "operator"))
    end = ask(node, session="s", agent="s/a")
    assert isinstance(end, Finished) and end.recomputed_tokens == 0


def test_a_first_budget_in_the_middle_counts_what_was_spent_before(start: Start) -> None:
    node = start()
    ledger = node.ledger
    assert ledger is not None
    ask(node, session="s")
    ledger.set_budget(Budget(Scope.SESSION, "local", "s", None, 20_000))
    state = state_of(node)
    assert state.spent_microusd == COST_US == spent_microusd(ledger.store, state.name)
    with pytest.raises(BadInput, match="soft limit is above"):
        ledger.set_budget(Budget(Scope.SESSION, "local", "s", 2, 1))
    assert state_of(node).hard_microusd == 20_000
    assert len(ledger.store.rows("SELECT id FROM budgets")) == 1


def test_names_of_one_scope_are_not_names_of_another(start: Start) -> None:
    node = start()
    ledger = node.ledger
    assert ledger is not None
    ask(node, key="same", session="other", agent="third")
    ask(node, key="x", session="y", agent="z", tenant="rival")
    ledger.writer.flush()
    spent = {
        scope: spent_microusd(
            ledger.store, BudgetName(scope, "local", "same" if scope.value != "tenant" else "")
        )
        for scope in Scope
    }
    assert spent == {Scope.TENANT: COST_US, Scope.KEY: COST_US, Scope.SESSION: 0, Scope.AGENT: 0}


@pytest.mark.parametrize("on_failure", ["serve", "refuse"])
def test_what_is_done_while_the_ledger_fails_is_the_settings_choice(start: Start, on_failure: str) -> None:
    node = start(on_failure=on_failure)
    assert node.ledger is not None
    node.ledger.writer._failing = "the disk is full"
    assert node.ledger.keeper.refuses is (on_failure == "refuse")
    node.ledger.writer._failing = None


def test_a_budget_of_the_settings_bounds_one_name_with_something() -> None:
    with pytest.raises(ValueError, match="has neither soft_usd nor hard_usd"):
        BudgetEntry("local").budget()
    with pytest.raises(ValueError, match="names key and session: one only"):
        hard("1", key="key_1", session="s").budget()


# --- restarts ------------------------------------------------------------------------------------


def test_a_restart_knows_what_was_spent_and_does_not_undo_the_operator(start: Start) -> None:
    node = start(hard("1"))
    assert node.ledger is not None
    ask(node)
    node.ledger.set_budget(Budget(Scope.TENANT, "local", "", None, 5_000_000, NOW_US, "operator"))
    node.stop()
    again = start(hard("1"))
    state = state_of(again)
    assert (state.hard_microusd, state.spent_microusd, state.held_microusd) == (5_000_000, COST_US, 0)
    again.stop()
    third = start(hard("2"))
    assert state_of(third).hard_microusd == 2_000_000, "the settings say something new"
    third.stop()
    assert state_of(start(hard("2"))).hard_microusd == 2_000_000


def test_a_budget_that_makes_no_sense_does_not_get_into_the_books(start: Start, tmp_path: Path) -> None:
    entry = BudgetEntry("local", soft_usd=Decimal(2), hard_usd=Decimal(1))
    with pytest.raises(BadInput, match="the soft limit is above the hard one"):
        start(entry)
    assert ledger_threads() == []
    node = start()
    assert node.ledger is not None
    assert node.ledger.store.rows("SELECT * FROM budgets") == []
    assert node.ledger.recovered == []


def test_a_run_that_was_killed_is_closed_at_the_next_start_and_its_holds_are_back(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    node = start(hard("0.1"))
    ledger = node.ledger
    assert ledger is not None
    ask(node)
    node.driver.submit(Generation(PROMPT, 50, SamplingParams()), lambda output: None)
    for _ in range(3):
        node.driver.step()
    ledger.writer.flush()
    assert state_of(node).held_microusd > 0
    kill(node)
    with caplog.at_level(logging.WARNING, "stepwell.ledger"):
        again = start(hard("0.1"))
    assert again.ledger is not None
    (recovered,) = again.ledger.recovered
    assert (recovered.run, recovered.released_requests) == (ledger.run, 1)
    assert [r.getMessage() for r in caplog.records if r.name == "stepwell.ledger"] == [recovered.sentence]
    state = state_of(again)
    assert (state.spent_microusd, state.held_microusd) == (COST_US, 0)
    held = again.ledger.store.rows(
        "SELECT SUM(CASE WHEN c.kind = 'held' THEN amount ELSE -amount END) FROM postings p "
        "JOIN accounts c ON c.id = p.credit JOIN accounts d ON d.id = p.debit "
        "WHERE resource = 'microusd' AND (c.kind = 'held') <> (d.kind = 'held')"
    )
    assert held == [(0,)]


# --- what does not start -------------------------------------------------------------------------


def refused(start: Start, **ledger: Any) -> str:
    """The one sentence of a start that fails, after which everything is free again."""
    with pytest.raises(StepwellError) as caught:
        start(**ledger)
    assert ledger_threads() == []
    start().stop()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[prices]\ninput = -1\noutput = 1\n", ("prices.input", "-1")),
        ("[prices]\ninput = 1\noutput = 1\ninptu = 2\n", ("inptu", "input")),
        ("[prices\n", ("odd.toml",)),
    ],
)
def test_a_price_book_that_is_wrong_is_one_sentence(
    start: Start, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "odd.toml").write_text(text, "utf-8")
    sentence = refused(start, price_book=str(tmp_path / "odd.toml"))
    assert all(word in sentence for word in words)


def test_a_book_that_is_not_there_is_one_sentence(start: Start) -> None:
    assert "unheard-of" in refused(start, price_book="unheard-of")
    assert "unheard-of" in refused(start, cost_book="unheard-of")


def test_a_service_tier_without_a_price_is_one_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(BASE, "utf-8")
    sentence = refused(start, price_book=str(tmp_path / "odd.toml"))
    assert "the service tier 'priority' has no price" in sentence and "odd.toml" in sentence


def test_a_ledger_that_cannot_be_opened_is_one_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, " * 100, "utf-8")
    assert "text.db" in refused(start, path=str(tmp_path / "text.db"))
    assert "mysql" in refused(start, path="mysql://host/db")


def test_a_second_server_of_the_same_name_gets_one_sentence(start: Start) -> None:
    first = start(node="n1")
    with pytest.raises(LedgerError, match=r"in use by another server of the name 'n1' \(process \d+\)"):
        start(name="b", node="n1")
    assert len(ledger_threads()) == 1
    assert isinstance(ask(first), Finished)
    other = start(name="b", node="n2")
    assert isinstance(ask(other), Finished)
    first.stop()
    start(name="c", node="n1")


def test_a_server_that_cannot_record_leaves_nothing_open(start: Start, tmp_path: Path) -> None:
    settings = start().settings
    for node_settings in (replace(settings, record=tmp_path / "no" / "such" / "dir" / "r.jsonl"),):
        node_settings = replace(
            node_settings,
            kv=replace(node_settings.kv, disk_dir=tmp_path / "kv-other"),
            ledger=replace(node_settings.ledger, node="other"),
        )
        with pytest.raises((StepwellError, OSError)):
            build(node_settings, clock=ManualClock())
    assert len(ledger_threads()) == 1, "that of the first server"
    start(name="d", node="other")


# --- the clock on the wall -----------------------------------------------------------------------


def opened(path: Path, wall_us: int, now_us: int = 0, **settings: Any) -> Ledger:
    made = LedgerSettings(path=str(path), node="n", **settings)
    return open_ledger(made, CONFIG, "null", now_us=now_us, wall_us=wall_us)


def test_a_clock_before_the_last_entry_is_followed_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(tmp_path / "l.db", NOW_US)
    first.keeper.close(5_000_000)
    first.close()
    with caplog.at_level(logging.WARNING, "stepwell.ledger"):
        second = opened(tmp_path / "l.db", NOW_US - DAY_US, now_us=77)
    (warning,) = caplog.records
    assert "the clock stands 86405 s before the last entry" in warning.getMessage()
    second.keeper.close(78)
    (one, two) = runs(second.store)
    assert one.ended_at_us == NOW_US + 5_000_000
    assert two.started_at_us == NOW_US - DAY_US
    assert two.ended_at_us == two.started_at_us + 1
    assert second.header["wall_us"] == two.started_at_us
    second.close()


def test_a_clock_that_is_right_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for day in range(2):
        ledger = opened(tmp_path / "l.db", NOW_US + day * DAY_US)
        ledger.keeper.close(1)
        ledger.close()
    again = opened(tmp_path / "l.db", NOW_US + DAY_US - 999_998)
    assert again.header["wall_us"] == NOW_US + DAY_US - 999_998
    again.keeper.close(1)
    again.close()
    assert caplog.records == []


def test_every_posting_asks_the_clock_on_the_wall(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sets the clock, or the machine sleeps for eight hours: the driver's clock knows of neither."""
    times_us = [NOW_US + 400 * DAY_US, NOW_US, NOW_US + 8 * 3_600_000_000]
    shown = [times_us[0]]
    monkeypatch.setattr(assemble, "_wall_us", lambda: shown[-1])
    node = start(clock=MonotonicClock())
    for time_us in times_us:
        shown.append(time_us)
        assert isinstance(ask(node, session="s", agent="s/a", key="key_1"), Finished)
    node.stop()
    store = SqliteStore(Path(str(node.settings.ledger.path)))
    assert [at_us for (at_us,) in store.rows("SELECT at_us FROM usage ORDER BY run, batch, n")] == times_us
    assert verify(store).differences == []
    store.close()


# --- a node and its books ------------------------------------------------------------------------


def test_what_a_server_entered_is_what_it_charged(start: Start) -> None:
    node = start()
    assert isinstance(ask(node, session="s", agent="s/a", key="key_1"), Finished)
    node.stop()
    store = SqliteStore(Path(str(node.settings.ledger.path)))
    assert store.rows("SELECT SUM(charge_microusd), SUM(requests) FROM usage") == [(COST_US, 1)]
    found = store.rows(
        "SELECT tenant, key, service_tier, session, agent FROM accounts WHERE kind = ? AND agent <> ''",
        (Kind.AGENT.value,),
    )
    assert found == [("local", "key_1", "default", "s", "s/a")]
    paid = store.rows(
        "SELECT SUM(amount) FROM postings p JOIN accounts a ON a.id = p.credit "
        "WHERE a.kind = 'revenue' AND p.resource = ?",
        (Resource.MONEY.value,),
    )
    assert paid == [(COST_US,)]
    store.close()


def test_no_ledger_is_kept_where_none_is_wanted(start: Start) -> None:
    for path in (None, "none"):
        node = start(path=path)
        assert node.ledger is None
        end = ask(node)
        assert isinstance(end, Finished) and end.use is None
        node.stop()


def test_a_budget_taken_out_of_the_settings_is_lifted_and_one_of_the_operator_is_not(start: Start) -> None:
    node = start(hard("0.014"), hard("0.001", session="s"))
    assert node.ledger is not None
    node.ledger.set_budget(Budget(Scope.AGENT, "local", "a", None, 1, NOW_US, "operator"))
    node.stop()
    again = start(hard("0.014"))
    assert isinstance(ask(again, session="s"), Finished), "nobody bounds the session any more"
    end = ask(again, agent="a")
    assert isinstance(end, Rejected)
    assert end.code in ("agent_budget_exceeded", "insufficient_quota")
    assert again.ledger is not None
    assert {state.name.scope for state in again.ledger.keeper.budgets.states()} == {Scope.TENANT, Scope.AGENT}


def test_the_model_that_is_served_has_its_own_price(start: Start, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f"{PRICES}[models.null.prices]\ninput = 1000\noutput = 4000\n", "utf-8")
    spent = []
    for number, name in enumerate(("prices.toml", "own.toml")):
        node = start(name=str(number), price_book=str(tmp_path / name), path=str(tmp_path / f"{number}.db"))
        assert isinstance(ask(node), Finished)
        assert node.ledger is not None
        node.ledger.flush()
        spent.append(spent_microusd(node.ledger.store, BudgetName(Scope.TENANT, "local", "")))
    assert spent[1] == 10 * spent[0] > 0
