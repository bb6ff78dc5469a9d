"""``/metrics`` in Prometheus format.

Counters and fills come from ``LoopPort.snapshot`` when ``/metrics`` is read; latencies are observed as
requests end. No label ever names an agent, a session or a request: their number has no bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as PromCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stepwell.basics.per_tier import PerTier
from stepwell.embed.process import EmbeddingProcess
from stepwell.ledger.port import RunningBooks
from stepwell.loop.port import LoopPort
from stepwell.loop.requests import Admitted, Finished, Generation, Output
from stepwell.loop.snapshot import Snapshot
from stepwell.server.telemetry.ledger_metrics import LedgerCollector

AGENT_STATES = ("waiting", "loading", "running", "preempted", "idle")
PROMPT_SOURCES = ("computed", *PerTier._fields)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One server's metrics in a registry of their own, so that two servers fit in one process."""

    def __init__(
        self,
        driver: LoopPort,
        service_tiers: Sequence[str],
        ledger: RunningBooks | None = None,
        embeddings: Sequence[EmbeddingProcess] = (),
    ) -> None:
        self._registry = CollectorRegistry()
        self._service_tiers = frozenset(service_tiers)
        self._registry.register(_SnapshotCollector(driver))
        if embeddings:
            self._registry.register(_EmbeddingsCollector(embeddings))
        if ledger is not None:
            self._registry.register(LedgerCollector(ledger))
        self._queue = self._histogram("queue", "Time from submit to admission", SECONDS)
        self._ttft = self._histogram("ttft", "Time from submit to the first token", SECONDS)
        self._tpot = self._histogram("tpot", "Time per output token after the first", TOKEN_SECONDS)
        self._e2e = self._histogram("e2e", "Time from submit to the end", SECONDS)
        self._requests = PromCounter(
            "stepwell_requests",
            "HTTP requests by route and status; 499: the client left first",
            ["route", "code"],
            registry=self._registry,
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def request_ended(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def observe(self, generation: Generation, output: Output) -> None:
        """See an output pass by. Cancelled requests count nowhere: their times say nothing."""
        known = generation.caller.service_tier in self._service_tiers
        tier = generation.caller.service_tier if known else OTHER
        if isinstance(output, Admitted):
            self._queue.labels(tier).observe(output.queue_us / 1e6)
        if isinstance(output, Finished) and output.reason != "cancelled":
            self._finished(tier, output)

    def _finished(self, tier: str, output: Finished) -> None:
        self._ttft.labels(tier).observe(output.ttft_us / 1e6)
        self._e2e.labels(tier).observe(output.e2e_us / 1e6)
        if output.generated_tokens > 1:
            spent_us = output.e2e_us - output.ttft_us
            self._tpot.labels(tier).observe(spent_us / (output.generated_tokens - 1) / 1e6)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            f"stepwell_{name}_seconds", text, ["service_tier"], registry=self._registry, buckets=buckets
        )


class _SnapshotCollector(Collector):
    """Reads the driver once per scrape, so that all figures of a scrape belong together."""

    def __init__(self, driver: LoopPort) -> None:
        self._driver = driver

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._driver.snapshot()
        yield from _fills(snapshot)
        yield from _loads(snapshot)
        yield from _tokens(snapshot)
        yield from _moves(snapshot)
        if snapshot.models:
            yield from _models(snapshot)


class _EmbeddingsCollector(Collector):
    """Models of vectors and rankings; the operator has named them, so their number is bounded."""

    def __init__(self, models: Sequence[EmbeddingProcess]) -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "stepwell_embedding_loaded", "1 while the model's weights are in memory", labels=["model"]
        )
        loads = CounterMetricFamily(
            "stepwell_embedding_loads", "How often its process was started", labels=["model"]
        )
        spent = CounterMetricFamily("stepwell_embedding_seconds", "Time it has computed", labels=["model"])
        for model in self._models:
            loaded.add_metric([model.name], model.loaded)
            loads.add_metric([model.name], model.starts)
            spent.add_metric([model.name], model.spent_us / 1e6)
        yield from (loaded, loads, spent)


