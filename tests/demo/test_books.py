"""What the demo says about money: held against the ledger's own rows, in the table and in the picture."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stepwell import cli
from stepwell.basics.clock import Clock
from stepwell.demo import command
from stepwell.demo.books import COST_RESOURCES, CostLine, LedgerFigures, read_ledger
from stepwell.demo.command import Options, run_demo
from stepwell.demo.cost_table import cost_sentences, cost_table, verified
from stepwell.demo.figures import DemoFigures, RunFigures, read_json
from stepwell.demo.page import render_page
from stepwell.demo.report import print_report
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.launch import assemble
from stepwell.ledger.base import LedgerError
from stepwell.ledger.reading.queries import runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.stores.open import open_store
from stepwell.settings.file import Settings

TENANTS = ("almond", "birch", "cedar")


@dataclass
class Books:
    """What stands in the ledger of one run, added up row by row."""

    cost: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    """By agent; what is nobody's under the kind of its account."""
    tokens: dict[tuple[str, str], tuple[int, int, int, int]] = field(default_factory=dict)
    """By tenant and role: requests, visible and intermediate tokens, charge."""


@dataclass
class Demo:
    figures: DemoFigures
    books: list[Books]
    said: str
    page: str

    @property
    def first(self) -> LedgerFigures:
        return ledger(self.figures.runs[0])


def ledger(run: RunFigures) -> LedgerFigures:
    assert run.ledger is not None
    return run.ledger


def books_of(path: str) -> Books:
    store = open_store(path, create=False)
    rates = rates_of(runs(store))
    found = Books()
    kinds = {
        number: (kind, agent) for number, kind, agent in store.rows("SELECT id, kind, agent FROM accounts")
    }
    for run, debit, credit, resource, amount in store.rows(
        "SELECT run, debit, credit, resource, amount FROM postings"
    ):
        if resource in {r.value for r in COST_RESOURCES}:
            for account, sign in ((credit, 1), (debit, -1)):
                kind, agent = kinds[account]
                rate = next(rate for r, rate in rates[run].microusd.items() if r.value == resource)
                found.cost[agent or kind] += sign * rate * amount
    for tenant, role, *sums in store.rows(
        "SELECT a.tenant, a.role, SUM(u.requests), SUM(u.visible_tokens), SUM(u.intermediate_tokens), "
        "SUM(u.charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account GROUP BY a.tenant, a.role"
    ):
        found.tokens[tenant, role] = tuple(sums)
    store.close()
    return found


def null_engine(settings: Settings, clock: Clock | None = None, progress: object = None) -> tuple[Any, Any]:
    """Without the time that a model would take."""
    blocks = settings.engine.device_kv_tokens // 64
    made = NullEngine(
        NullConfig(
            device_blocks=blocks, token_bytes=1024, max_sequences=32, prefill_us_per_token=10, answer=b"1"
        ),
        clock,
    )
    return made, NullText(made.info)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One whole demo on the null engine, both runs; the ledgers are looked into before they go."""
    directory, out, books = tmp_path_factory.mktemp("demo"), io.StringIO(), []

    def look(path: str, *rest: Any) -> LedgerFigures:
        books.append(books_of(path))
        return read_ledger(path, *rest)

    options = Options(
        html=directory / "page.html",
        json=directory / "f.json",
        quick=True,
        price_book="anthropic-claude-opus-4.5",
        cost_book="h100-rented",
        engine="null",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "load_engine", null_engine)
        patch.setattr(command, "QUICK_PATIENCE", 0.01)
        patch.setattr(command, "read_ledger", look)
        assert run_demo(None, options, Console(file=out, width=132, color_system=None)) == 0
    figures = read_json((directory / "f.json").read_bytes())
    return Demo(figures, books, out.getvalue(), (directory / "page.html").read_text())


def test_the_books_of_both_runs_are_right(demo: Demo) -> None:
    for run in demo.figures.runs:
        assert ledger(run).differences == ()
        assert ledger(run).postings > 100
    assert "verify: the books are right" in demo.said
    assert (demo.first.price_book, demo.first.cost_book) == ("anthropic-claude-opus-4.5", "h100-rented")


def test_lines_are_the_ledgers_own_rows(demo: Demo) -> None:
    for run, books in zip(demo.figures.runs, demo.books, strict=True):
        said = {
            (line.customer, line.role): (
                line.requests,
                line.visible_tokens,
                line.intermediate_tokens,
                line.revenue_microusd,
            )
            for line in ledger(run).lines
        }
        assert said == books.tokens
        assert {role for _, role in said} == {"planner", "reader", "verifier"}


def test_what_agents_say_to_one_another_is_intermediate(demo: Demo) -> None:
    """All of it: plans, numbers of sentences, verdicts. The answer is the document's own sentence."""
    written = sum(turn.output_tokens for turn in demo.figures.runs[0].turns)
    assert demo.first.total.intermediate_tokens == written > 0
    assert demo.first.total.visible_tokens == 0
    assert "agents wrote" in demo.said


def test_costs_come_to_the_machines_bill(demo: Demo) -> None:
    """Roles to customers, customers to all, all with what is nobody's to the bill: to the last micro-dollar;
    and the bill is that of the postings."""
    for run, books in zip(demo.figures.runs, demo.books, strict=True):
        found = ledger(run)
        for customer in found.customers:
            assert customer.cost_microusd == summed(
                line for line in found.lines if line.customer == customer.customer
            )
        assert found.total.cost_microusd == summed(found.customers)
        rest = sum(line.total_cost_microusd for line in found.machine.values())
        assert found.total.total_cost_microusd + rest == found.bill_microusd
        exact = -books.cost["machine"]
        assert abs(found.bill_microusd - exact) <= len(COST_RESOURCES) / 2
        assert found.bill_microusd > 0


