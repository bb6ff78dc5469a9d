"""The four boards: overview, KV tiers, money, agents and preemption."""

from __future__ import annotations

from stepwell.dashboards.panels import Board, Panel, PanelQuery, gauge, quantile, rate, share

_RUNNING, _WAITING = gauge("stepwell_requests_running"), gauge("stepwell_requests_waiting")
_PROMPT = rate("stepwell_prompt_tokens_total")
_CACHED = rate("stepwell_prompt_tokens_total", more='source!="computed"')
_COST = rate("stepwell_cost_microusd_total")
_RETURNED = f"({rate('stepwell_revenue_returned_microusd_total')} or vector(0))"
"""Where nothing was given back yet, there is no such series."""
_REVENUE = rate("stepwell_revenue_microusd_total")
_ERRORS = rate("stepwell_requests_total", more='code=~"5.."')
USD_AN_HOUR = "* 3600 / 1e6"


def _latency(title: str, metric: str, about: str) -> Panel:
    queries = tuple(
        PanelQuery(quantile(q, metric), f"p{q[2:]} {{{{service_tier}}}}") for q in ("0.50", "0.95")
    )
    return Panel(title, queries, "s", about)


def _of_tiers(metric: str) -> PanelQuery:
    return PanelQuery(gauge(metric, "kv_tier"), "{{kv_tier}}")


def _an_hour(metric: str, by: str) -> PanelQuery:
    """Of a counter in micro-dollars."""
    return PanelQuery(f"({rate(metric, by)}) {USD_AN_HOUR}", f"{{{{{by}}}}}")


OVERVIEW = Board(
    "stepwell-overview",
    "Stepwell: overview",
    "How many are served, how fast, and from where their KV comes.",
    (
        Panel(
            "Running",
            (PanelQuery(gauge("stepwell_requests_running")),),
            "short",
            "Requests on the device.",
            "stat",
            6,
        ),
        Panel(
            "Waiting",
            (PanelQuery(gauge("stepwell_requests_waiting")),),
            "short",
            "Requests queued.",
            "stat",
            6,
        ),
        Panel(
            "Prompt tokens from cache",
            (PanelQuery(share(_CACHED, _PROMPT)),),
            "percentunit",
            "Share of prompt tokens whose KV was found in a tier.",
            "stat",
            6,
        ),
        Panel(
            "Server errors",
            (PanelQuery(f"({share(_ERRORS, rate('stepwell_requests_total'))}) or vector(0)"),),
            "percentunit",
            "Share of HTTP requests answered 5xx.",
            "stat",
            6,
        ),
        _latency("Time to first token", "stepwell_ttft_seconds", "From submit to the first token."),
        _latency("Time per output token", "stepwell_tpot_seconds", "After the first token."),
        _latency("Whole request", "stepwell_e2e_seconds", "From submit to the end."),
        Panel(
            "Requests",
            (PanelQuery(rate("stepwell_requests_total", "route, code"), "{{route}} {{code}}"),),
            "reqps",
            "HTTP requests a second by route and status.",
            width=12,
        ),
        Panel(
            "Tokens",
            (
                PanelQuery(rate("stepwell_generation_tokens_total"), "generated"),
                PanelQuery(rate("stepwell_prompt_tokens_total", "source"), "prompt, {{source}}"),
            ),
            "short",
            "Tokens a second; prompt tokens by where their KV came from.",
            width=12,
            stacked=True,
        ),
    ),
)

