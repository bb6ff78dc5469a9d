"""The chaos benchmark does what it says, and finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.bench.chaos import checks
from stepwell.bench.chaos.control import Control
from stepwell.bench.chaos.tally import ChaosTally
from stepwell.bench.chaos.target import DOWN, ChaosTarget, Window
from stepwell.cli import run
from stepwell.ledger.base import PostingBatch, Run
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import REVENUE, Account, Cause, Kind, Posting, Resource, Usage

AGENT = ("chaos-0-1", "lead")


@pytest.fixture
def tally(tmp_path: Path) -> Iterator[ChaosTally]:
    target = ChaosTarget(tmp_path, tmp_path, "null", str(tmp_path / "ledger.db"))
    yield ChaosTally(target)
    target.close()


def test_a_server_whose_books_are_taken_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chaos.json"
    words = ["bench", "chaos", "--quick", "--books", "sqlite", "--faults", "books moved away"]
    assert run([*words, "--json", str(file)]) == 0, capsys.readouterr().out
    results = json.loads(file.read_text("utf-8"))["results"]
    assert results["fault: books moved away"] == 1
    assert results["answered"] > 0 and results["postings verified"] > 0
    assert capsys.readouterr().out.rstrip().endswith("chaos: 16 of 16 measured targets reached.")


def test_a_fault_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "chaos", "--faults", "meteor"]) == 2
    assert "--faults 'meteor' is none of PostgreSQL restart, books locked" in capsys.readouterr().err


def test_a_refusal_needs_a_stated_code_and_a_reason(tally: ChaosTally) -> None:
    tally.refused(AGENT, "a turn", (500, "internal_error"), (5.0, 5.1))
    assert tally.counts["wrong: stated"] == 1
    tally.refused(AGENT, "a turn", (429, "rate_limit_exceeded"), (5.0, 5.1))
    tally.refused(AGENT, "a turn", (503, "ledger_unavailable"), (25.0, 25.1))
    tally.cut("a turn", (25.0, 25.1))
    tally.target.windows.append(Window("books locked", 20.0, 24.0))
    tally.judge()
    assert tally.counts["wrong: without a reason"] == 1, (
        "locked books explain a refusal and no broken connection"
    )


def test_the_page_that_two_processes_share(tmp_path: Path) -> None:
    ours = Control(tmp_path / "page", create=True)
    theirs = Control(tmp_path / "page")
    ours.clock_offset_ns, ours.disk_delay_us = -(10**18), 7
    assert (theirs.clock_offset_ns, theirs.disk_delay_us) == (-(10**18), 7)


# --- the books -----------------------------------------------------------------------------------


def _charged(path: Path, times: int) -> SqliteStore:
    """Books in which AGENT was charged so often."""
    store = SqliteStore(path)
    account = Account(Kind.AGENT, "local", session=AGENT[0], agent="/".join(AGENT))
    run_id = store.begin(Run("chaos", 0, "null", "{}", "", ""))
    usage = [Usage(n, account, "null", "stop", 1, charge_microusd=5) for n in range(times)]
    customer = Account(Kind.CUSTOMER, "local")
    moved = [Posting(customer, REVENUE, Resource.MONEY, 5, Cause.SETTLE, n + 1) for n in range(times)]
    store.write(run_id, PostingBatch(1, 1, 1, moved, usage))
    store.end(run_id, 2)
    return store


@pytest.mark.parametrize(
    ("charged", "refused", "found"),
    [(2, 0, set()), (3, 0, {"charged too often"}), (2, 1, {"charged too often"}), (1, 0, {"charge lost"})],
)
def test_charges_are_held_against_what_was_asked(
    tally: ChaosTally, tmp_path: Path, charged: int, refused: int, found: set[str]
) -> None:
    for _ in range(2):
        tally.attempt(AGENT)
        tally.answered(AGENT, 100.0)
    tally.asked[AGENT].refused = refused
    store = _charged(tmp_path / "books.db", charged)
    checks.books(store, tally)
    store.close()
    wrong = {name.removeprefix("wrong: ") for name in tally.counts if name.startswith("wrong: ")}
    assert wrong == found


@pytest.mark.parametrize("read_s", [99.0, 103.0])
def test_a_charge_may_go_with_the_step_that_a_kill_took(
    tally: ChaosTally, tmp_path: Path, read_s: float
) -> None:
    """Also where the client reads the answer after the kill."""
    tally.attempt(AGENT)
    tally.answered(AGENT, read_s)
    tally.target.kills_s.append(101.0)
    tally.target.windows.append(Window(DOWN, 101.0, 103.0))
    store = _charged(tmp_path / "books.db", 0)
    checks.books(store, tally)
    store.close()
    assert tally.counts["answered, not charged"] == 1
    assert not any(name.startswith("wrong") for name in tally.counts)
