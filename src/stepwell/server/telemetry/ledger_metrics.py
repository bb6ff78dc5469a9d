"""The ledger's metrics: what the machine cost, what was charged, and whether it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stepwell.ledger.port import RunningBooks

REVENUE = (
    ("stepwell_revenue_microusd", "Charged to customers when requests ended"),
    ("stepwell_revenue_returned_microusd", "Of that, given back: an answer turned out to be for a tool"),
)
"""Two counters rather than one that goes down, which Prometheus would take for a restart."""


class LedgerCollector(Collector):
    """Reads what the keeper has counted once per scrape; the books themselves are not touched."""

    def __init__(self, ledger: RunningBooks) -> None:
        self._ledger = ledger

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        ledger = self._ledger
        yield self._cost()
        sums = ledger.sums.charged_microusd, ledger.sums.returned_microusd
        for (name, text), by_tier in zip(REVENUE, sums, strict=True):
            yield _by_service_tier(name, text, by_tier)
        yield GaugeMetricFamily(
            "stepwell_ledger_backlog_postings",
            "Postings that are not in the books yet",
            value=ledger.backlog_postings,
        )
        yield GaugeMetricFamily(
            "stepwell_ledger_failing", "1 while the ledger cannot be written", value=bool(ledger.failing)
        )

    def _cost(self) -> CounterMetricFamily:
        """At the rates of the cost book; what bears no price of its own is left out."""
        family = CounterMetricFamily(
            "stepwell_cost_microusd",
            "What the machine cost, by resource and by service tier",
            labels=["resource", "service_tier"],
        )
        rates = self._ledger.rates.microusd
        for (resource, service_tier), amount in sorted(self._ledger.sums.used.copy().items()):
            if rates[resource]:
                family.add_metric([resource.name.lower(), service_tier], float(rates[resource] * amount))
        return family


def _by_service_tier(name: str, text: str, sums: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["service_tier"])
    for service_tier, microusd in sorted(dict(sums).items()):
        family.add_metric([service_tier], microusd)
    return family