def _models(snapshot: Snapshot) -> Iterator[Metric]:
    """Of a server of several: the operator has named them, so their number is bounded."""
    loaded = GaugeMetricFamily(
        "stepwell_model_loaded", "1 while a model's weights are in memory", labels=["model"]
    )
    loads = CounterMetricFamily("stepwell_model_loads", "How often weights were read", labels=["model"])
    running = GaugeMetricFamily("stepwell_model_running", "Requests on the device", labels=["model"])
    waiting = GaugeMetricFamily("stepwell_model_waiting", "Requests queued", labels=["model"])
    generated = CounterMetricFamily("stepwell_model_generation_tokens", "Tokens generated", labels=["model"])
    prompt = CounterMetricFamily(
        "stepwell_model_prompt_tokens",
        "Prompt tokens by where their KV came from",
        labels=["model", "source"],
    )
    engine = CounterMetricFamily("stepwell_model_engine_seconds", "Time in engine steps", labels=["model"])
    limit = GaugeMetricFamily(
        "stepwell_model_kv_limit_bytes", "A model's part of a KV tier now", labels=["model", "kv_tier"]
    )
    for name, view in snapshot.models.items():
        loaded.add_metric([name], view.state in ("loaded", "leaving"))
        loads.add_metric([name], view.loads)
        running.add_metric([name], view.running)
        waiting.add_metric([name], view.waiting)
        generated.add_metric([name], view.counters.get("generation_tokens", 0))
        engine.add_metric([name], view.counters.get("engine_us", 0) / 1e6)
        limit.add_metric([name, "host"], view.host_bytes)
        limit.add_metric([name, "disk"], view.disk_bytes)
        for source in PROMPT_SOURCES:
            prompt.add_metric([name, source], view.counters.get(f"prompt_tokens_{source}", 0))
    yield from (loaded, loads, running, waiting, generated, prompt, engine, limit)


def _fills(snapshot: Snapshot) -> Iterator[Metric]:
    used = GaugeMetricFamily("stepwell_kv_bytes", "KV bytes held", labels=["kv_tier"])
    limit = GaugeMetricFamily("stepwell_kv_limit_bytes", "Bound of a KV tier", labels=["kv_tier"])
    blocks = GaugeMetricFamily("stepwell_kv_blocks", "KV blocks held", labels=["kv_tier"])
    for kv_tier, usage in snapshot.usage.items():
        used.add_metric([kv_tier.value], usage.used_bytes)
        limit.add_metric([kv_tier.value], usage.limit_bytes)
        blocks.add_metric([kv_tier.value], usage.blocks)
    yield from (used, limit, blocks)


def _loads(snapshot: Snapshot) -> Iterator[Metric]:
    agents = GaugeMetricFamily("stepwell_agents", "Agents by state", labels=["state"])
    counted = Counter(view.state for view in snapshot.agents)
    for state in AGENT_STATES:
        agents.add_metric([state], counted[state])
    yield agents
    yield GaugeMetricFamily("stepwell_requests_running", "Requests on the device", value=snapshot.running)
    yield GaugeMetricFamily("stepwell_requests_waiting", "Requests queued", value=snapshot.waiting)


def _tokens(snapshot: Snapshot) -> Iterator[Metric]:
    counters = snapshot.counters
    prompt = CounterMetricFamily(
        "stepwell_prompt_tokens", "Prompt tokens by where their KV came from", labels=["source"]
    )
    for source in PROMPT_SOURCES:
        prompt.add_metric([source], counters.get(f"prompt_tokens_{source}", 0))
    yield prompt
    for name, text in _PLAIN:
        yield CounterMetricFamily(f"stepwell_{name}", text, value=counters.get(name, 0))


_PLAIN = (
    ("generation_tokens", "Tokens generated"),
    ("drafted_tokens", "Guessed tokens that were checked"),
    ("accepted_tokens", "Guessed tokens that were right"),
    ("recomputed_tokens", "Tokens computed again although they had been before"),
    ("preemptions", "Requests taken off the device before their end"),
    ("steps", "Engine steps"),
    ("disk_written_bytes", "KV bytes written to disk: over the useful ones, what a byte's use costs in wear"),
    ("disk_useful_bytes", "KV bytes read from disk and then used by a turn"),
    ("lost_blocks_wanted", "Blocks lost from every KV tier though they might have been used again"),
    ("lost_blocks_needless", "Of these: lost while something else could have gone; should be 0"),
    ("failed_loads", "Stored blocks that could not be used"),
)


def _moves(snapshot: Snapshot) -> Iterator[Metric]:
    yield _routes(snapshot, "evictions_", "stepwell_kv_evictions", "Blocks that left a KV tier")
    yield _routes(snapshot, "moved_bytes_", "stepwell_kv_moved_bytes", "KV bytes copied between KV tiers")


def _routes(snapshot: Snapshot, prefix: str, name: str, text: str) -> CounterMetricFamily:
    """Counters such as ``evictions_host_disk`` as one metric with labels ``from`` and ``to``."""
    family = CounterMetricFamily(name, text, labels=["from", "to"])
    for counter, value in sorted(snapshot.counters.items()):
        if counter.startswith(prefix):
            source, _, target = counter.removeprefix(prefix).partition("_")
            family.add_metric([source, target], value)
    return family
