"""Tables and the HTML report of a simulated fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stepwell.commands.plan.output import write_page
from stepwell.console.fitting import fitted
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.books import TierMoney
from stepwell.simulate.fleet_report import FleetReport
from stepwell.simulate.report import Latency

LATENCY_HEAD = ("what", "turns", "mean ms", "p50 s", "p90 s", "p99 s")
TIER_HEAD = (
    "service tier", "turns", "refused", "TTFT p50 s", "TTFT p99 s", "on time", "revenue USD", "cost USD",
    "with idle USD", "margin",
)  # fmt: skip


def show(console: Console, found: FleetReport, notes: Sequence[str]) -> None:
    """Everything as tables."""
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for title, head, rows in tables(found):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(fitted(console, table))


def tables(found: FleetReport) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and rows of each table."""
    return [
        ("latency", LATENCY_HEAD, _latency_rows(found)),
        ("service tiers", TIER_HEAD, _tier_rows(found)),
        ("memory and work", ("figure", "value"), _work_rows(found)),
    ]


def _latency_rows(found: FleetReport) -> list[list[str]]:
    means = found.means
    named: list[tuple[str, Latency, float | None]] = [
        ("time to first token", found.ttft, means.ttft_ms),
        ("time per output token", found.tpot, means.tpot_ms),
        ("whole turn", found.e2e, means.e2e_ms),
        ("whole session", found.sessions, None),
    ]
    return [
        [
            name,
            f"{one.count:,}",
            "" if mean is None else f"{mean:,.1f}",
            *(f"{value:,.3f}" for value in (one.p50_s, one.p90_s, one.p99_s)),
        ]
        for name, one, mean in named
    ]


def _tier_rows(found: FleetReport) -> list[list[str]]:
    rows = []
    for tier in found.tiers:
        money = None if found.money is None else found.money.tiers.get(tier.service_tier)
        margin = None if money is None else money.margin
        paid = ["", "", ""] if money is None else [f"{v:,.2f}" for v in _amounts(money)]
        rows.append(
            [
                tier.service_tier,
                f"{tier.turns:,}",
                f"{tier.refused:,}",
                f"{tier.ttft.p50_s:,.3f}",
                f"{tier.ttft.p99_s:,.3f}",
                "" if tier.ttft_on_time is None else f"{tier.ttft_on_time:.1%}",
                *paid,
                "" if margin is None else f"{margin:.0%}",
            ]
        )
    return rows


def _amounts(money: TierMoney) -> tuple[float, float, float]:
    return float(money.revenue_usd), float(money.cost_usd), float(money.loaded_usd)


def _work_rows(found: FleetReport) -> list[list[str]]:
    prompts = max(1, found.prompt_tokens)
    rows = [[f"prompt tokens found on {tier}", f"{n / prompts:.2%}"] for tier, n in found.tokens_from.items()]
    rows += [
        [
            "tokens computed again",
            f"{found.again_tokens:,} ({found.again_tokens / max(1, found.computed_tokens):.1%})",
        ],
        ["replicas busy", f"{found.busy_share:.1%}"],
        ["preemptions", f"{found.preemptions:,}"],
        ["turns sent again", f"{found.sent_again:,}"],
        *(
            [f"GB {route.replace('_', ' to ')}", f"{size / 1e9:,.1f}"]
            for route, size in found.bytes_moved.items()
        ),
        ["steps of the policy", f"{found.steps:,}"],
        ["CPU seconds", f"{found.cpu_s:,.2f}"],
    ]
    if found.money is not None:
        rows += [
            [f"USD of {name}", f"{float(usd):,.2f}"] for name, usd in found.money.by_resource_usd.items()
        ]
        rows.append(["of it idle, USD", f"{float(found.money.idle_usd):,.2f}"])
    return rows


def write_report(
    found: FleetReport,
    notes: Sequence[str],
    inputs: Mapping[str, object],
    seed: int,
    html: Path | None,
    console: Console,
) -> None:
    """One page with charts, tables, inputs, seed and versions."""
    if html is None:
        return
    page = Page(
        "Simulated fleet",
        f"{found.turns:,} turns on {found.replicas} replicas: mean TTFT {found.means.ttft_ms:,.0f} ms,"
        f" TPOT {found.means.tpot_ms:.1f} ms, {found.hit_share:.1%} of prompt tokens found.",
    )
    tiers = [tier.service_tier for tier in found.tiers]
    ttft = {f"p{p}": [getattr(t.ttft, f"p{p}_s") for t in found.tiers] for p in (50, 90, 99)}
    page.chart(charts.bars("Time to first token", "seconds", tiers, ttft))
    if found.money is not None:
        money = [found.money.tiers.get(name) for name in tiers]
        series = {
            "revenue": [0.0 if m is None else float(m.revenue_usd) for m in money],
            "cost with idle time": [0.0 if m is None else float(m.loaded_usd) for m in money],
        }
        page.chart(charts.bars("Books by service tier", "USD", tiers, series))
    shares = {tier: [n / max(1, found.prompt_tokens)] for tier, n in found.tokens_from.items()}
    page.chart(charts.bars("Where prompt tokens were found", "share", ["prompts"], shares))
    for title, head, rows in tables(found):
        page.heading(title)
        page.table(head, rows)
    for note in notes:
        page.text(note)
    page.inputs(inputs, seed)
    write_page(page, html, console)
