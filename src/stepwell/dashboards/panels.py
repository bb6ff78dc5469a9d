"""Panels as data, and the PromQL that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FILTER = 'job=~"$job", instance=~"$instance"'
"""Every query looks at the servers that are chosen above the board."""
QUICK = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}
"""What the variables stand for outside Grafana."""
METRIC = re.compile(r"\bstepwell_[a-z0-9_]+")
_LABELS = re.compile(r"(?:\bby|\bwithout)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"(stepwell_[a-z0-9_]+)\{([^}]*)\}")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
TARGET_LABELS = frozenset({"job", "instance"})
"""Prometheus puts these on what it scrapes."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One line of a panel. ``legend`` may name labels: ``{{kv_tier}}``."""

    expr: str
    legend: str = ""

    def plain(self, values: Mapping[str, str] = QUICK) -> str:
        """Without Grafana's variables."""
        expr = self.expr
        for name, value in values.items():
            expr = expr.replace(name, value)
        return expr


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. ``may_be_empty``: a server where all is well shows nothing in it."""

    title: str
    queries: tuple[PanelQuery, ...]
    unit: str
    """As Grafana calls it: ``s``, ``bytes``, ``percentunit``."""
    about: str
    """What it means; the metrics are named after it."""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    may_be_empty: bool = False

    @property
    def description(self) -> str:
        names = sorted({name for query in self.queries for name in METRIC.findall(query.expr)})
        return f"{self.about} From {', '.join(names)}."


@dataclass(frozen=True, slots=True)
class Board:
    """One page of panels. ``uid`` is what links to it use."""

    uid: str
    title: str
    about: str
    panels: tuple[Panel, ...]


def rate(metric: str, by: str = "", more: str = "") -> str:
    """A counter's growth a second, summed over servers."""
    grouped = f"sum by ({by})" if by else "sum"
    chosen = f"{FILTER}, {more}" if more else FILTER
    return f"{grouped} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def gauge(metric: str, by: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} ({metric}{{{FILTER}}})"


def quantile(share: str, metric: str) -> str:
    """Of a histogram, by service tier."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le, service_tier')})"


def share(part: str, whole: str) -> str:
    """0 where nothing happened, instead of no number."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def used(expr: str) -> set[tuple[str, str]]:
    """Metrics of a query with each label that it asks them for; the label is empty for the metric itself."""
    found = {(metric, "") for metric in METRIC.findall(expr)}
    for metric, matchers in _MATCHERS.findall(expr):
        found |= {(metric, label) for label in _LABEL.findall(matchers) if label not in TARGET_LABELS}
    metrics = METRIC.findall(expr)
    for group in _LABELS.findall(expr):
        labels = {label.strip() for label in group.split(",") if label.strip()} - TARGET_LABELS
        if len(set(metrics)) == 1:
            found |= {(metrics[0], label) for label in labels}
    return found


def missing(expr: str, exposed: Mapping[str, set[str]]) -> list[str]:
    """What a query asks for and a server does not expose. ``exposed``: labels by metric."""
    wrong = []
    for metric, label in sorted(used(expr)):
        if metric not in exposed:
            wrong.append(metric)
        elif label and label not in exposed[metric]:
            wrong.append(f"{metric}{{{label}}}")
    return sorted(set(wrong))
