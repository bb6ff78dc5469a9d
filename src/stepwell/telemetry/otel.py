"""OpenTelemetry (the extra ``otel``): where spans and metrics go, by the standard's own variables.

``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` name exporters (``otlp``, ``console``, ``none``),
``OTEL_EXPORTER_OTLP_ENDPOINT`` where OTLP goes, and so on:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, Literal

from stepwell.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

Signal = Literal["traces", "metrics"]

EXPORTERS = {"http/protobuf": "otlp_proto_http", "http/json": "otlp_json_http", "grpc": "otlp_proto_grpc"}
FLUSH_S = 3.0
"""For the last of it to be sent: no limit of its own holds while an exporter tries again."""
PROPAGATED = ("traceparent", "tracestate")


def wanted(asked: bool, signal: Signal = "traces") -> bool:
    """By a flag or the environment; ``OTEL_SDK_DISABLED`` and the exporter ``none`` win over the latter."""
    if asked:
        return True
    exporter = f"OTEL_{signal.upper()}_EXPORTER"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    none = os.environ.get(exporter, "").strip() == "none"
    return not off and not none and any(os.environ.get(name) for name in (exporter, *endpoints))


def require_otel() -> None:
    """Raises ``MissingExtra``."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise MissingExtra("OpenTelemetry", "otel")


def tracer_provider(out: IO[str]) -> TracerProvider:
    """Spans to the exporters of ``OTEL_TRACES_EXPORTER``, else OTLP. Raises ``MissingExtra``, ``BadInput``.

    ``out`` is where ``console`` writes.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    except ImportError as error:
        raise MissingExtra("OpenTelemetry", "otel") from error
    for exporter in _exporters("traces", out):
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def meter_provider(out: IO[str]) -> MeterProvider:
    """Metrics to the exporters of ``OTEL_METRICS_EXPORTER``, else OTLP, every ``OTEL_METRIC_EXPORT_INTERVAL``
    milliseconds (60,000). Raises ``MissingExtra``, ``BadInput``."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        resource = _resource()
    except ImportError as error:
        raise MissingExtra("OpenTelemetry", "otel") from error
    readers = [PeriodicExportingMetricReader(exporter) for exporter in _exporters("metrics", out)]
    return MeterProvider(readers, resource=resource, shutdown_on_exit=False)


def shut_down(*providers: TracerProvider | MeterProvider | None) -> None:
    """Send what is left, for ``FLUSH_S`` at most."""
    there = [provider for provider in providers if provider is not None]
    ending = [
        threading.Thread(target=provider.shutdown, daemon=True, name="stepwell-otel") for provider in there
    ]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join(FLUSH_S)


def context_of(carrier: Mapping[str, str]) -> Context | None:
    """The span of the caller, where ``traceparent`` says one (lower-case names)."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    said = {name: carrier[name] for name in PROPAGATED if name in carrier}
    return TraceContextTextMapPropagator().extract(said) if said else None


def _resource() -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in attributes
    return Resource.create({} if named else {SERVICE_NAME: "stepwell"})


def _exporters(signal: Signal, out: IO[str]) -> Iterator[Any]:
    names = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    for name in names.split(","):
        if name.strip() != "none":
            yield _exporter(signal, name.strip(), out)


def _exporter(signal: Signal, name: str, out: IO[str]) -> Any:
    """By the name that its package registers."""
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=out) if signal == "traces" else ConsoleMetricExporter(out=out)
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = EXPORTERS.get(protocol, protocol)
    found = {one.name: one for one in entry_points(group=f"opentelemetry_{signal}_exporter")}
    if name not in found and name == EXPORTERS["http/protobuf"]:
        raise MissingExtra("OpenTelemetry over OTLP", "otel")
    if name not in found:
        raise BadInput(
            f"there is no OpenTelemetry exporter {name!r}: there is {', '.join(['otlp', *sorted(found)])}"
        )
    return found[name].load()()


class _Complaints(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(" ".join(record.getMessage().split()))


@contextmanager
def complaints_to(tell: Callable[[str], None]) -> Iterator[None]:
    """What the package says of a collector that is not there, each time as one line, and to no other log."""
    logger, handler = logging.getLogger("opentelemetry"), _Complaints(tell)
    spread = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = spread