def summed(lines: Any) -> dict[str, int]:
    sums = {resource.value: 0 for resource in COST_RESOURCES}
    for line in lines:
        for resource, cost in line.cost_microusd.items():
            sums[resource] += cost
    return sums


def test_every_agent_has_what_it_cost(demo: Demo) -> None:
    for run, books in zip(demo.figures.runs, demo.books, strict=True):
        found = ledger(run)
        assert list(found.agents) == list(run.lanes)
        for agent, cost in found.agents.items():
            assert abs(cost - books.cost[agent]) < len(COST_RESOURCES)


def test_the_table_adds_up_as_it_is_printed(demo: Demo) -> None:
    run = demo.figures.runs[0]
    table = cost_table(run, demo.figures.customers)
    assert table is not None
    assert all(len(row) == len(table.columns) for row in table.rows)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    machine, agents = rows["the machine"], rows["all agents"]
    for column in ("compute", "device", "cost"):
        parts = [
            number(row[column]) for name, row in rows.items() if name in ("idle", "overhead of the loop")
        ]
        assert number(agents[column]) + sum(parts) == number(machine[column])
    assert number(machine["revenue"]) - number(machine["cost"]) == number(machine["margin"])
    names = [row[0] for row in table.rows]
    assert names[0] == "Almond (priority)"
    assert sorted(names[1:4]) == ["  planner", "  reader", "  verifier"]  # the dearest stands first
    assert all(table.rows[at][0] in demo.said for at in table.strong)


def number(cell: str) -> int:
    return 0 if cell in ("", "<1") else int(cell.replace(",", ""))


def test_what_is_too_small_for_a_micro_dollar_is_not_nothing(demo: Demo) -> None:
    run = demo.figures.runs[0]
    total = replace(
        demo.first.total,
        cost_microusd=dict.fromkeys(demo.first.total.cost_microusd, 0),
        amounts=demo.first.total.amounts | {"disk_byte_us": 7, "host_byte_us": 0},
    )
    table = cost_table(replace(run, ledger=replace(demo.first, total=total)), demo.figures.customers)
    assert table is not None
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "all agents"), strict=True))
    assert (row["disk"], row["host"]) == ("<1", "0")


@pytest.mark.parametrize("width", [80, 132])
def test_no_figure_is_cut_on_a_narrow_screen(demo: Demo, width: int) -> None:
    out = io.StringIO()
    only = replace(demo.figures, runs=demo.figures.runs[:1])
    print_report(Console(file=out, width=width, color_system=None, highlight=False), only)
    closing = out.getvalue().split("Cost and revenue")[1]
    assert "…" not in closing
    assert max(map(len, closing.splitlines())) <= width
    assert "Birch (default)" in closing
    assert f"{demo.first.bill_microusd:,}" in closing


def test_a_file_of_before_the_ledger_still_makes_a_page(demo: Demo) -> None:
    data = json.loads(demo.figures.to_json())
    for run in data["runs"]:
        del run["ledger"]
    old = read_json(json.dumps(data).encode())
    page, out = render_page(old), io.StringIO()
    print_report(Console(file=out, width=132), old)
    assert all(run.ledger is None for run in old.runs)
    assert "Cost and revenue" not in page
    assert "verify" not in out.getvalue()
    assert cost_sentences(old.runs[0]) == []


def test_wrong_books_are_said_to_be_wrong(demo: Demo) -> None:
    wrong = replace(
        demo.first, differences=("run 1: compute_us: the books say 1, and it should be 2", "more")
    )
    assert verified(wrong).startswith("verify: the books are wrong")
    assert "the books say 1" in verified(wrong)
    assert "and 1 more" in verified(wrong)


def test_a_loss_is_called_one(demo: Demo) -> None:
    poor: CostLine = replace(demo.first.total, revenue_microusd=1)
    books = replace(demo.first, total=poor, bill_microusd=10, machine={})
    first = cost_sentences(replace(demo.figures.runs[0], ledger=books))[0]
    assert "for a machine that cost 10: 9 u$ are missing" in first


def test_a_ledger_that_cannot_be_read_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*anything: Any) -> LedgerFigures:
        raise LedgerError("the ledger is damaged")

    monkeypatch.setattr(assemble, "load_engine", null_engine)
    monkeypatch.setattr(command, "QUICK_PATIENCE", 0.01)
    monkeypatch.setattr(command, "read_ledger", unreadable)
    out, html = io.StringIO(), tmp_path / "page.html"
    options = Options(html=html, quick=True, compare=False, engine="null")
    assert run_demo(None, options, Console(file=out, width=132, color_system=None)) == 0
    assert "What it cost is not known: the ledger is damaged" in out.getvalue()
    assert html.is_file()


@pytest.mark.parametrize("option", ["--price-book", "--cost-book"])
def test_a_book_that_is_not_there_is_found_before_the_work(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["demo", "--engine", "null", option, "nothing-of-the-kind"]) == 2
    said = capsys.readouterr()
    assert "nothing-of-the-kind" in said.err
    assert "Traceback" not in said.err
    assert "With KV tiers" not in said.out
