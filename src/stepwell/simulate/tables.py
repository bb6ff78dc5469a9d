"""Tables of runs side by side: what each policy's misses cost, and what each service tier got."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from stepwell.policy.types import KvTier
from stepwell.simulate.report import Latency, RunReport

REFERENCE = "lru"


def find(runs: Sequence[RunReport], policy: str) -> RunReport | None:
    """The run of a policy, whatever was declared."""
    return next((run for run in runs if run.policy == policy), None)


COST_COLUMNS = ("misses", "x bound", "again", "copies", "waits", "prefill", "tax", *KvTier)
TRAFFIC_COLUMNS = ("down", "up", "written", "read", "w/u", "preempted", "refused")


def cost_table(title: str, runs: Sequence[RunReport]) -> Table:
    """What each policy's misses cost, of what that is made, and where prompts were found."""
    table = _table(title, COST_COLUMNS)
    for run in runs:
        shares = [100 * tokens / max(1, run.prompt_tokens) for tokens in run.tokens_from.values()]
        table.add_row(
            name_of(run),
            seconds(run.miss_s),
            _or_dash(run.times_bound, "{:.2f}"),
            seconds(run.again_s),
            seconds(run.copy_in_s),
            seconds(run.disk_wait_s),
            seconds(run.prefill_s),
            f"{100 * run.recompute_tax:.2f}%",
            *(f"{share:.1f}%" for share in shares),
        )
    return table


def traffic_table(runs: Sequence[RunReport]) -> Table:
    """Bytes per route, what was written for each byte that was of use, and how long sessions took."""
    title = (
        "Bytes: device to host (down), back (up), to disk (written), from disk (read), written per useful"
        " byte read (w/u); sessions p50, p90, p99"
    )
    table = _table(title, (*TRAFFIC_COLUMNS, "p50", "p90", "p99"))
    for run in runs:
        table.add_row(
            name_of(run),
            *(_gib(size) for size in run.bytes_moved.values()),
            _or_dash(run.written_per_useful, "{:.2f}"),
            str(run.preemptions),
            str(run.refused),
            *_three(run.sessions),
        )
    return table


def latency_table(runs: Sequence[RunReport]) -> Table:
    """Time to first token and to the last one, per service tier."""
    columns = ("turns", "TTFT p50", "p90", "p99", "on time", "turn p50", "p90", "p99")
    table = _table("Per service tier: time to first token, time to the last", columns, "service tier")
    for run in runs:
        for tier in run.tiers:
            if tier.turns:
                on_time = _or_dash(tier.ttft_on_time, "{:.1%}")
                names = (name_of(run), tier.service_tier, f"{tier.turns:,}")
                table.add_row(*names, *_three(tier.ttft), on_time, *_three(tier.turn))
    return table


def _table(title: str, columns: Sequence[str], *names: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("policy", *names):
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def name_of(run: RunReport) -> str:
    """The policy, and what was declared if that was anything."""
    return run.policy if run.declared in ("silent", "") else f"{run.policy} ({run.declared})"


def _three(latency: Latency) -> list[str]:
    if not latency.count:
        return ["-"] * 3
    return [seconds(value) for value in (latency.p50_s, latency.p90_s, latency.p99_s)]


def seconds(value: float) -> str:
    """A time in seconds, for people."""
    if value >= 100:
        return f"{value:,.0f}s"
    return f"{value:.1f}s" if value >= 10 else f"{value:.2f}s"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}G"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
