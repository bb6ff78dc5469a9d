"""``stepwell trace --otlp``: a trace file as spans, sent to an OTLP collector or to Langfuse.

The spans are those of ``stepwell run --otel`` (``agents/spans.py``) with the times that the file has, and
with what was said where the file has it. Langfuse takes OTLP over HTTP at ``/api/public/otel`` with its two
keys as Basic authentication (https://langfuse.com/integrations/native/opentelemetry). What it reads of ours,
by its source of November 2026: ``gen_ai.operation.name`` makes a generation of ``chat``, an agent of
``invoke_agent`` and a tool of ``execute_tool``; ``session.id``; ``langfuse.trace.name``; ``input.value`` and
``output.value``; model, tokens and cost of ``gen_ai.*``. Langfuse itself was not run.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepwell.agents.tracing import AgentTrace, Trace, TraceStep
from stepwell.errors import BadInput, MissingExtra, StepwellError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

LANGFUSE = "/api/public/otel"
TRACES = "/v1/traces"
INGESTION = "x-langfuse-ingestion-version"
"""With 4 Langfuse shows spans of other exporters than its own at once, and not minutes later."""
KEYS = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
SPANS_PER_REQUEST = 256
TIMEOUT_S = 20.0


def send(found: Trace, url: str, headers: Mapping[str, str]) -> int:
    """All spans, in requests of a few hundred; how many there were. Raises ``StepwellError``."""
    endpoint = _endpoint(url)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError as error:
        raise MissingExtra("OpenTelemetry over OTLP", "otel") from error
    spans = spans_of(found)
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=_headers(endpoint, headers), timeout=TIMEOUT_S)
    try:
        for start in range(0, len(spans), SPANS_PER_REQUEST):
            result = exporter.export(spans[start : start + SPANS_PER_REQUEST])
            if result is not SpanExportResult.SUCCESS:
                raise StepwellError(
                    f"{endpoint} did not take spans {start + 1} and on: is it an OTLP endpoint over HTTP, "
                    "and are its keys right?"
                )
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    return len(spans)


def _endpoint(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"--otlp {url} is no URL such as http://127.0.0.1:4318")
    return url if url.endswith(TRACES) else url.rstrip("/") + TRACES


def _headers(endpoint: str, given: Mapping[str, str]) -> dict[str, str]:
    """Those that were given; to Langfuse its keys, where the environment has them."""
    headers = dict(given)
    if LANGFUSE in endpoint and not any(name.lower() == "authorization" for name in headers):
        missing = [name for name in KEYS if not os.environ.get(name)]
        if missing:
            raise BadInput(f"Langfuse wants its keys: set {' and '.join(missing)}")
        pair = ":".join(os.environ[name] for name in KEYS)
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if LANGFUSE in endpoint and not any(name.lower() == INGESTION for name in headers):
        headers[INGESTION] = "4"
    return headers


def spans_of(found: Trace) -> Sequence[ReadableSpan]:
    """A span for the session, under it one for each agent, under that one for each of its steps."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "stepwell"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    _Telling(found, provider.get_tracer("stepwell")).all()
    return kept.get_finished_spans()


class _Telling:
    def __init__(self, found: Trace, tracer: Tracer) -> None:
        self.found, self.tracer = found, tracer
        self.began_ns = _began_ns(found)
        self.session = str(found.head.get("session", ""))

    def all(self) -> None:
        for agent in self.found.children(None):
            self._agent(agent, None)

    def _agent(self, agent: AgentTrace, above: Context | None) -> None:
        from opentelemetry.trace import set_span_in_context

        start_us, end_us = self._stretch(agent)
        asked = "\n".join(_text(task) for task in agent.tasks)
        attributes = self._common("invoke_agent", agent) | _said(asked, _text(agent.text))
        span = self.tracer.start_span(
            f"invoke_agent {agent.role}", above, attributes=attributes, start_time=self._at(start_us)
        )
        inside = set_span_in_context(span)
        for step in agent.steps:
            self._step(agent, step, inside)
        for at_us, note in agent.notes:
            span.add_event(note, timestamp=self._at(at_us))
        for child in self.found.children(agent.name):
            self._agent(child, inside)
        _end(span, "" if agent.outcome == "completed" else agent.outcome or "stopped", self._at(end_us))

    def _stretch(self, agent: AgentTrace) -> tuple[int, int]:
        """From the first to the last of it and of the agents below; the entry agent lasts as long as all."""
        if agent.parent is None:
            return 0, self.found.end_us
        moments = [at for step in agent.steps for at in (step.start_us, step.end_us or self.found.end_us)]
        moments += [at for child in self.found.children(agent.name) for at in self._stretch(child)]
        return (min(moments), max(moments)) if moments else (self.found.end_us, self.found.end_us)

    def _step(self, agent: AgentTrace, step: TraceStep, inside: Context) -> None:
        from opentelemetry.trace import SpanKind

        turn = step.kind == "turn"
        name = str(step.details.get("model", "")) if turn else step.name
        operation = "chat" if turn else "execute_tool"
        attributes = self._common(operation, agent) | dict(_about(step, name))
        kind = SpanKind.CLIENT if turn else SpanKind.INTERNAL
        span = self.tracer.start_span(
            f"{operation} {name}".strip(), inside, kind, attributes, start_time=self._at(step.start_us)
        )
        failed = "tool_error" if step.failed else "" if step.end_us is not None else "stopped"
        _end(span, failed, self._at(self.found.end_us if step.end_us is None else step.end_us))

    def _common(self, operation: str, agent: AgentTrace) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "stepwell",
            "gen_ai.conversation.id": self.session,
            "session.id": self.session,
            "langfuse.trace.name": str(self.found.head.get("crew", "stepwell")),
            "gen_ai.agent.name": agent.role,
            "gen_ai.agent.id": agent.name,
        }

    def _at(self, at_us: int) -> int:
        return self.began_ns + at_us * 1000


def _about(step: TraceStep, name: str) -> Iterator[tuple[str, Any]]:
    details = step.details
    if step.kind != "turn":
        yield "gen_ai.tool.name", name
        yield from _said(_text(details.get("arguments", "")), _text(details.get("result", ""))).items()
        return
    yield "gen_ai.request.model", name
    if "response" in details:
        yield "gen_ai.response.id", str(details["response"])
    yield from _said(_text(details.get("messages") or ""), _text(details.get("answer") or "")).items()
    if (usage := step.usage) is not None:
        yield "gen_ai.usage.input_tokens", usage.prompt_tokens
        yield "gen_ai.usage.output_tokens", usage.completion_tokens
        yield "gen_ai.usage.cache_read.input_tokens", usage.cached_tokens
        if usage.cost_microusd is not None:
            yield "stepwell.usage.cost_microusd", usage.cost_microusd
            yield "gen_ai.usage.cost", usage.cost_microusd / 1e6


def _said(went_in: str, came_out: str) -> dict[str, str]:
    both = {"input.value": went_in, "output.value": came_out}
    return {name: text for name, text in both.items() if text}


def _text(value: Any) -> str:
    """What a trace without texts has is left out."""
    if isinstance(value, dict) and set(value) == {"chars"}:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _end(span: Any, error: str, at_ns: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_time=at_ns)


def _began_ns(found: Trace) -> int:
    try:
        began = datetime.fromisoformat(str(found.head["began"]))
    except (KeyError, ValueError) as error:
        raise BadInput("the trace does not say when it began: its first line is missing") from error
    return int(began.replace(tzinfo=began.tzinfo or UTC).timestamp() * 1e6) * 1000
