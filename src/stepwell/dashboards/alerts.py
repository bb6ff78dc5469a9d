"""Alerts for Prometheus, each with a line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOW = "5m"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule."""

    name: str
    expr: str
    lasts: str
    severity: str
    summary: str
    runbook: str

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": self.runbook},
        }


def _grows(metric: str, more: str = "", by: str = "instance") -> str:
    return f"sum by ({by}) (rate({metric}{{{more}}}[{WINDOW}]))"


def _p95(metric: str) -> str:
    return f"histogram_quantile(0.95, {_grows(metric + '_bucket', by='le, instance, service_tier')})"


_FAILED = _grows("stepwell_requests_total", 'code=~"5.."')
_COMPUTED = _grows("stepwell_prompt_tokens_total", 'source="computed"')

ALERTS = (
    Alert(
        "StepwellDown",
        'up{job="stepwell"} == 0',
        "1m",
        "page",
        "{{ $labels.instance }} does not answer.",
        "Look at the process and its log; what is on disk is safe, so start it again.",
    ),
    Alert(
        "StepwellErrors",
        f"{_FAILED} / {_grows('stepwell_requests_total')} > 0.02",
        "5m",
        "page",
        "More than 2 % of requests to {{ $labels.instance }} are answered 5xx.",
        "The log names each by its x-request-id; 503 alone: the server goes down, or cannot keep books.",
    ),
    Alert(
        "StepwellQueueLong",
        "sum by (instance) (stepwell_requests_waiting) > "
        "4 * clamp_min(sum by (instance) (stepwell_requests_running), 1)",
        "10m",
        "ticket",
        "{{ $labels.instance }} has four times more requests waiting than running.",
        "The agents board says which service tier waits; bound its keys, or add a server.",
    ),
    Alert(
        "StepwellSlowFirstToken",
        f"{_p95('stepwell_ttft_seconds')} > 30",
        "10m",
        "ticket",
        "The first token takes {{ $value | humanizeDuration }} (p95, {{ $labels.service_tier }}).",
        "If the queue is long see StepwellQueueLong; if the recompute tax is high raise host_kv or disk_kv.",
    ),
    Alert(
        "StepwellRecomputing",
        f"{_grows('stepwell_recomputed_tokens_total')} / clamp_min({_COMPUTED}, 1) > 0.3",
        "15m",
        "ticket",
        "{{ $labels.instance }} computes 30 % of its prompt tokens again.",
        "Too little room below the device: raise host_kv or disk_kv; `stepwell replay` compares.",
    ),
    Alert(
        "StepwellPreempting",
        f"{_grows('stepwell_preemptions_total')} > 1",
        "10m",
        "ticket",
        "{{ $labels.instance }} preempts more than one request a second.",
        "More runs at once than fits: raise device_kv_tokens or lower max_sequences.",
    ),
    Alert(
        "StepwellFailedLoads",
        f"{_grows('stepwell_failed_loads_total')} > 0",
        "10m",
        "ticket",
        "{{ $labels.instance }} finds stored blocks that it cannot use.",
        "Run `stepwell disk verify`; answers stay right, a disk that damages blocks should go.",
    ),
    Alert(
        "StepwellLedgerFailing",
        "max by (instance) (stepwell_ledger_failing) > 0",
        "2m",
        "page",
        "The ledger of {{ $labels.instance }} cannot be written.",
        "Look at the disk or the database of [ledger] path; charges wait in memory until it works again.",
    ),
    Alert(
        "StepwellLedgerBehind",
        "max by (instance) (stepwell_ledger_backlog_postings) > 50000",
        "10m",
        "ticket",
        "{{ $labels.instance }} has {{ $value }} postings that are not written.",
        "The ledger's disk is slower than the server: `stepwell bench postings` says what it can do.",
    ),
)


def rules() -> dict[str, Any]:
    """A file of rules."""
    return {"groups": [{"name": "stepwell", "rules": [alert.rule() for alert in ALERTS]}]}
