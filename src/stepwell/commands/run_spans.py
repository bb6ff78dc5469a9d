"""OpenTelemetry for ``stepwell run``: where its spans go, by the standard's own environment variables."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stepwell.agents.spans import Spans
from stepwell.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from stepwell.agents.session import Session

EXPORTERS = {"http/protobuf": "otlp_proto_http", "http/json": "otlp_json_http", "grpc": "otlp_proto_grpc"}
ASKING = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_S = 3.0
"""How long the last spans may take to be sent; the answer waits for it."""
MAX_SAID_CHARS = 240
Listening = Callable[["Session"], Spans]


@contextmanager
def spans_of(asked: bool, console: Console) -> Iterator[Listening | None]:
    """What makes a listener for a session, or None where nobody asked for spans.

    Asked for by ``--otel``, or by a variable that names an exporter or where it sends to. Spans are sent
    while the session runs, and the rest when the block is left. Raises ``MissingExtra`` for ``--otel``
    without the package; a variable alone is then a line, because it may be meant for other programs.
    """
    if not wanted(asked):
        yield None
        return
    try:
        provider = make_provider(console)
    except MissingExtra as error:
        if asked:
            raise
        console.print(f"No spans: {error}", markup=False, soft_wrap=True)
        yield None
        return
    made: list[Spans] = []

    def listen(session: Session) -> Spans:
        made.append(Spans(provider.get_tracer("stepwell"), session, _context_above()))
        return made[-1]

    with _failures(console):
        try:
            yield listen
        finally:
            for spans in made:
                spans.close()
            # Its own time limits do not hold while an exporter tries again.
            ending = threading.Thread(target=provider.shutdown, daemon=True, name="stepwell-spans")
            ending.start()
            ending.join(FLUSH_S)


def wanted(asked: bool) -> bool:
    """By the flag or the environment; ``OTEL_SDK_DISABLED`` and the exporter ``none`` win over the latter."""
    if asked:
        return True
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    none = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none"
    return not off and not none and any(os.environ.get(name) for name in ASKING)


def make_provider(console: Console) -> TracerProvider:
    """Spans to the exporters of ``OTEL_TRACES_EXPORTER``, else OTLP. ``MissingExtra``, ``BadInput``."""
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra("OpenTelemetry", "otel") from error
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {SERVICE_NAME: "stepwell"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip(), console)))
    return provider


def _exporter(name: str, console: Console) -> Any:
    """By the name that its package registers; ``console`` is standard error: answers have the other."""
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=console.file)
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = EXPORTERS.get(protocol, protocol)
    found = {one.name: one for one in entry_points(group="opentelemetry_traces_exporter")}
    if name not in found and name == EXPORTERS["http/protobuf"]:
        raise MissingExtra("OpenTelemetry over OTLP", "otel")
    if name not in found:
        raise BadInput(
            f"there is no OpenTelemetry exporter {name!r}: there is {', '.join(['otlp', *sorted(found)])}"
        )
    return found[name].load()()


def _context_above() -> Any:
    """The span of the process that started us, where ``TRACEPARENT`` says one."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        key: os.environ[key.upper()] for key in ("traceparent", "tracestate") if key.upper() in os.environ
    }
    return TraceContextTextMapPropagator().extract(carrier) if carrier else None


@contextmanager
def _failures(console: Console) -> Iterator[None]:
    """What the package would write into the live view is one line at the end."""
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(" ".join(record.getMessage().split()))

    logger, handler = logging.getLogger("opentelemetry"), Keep(logging.WARNING)
    spread = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = spread
        if kept:
            said = kept[0][:MAX_SAID_CHARS]
            console.print(
                f"OpenTelemetry: spans may be missing. It said: {said}", markup=False, soft_wrap=True
            )
