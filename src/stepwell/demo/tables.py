"""The tables and notes that the terminal and the page share: plain rows of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepwell.basics.units import format_size
from stepwell.demo.books import LedgerFigures
from stepwell.demo.figures import DemoFigures, RunFigures, ServiceTierFigures, same_answers
from stepwell.demo.record import KV_TIERS


@dataclass(frozen=True, slots=True)
class TextTable:
    """A title, column heads, and rows whose first cell names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()
    """Rows that stand out: sums of others."""


SERVICE_TIER_COLUMNS = (
    *("service tier", "turns", "TTFT p50", "TTFT p95", "session"),
    *(f"cached, {tier}" for tier in KV_TIERS),
    *("computed", "recomputed", "recompute tax"),
)


def service_tier_table(run: RunFigures) -> TextTable:
    """A row per service tier and one for all."""
    rows = tuple(_row(figures) for figures in (*run.service_tiers, run.total))
    title = f"By service tier, {run.name[:1].lower()}{run.name[1:]} (lengths in tokens)"
    return TextTable(title, SERVICE_TIER_COLUMNS, rows)


def _row(figures: ServiceTierFigures) -> tuple[str, ...]:
    times = (figures.ttft_p50_s, figures.ttft_p95_s, figures.session_s)
    lengths = (*(figures.cached_tokens[tier] for tier in KV_TIERS), figures.computed_tokens)
    return (
        figures.service_tier,
        str(figures.turns),
        *map(_seconds, times),
        *(f"{length:,}" for length in (*lengths, figures.recomputed_tokens)),
        f"{figures.recompute_tax:.1%}",
    )


def comparison_table(ours: RunFigures, theirs: RunFigures) -> TextTable:
    """One run against the other, figure by figure."""
    rows = [_compared("whole job", ours.duration_s, theirs.duration_s, _seconds)]
    tiers = zip(ours.service_tiers, theirs.service_tiers, strict=True)
    rows += [
        _compared(f"session, {one.service_tier}", one.session_s, two.session_s, _seconds)
        for one, two in tiers
    ]
    for name, figure, form in COMPARED:
        rows.append(_compared(name, getattr(ours.total, figure), getattr(theirs.total, figure), form))
    if ours.ledger is not None and theirs.ledger is not None:
        a, b = ours.ledger, theirs.ledger
        rows.append(_compared("the machine's bill", a.bill_microusd, b.bill_microusd, "{:,} u$".format))
        rows.append(
            _compared("revenue", a.total.revenue_microusd, b.total.revenue_microusd, "{:,} u$".format)
        )
    columns = ("", "with KV tiers", "without", "without / with")
    return TextTable("The same job, side by side", columns, tuple(rows))


def _compared(name: str, ours: float, theirs: float, form: Callable[[float], str]) -> tuple[str, ...]:
    return (name, form(ours), form(theirs), f"{theirs / ours:.2f}x" if ours > 0 else "-")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


COMPARED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("TTFT p50", "ttft_p50_s", _seconds),
    ("TTFT p95", "ttft_p95_s", _seconds),
    ("TTFT p50, returning agents", "return_ttft_p50_s", _seconds),
    ("TTFT p95, returning agents", "return_ttft_p95_s", _seconds),
    ("prompt tokens sent", "prompt_tokens", "{:,}".format),
    ("tokens computed", "computed_tokens", "{:,}".format),
    ("tokens recomputed", "recomputed_tokens", "{:,}".format),
    ("recompute tax", "recompute_tax", "{:.1%}".format),
)


def notes(figures: DemoFigures) -> list[str]:
    """What a reader must know to judge the figures."""
    run = figures.runs[0]
    capacity = run.capacity
    document = figures.document
    made = [
        f"Model {figures.model}, on {figures.machine.get('cores')} cores "
        f"({figures.machine.get('cpu') or 'unknown CPU'}).",
        f"Document {document.name} ({document.kind}, {document.words:,} words, "
        f"{document.total_tokens:,} tokens): readers are given the passages nearest to each question.",
        f"Device KV holds {capacity.device_tokens:,} tokens ({format_size(capacity.limit_bytes('device'))}), "
        "planned as "
        f"{figures.device_share:.0%} of the {capacity.held_tokens:,} tokens that {figures.agents} agents "
        "hold together when a prefix "
        f"that a crew shares is counted once ({capacity.contexts_tokens:,} when every context is counted "
        "whole). "
        f"At the end they really held {run.held_tokens:,}.",
        f"Host memory may hold {format_size(capacity.host_bytes)} of KV, disk "
        f"{format_size(capacity.disk_bytes)}.",
        "Cached tokens are counted where they lay when the turn was admitted. Computed tokens are missing "
        "prompt tokens plus "
        "generated ones; recomputed ones had been computed before; recompute tax is recomputed / computed.",
        "Service tiers: under pressure priority counts 16 times as much as flex, for compute and for room; "
        "with one question per customer, differences between their rows are order of arrival as well.",
    ]
    if len(figures.runs) == 2:
        made.append(
            "The second run is the same job with the same device KV, host memory and disk switched off; "
            "{} of {} answers are the same. Floating-point sums depend on which requests share a "
            "batch, so a vote of the readers may differ.".format(*same_answers(*figures.runs))
        )
    if run.ledger is not None:
        made.append(_money_note(run.ledger))
    if "smollm2" in figures.model or "gemma" in figures.model:
        made.append(
            "A model this small words answers poorly, so readers point at the sentence that answers. "
            "--model takes a larger GGUF file."
        )
    return made


def _money_note(books: LedgerFigures) -> str:
    return (
        f"Costs are the ledger's, by the cost book '{books.cost_book}'; revenue by the price book "
        f"'{books.price_book}' ('stepwell ledger books' shows both and what they assume). Compute is split "
        "over the requests of a batch by the work each brought; KV that agents share is split among them. "
        "The machine is paid for from the server's start to its end. Agents write for one another, so "
        "it counts as intermediate tokens: the answer is a sentence of the document, word for word."
    )
