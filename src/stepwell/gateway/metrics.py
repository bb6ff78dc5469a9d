"""``stepwell_router_*`` in Prometheus format. Labels name nodes and reasons, never agents or sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stepwell.fleet.state import Fleet
from stepwell.fleet.types import NodeState, RoutingChoice

DECISION_SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01)


class GatewayMetrics:
    """One front end's metrics, in a registry of their own."""

    def __init__(self, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_FleetCollector(fleet))
        self.requests = self._counter(
            "requests", "HTTP requests by kind of route and status", "route", "code"
        )
        self._decisions = self._counter(
            "decisions", "Turns by node and by why it was chosen", "node", "reason"
        )
        self._retries = self._counter("retries", "Tries that another node took over, by cause", "cause")
        self._held = self._counter("held_tokens", "Prompt tokens that the chosen node should have")
        self._left = self._counter(
            "left_tokens", "Prompt tokens that another node had and the chosen one computes again"
        )
        self.broken = self._counter("broken_streams", "Streams that ended with a retryable error")
        self.restarts = self._counter("node_restarts", "Processes of nodes that were started again", "node")
        self._seconds = Histogram(
            "stepwell_router_decision_seconds",
            "Time to choose a node",
            registry=self._registry,
            buckets=DECISION_SECONDS,
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def decided(self, choice: RoutingChoice, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._decisions.labels(choice.node, choice.reason).inc()
        self._held.inc(choice.held_tokens)
        self._left.inc(choice.best_held_tokens - choice.held_tokens)

    def retried(self, cause: str) -> None:
        self._retries.labels(cause).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"stepwell_router_{name}", text, labels, registry=self._registry)


class _FleetCollector(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "stepwell_router_node_state", "1 for the state of a node", labels=["node", "state"]
        )
        flying = GaugeMetricFamily("stepwell_router_in_flight", "Turns on a node from here", labels=["node"])
        queued = GaugeMetricFamily(
            "stepwell_router_node_turns", "Turns on a node, by its own account", labels=["node"]
        )
        for name, node in self._fleet.nodes.items():
            for state in NodeState:
                states.add_metric([name, state.value], float(node.state is state))
            flying.add_metric([name], node.in_flight)
            queued.add_metric([name], node.reported_turns)
        yield from (states, flying, queued)
        yield GaugeMetricFamily(
            "stepwell_router_agents", "Agents whose places are known", value=len(self._fleet.places)
        )