KV_TIERS = Board(
    "stepwell-kv",
    "Stepwell: KV tiers",
    "What lies where, what moves, and what had to be computed again.",
    (
        Panel(
            "Fill",
            (
                PanelQuery(
                    share(gauge("stepwell_kv_bytes", "kv_tier"), gauge("stepwell_kv_limit_bytes", "kv_tier")),
                    "{{kv_tier}}",
                ),
            ),
            "percentunit",
            "KV held, of the bound of its tier. A full device is normal: idle blocks fill it.",
        ),
        Panel(
            "Held",
            (PanelQuery(gauge("stepwell_kv_bytes", "kv_tier"), "{{kv_tier}}"),),
            "bytes",
            "KV bytes.",
            stacked=True,
        ),
        Panel(
            "Blocks",
            (PanelQuery(gauge("stepwell_kv_blocks", "kv_tier"), "{{kv_tier}}"),),
            "short",
            "KV blocks.",
        ),
        Panel(
            "Moved",
            (PanelQuery(rate("stepwell_kv_moved_bytes_total", "from, to"), "{{from}} to {{to}}"),),
            "Bps",
            "KV bytes copied a second.",
        ),
        Panel(
            "Evicted",
            (PanelQuery(rate("stepwell_kv_evictions_total", "from, to"), "{{from}} to {{to}}"),),
            "short",
            "Blocks a second that left a tier.",
        ),
        Panel(
            "Recompute tax",
            (
                PanelQuery(
                    share(
                        rate("stepwell_recomputed_tokens_total"),
                        rate("stepwell_prompt_tokens_total", more='source="computed"'),
                    )
                ),
            ),
            "percentunit",
            "Tokens computed again although they had been before, of all computed prompt tokens.",
        ),
        Panel(
            "Disk wear",
            (
                PanelQuery(rate("stepwell_disk_written_bytes_total"), "written"),
                PanelQuery(rate("stepwell_disk_useful_bytes_total"), "read and used"),
            ),
            "Bps",
            "What is written to disk, and what of it was ever used.",
            width=12,
        ),
        Panel(
            "Failed loads",
            (PanelQuery(rate("stepwell_failed_loads_total")),),
            "short",
            "Stored blocks a second that could not be used. Each is a miss and never a wrong answer.",
            width=12,
        ),
    ),
)

MONEY = Board(
    "stepwell-money",
    "Stepwell: money",
    "Revenue, cost and margin, by service tier and resource. By tenant: `stepwell ledger margin` and /page.",
    (
        Panel(
            "Margin",
            (PanelQuery(f"({_REVENUE} - {_RETURNED} - {_COST}) {USD_AN_HOUR}"),),
            "currencyUSD",
            "Revenue less cost, in USD an hour.",
            "stat",
        ),
        Panel(
            "Revenue",
            (
                PanelQuery(
                    f"({rate('stepwell_revenue_microusd_total', 'service_tier')}) {USD_AN_HOUR}",
                    "{{service_tier}}",
                ),
            ),
            "currencyUSD",
            "Charged, in USD an hour.",
            stacked=True,
        ),
        Panel(
            "Cost",
            (_an_hour("stepwell_cost_microusd_total", "resource"),),
            "currencyUSD",
            "What the machine cost, in USD an hour, by resource.",
            stacked=True,
        ),
        Panel(
            "Cost by service tier",
            (
                PanelQuery(
                    f"({rate('stepwell_cost_microusd_total', 'service_tier')}) {USD_AN_HOUR}",
                    "{{service_tier}}",
                ),
            ),
            "currencyUSD",
            "The same by account; idle and overhead belong to no agent.",
            width=12,
            stacked=True,
        ),
        Panel(
            "Ledger",
            (
                PanelQuery(gauge("stepwell_ledger_backlog_postings"), "postings not written"),
                PanelQuery(gauge("stepwell_ledger_failing"), "failing"),
            ),
            "short",
            "What is not in the books yet.",
            width=12,
        ),
    ),
)

AGENTS = Board(
    "stepwell-agents",
    "Stepwell: agents and preemption",
    "Agents that wait and run, and those that had to make room.",
    (
        Panel(
            "Agents",
            (PanelQuery(gauge("stepwell_agents", "state"), "{{state}}"),),
            "short",
            "Agents by state; idle ones are between two turns.",
            width=12,
            stacked=True,
        ),
        Panel(
            "Preempted",
            (PanelQuery(rate("stepwell_preemptions_total")),),
            "short",
            "Requests a second that were taken off the device before their end.",
            width=12,
        ),
        _latency("Queue", "stepwell_queue_seconds", "From submit to admission."),
        Panel(
            "Waiting by server",
            (PanelQuery(gauge("stepwell_requests_waiting", "instance"), "{{instance}}"),),
            "short",
            "Requests queued.",
        ),
        Panel("Steps", (PanelQuery(rate("stepwell_steps_total")),), "short", "Steps of the engine a second."),
    ),
)

BOARDS = (OVERVIEW, KV_TIERS, MONEY, AGENTS)
