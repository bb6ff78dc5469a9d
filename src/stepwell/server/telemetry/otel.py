"""OpenTelemetry of the server (the extra ``otel``): a span and four metrics of each request that generates.

Made when the request has ended, from what the access log knows, so that nothing is added while it runs. Names
are those of the semantic conventions for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/),
as in ``agents/spans.py``. What was said is never exported: counts, times and names only. No metric carries
the name of an agent, a session or a request: their number has no bound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from starlette.types import Scope

from stepwell.errors import MissingExtra
from stepwell.loop.rarely import Rarely
from stepwell.server.backends.bridge import Generations
from stepwell.server.errors import clip
from stepwell.server.telemetry.access import Access
from stepwell.telemetry.otel import (
    complaints_to,
    context_of,
    meter_provider,
    shut_down,
    tracer_provider,
    wanted,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("stepwell.server")

PROVIDER = "stepwell"
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}
"""By the pattern of the route. Gemini's has the model in its path."""
GEMINI, GEMINI_OPERATION = "/models/{model:path}", "generate_content"
OTHER_OPERATION = "prewarm"
DURATION_S = tuple(0.01 * 2**step for step in range(14))
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
OUTPUT_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**step for step in range(14))
"""The buckets that the conventions ask for."""
OWN = (
    *("request", "tenant", "service_tier", "generations", "recomputed_tokens", "preemptions"),
    *("cached_device_tokens", "cached_host_tokens", "cached_disk_tokens"),
    *("queued_ms", "loaded_ms", "computed_ms", "decoded_ms", "passed_over_ms"),
)
"""Fields of the access log that are attributes under our own prefix."""
Attributes = dict[str, Any]


class Telemetry:
    """Told of every request that has ended. Lives in the event loop; exporters have threads of their own."""

    def __init__(self, tracer: Tracer | None, meter: Meter | None) -> None:
        self._tracer = tracer
        self._meters = None if meter is None else _Meters(meter)
        self._complain = Rarely(log)

    def ended(self, scope: Scope, access: Access, fields: Mapping[str, Any], model: str) -> None:
        """``fields``: those of its line in the access log; ``model``: the name of the model that is served.
        Raises nothing: a screen elsewhere is no reason to fail a request."""
        operation = operation_of(fields, access)
        if operation is None:
            return
        try:
            common = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER}
            if access.batch is not None:
                common["gen_ai.response.model"] = model
            if error := _error(fields):
                common["error.type"] = error
            if self._tracer is not None:
                self._span(self._tracer, scope, access, fields, common)
            if self._meters is not None:
                self._meters.ended(access, fields, common)
        except Exception as error:  # noqa: BLE001
            self._complain.warning(time.monotonic_ns() // 1_000, "a request has no span", error)

    def _span(
        self, tracer: Tracer, scope: Scope, access: Access, fields: Mapping[str, Any], common: Attributes
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        end_ns, now_s = time.time_ns(), time.perf_counter()

        def world_ns(at_s: float) -> int:
            return end_ns - round((now_s - at_s) * 1e9)

        asked = clip(access.model)
        span = tracer.start_span(
            f"{common['gen_ai.operation.name']} {asked}".strip(),
            context_of(headers),
            kind=SpanKind.SERVER,
            attributes=common | _attributes(access, fields, asked),
            start_time=world_ns(access.started_s),
        )
        if access.batch is not None:
            _phases(span, access.batch, world_ns(access.submitted_s))
        if fields["status"] >= 500 or (access.batch is not None and "error.type" in common):
            span.set_status(Status(StatusCode.ERROR, common["error.type"]))
        span.end(end_ns)


def operation_of(fields: Mapping[str, Any], access: Access) -> str | None:
    """None for what generates nothing, which has no span."""
    route = str(fields["route"])
    if fields["method"] == "POST" and route in OPERATIONS:
        return OPERATIONS[route]
    if fields["method"] == "POST" and route.endswith(GEMINI):
        return GEMINI_OPERATION
    return None if access.batch is None else OTHER_OPERATION


def _error(fields: Mapping[str, Any]) -> str:
    """The code that was answered, else the status; empty where all went well."""
    return str(fields["error"] or (fields["status"] if fields["status"] >= 400 else ""))


def _attributes(access: Access, fields: Mapping[str, Any], asked: str) -> Attributes:
    found: Attributes = {
        "http.request.method": fields["method"],
        "http.route": fields["route"],
        "http.response.status_code": fields["status"],
        "gen_ai.request.model": asked or None,
        "gen_ai.conversation.id": fields["session"],
        "gen_ai.agent.id": fields["agent"],
    }
    if access.batch is not None:
        found |= _asked(access.batch) | _used(access.batch)
    found |= {f"stepwell.{name}": fields[name] for name in OWN if name in fields}
    return {name: value for name, value in found.items() if value is not None}


def _asked(batch: Generations) -> Attributes:
    one = batch.generations[0]
    return {
        "gen_ai.request.max_tokens": one.max_new_tokens,
        "gen_ai.request.temperature": one.sampling.temperature,
        "gen_ai.request.top_p": one.sampling.top_p,
        "gen_ai.request.seed": one.sampling.seed,
        "gen_ai.request.choice.count": len(batch.generations) if len(batch.generations) > 1 else None,
        "gen_ai.output.type": "json" if one.sampling.json_schema is not None else "text",
    }


def _used(batch: Generations) -> Attributes:
    finished = [batch.finished[index] for index in sorted(batch.finished)]
    read = [one.cached_tokens for index, one in batch.admitted.items() if _pays(batch, index)]
    return {
        "gen_ai.usage.input_tokens": _input_tokens(batch),
        "gen_ai.usage.output_tokens": sum(one.generated_tokens for one in finished),
        "gen_ai.usage.cache_read.input_tokens": sum(read),
        "gen_ai.response.finish_reasons": [one.reason for one in finished] or None,
    }


def _pays(batch: Generations, index: int) -> bool:
    """Whether the prompt of this generation counts: a further choice has that of another."""
    return not batch.generations[index].same_prompt


def _input_tokens(batch: Generations) -> int:
    return sum(len(one.prompt) for index, one in enumerate(batch.generations) if _pays(batch, index))


def _phases(span: Span, batch: Generations, submitted_ns: int) -> None:
    """When it began to wait, to compute its prompt and to generate; of several generations the longest."""
    span.add_event("stepwell.queue", timestamp=submitted_ns)
    index = max(batch.finished, key=lambda index: batch.finished[index].e2e_us, default=None)
    admitted = next(iter(batch.admitted.values()), None) if index is None else batch.admitted.get(index)
    if admitted is None:
        return
    tokens = {"stepwell.cached_tokens": admitted.cached_tokens}
    span.add_event("stepwell.prefill", tokens, submitted_ns + 1_000 * admitted.queue_us)
    if index is not None and batch.finished[index].generated_tokens:
        span.add_event("stepwell.decode", timestamp=submitted_ns + 1_000 * batch.finished[index].ttft_us)


class _Meters:
    """Under the names of the conventions. Buckets are theirs, too."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=buckets)

        self._duration = seconds("gen_ai.server.request.duration", "Time of a whole request", DURATION_S)
        self._first = seconds("gen_ai.server.time_to_first_token", "Time to its first token", FIRST_TOKEN_S)
        self._each = seconds(
            "gen_ai.server.time_per_output_token", "Time per output token after the first", OUTPUT_TOKEN_S
        )
        self._tokens = meter.create_histogram(
            *("gen_ai.client.token.usage", "{token}", "Tokens of a request, by kind"),
            explicit_bucket_boundaries_advisory=TOKENS,
        )

    def ended(self, access: Access, fields: Mapping[str, Any], common: Attributes) -> None:
        """The name that was asked for counts only where there is a model of it: else it has no bound."""
        if access.model and fields["status"] < 400:
            common = common | {"gen_ai.request.model": access.model}
        if access.service_tier:
            common = common | {"stepwell.service_tier": access.service_tier}
        self._duration.record(fields["total_ms"] / 1e3, common)
        batch = access.batch
        if batch is None or not batch.finished:
            return
        for one in batch.finished.values():
            if one.reason == "cancelled" or not one.generated_tokens:
                continue
            self._first.record(one.ttft_us / 1e6, common)
            if one.generated_tokens > 1:
                self._each.record((one.e2e_us - one.ttft_us) / (one.generated_tokens - 1) / 1e6, common)
        output = sum(one.generated_tokens for one in batch.finished.values())
        for kind, count in (("input", _input_tokens(batch)), ("output", output)):
            self._tokens.record(count, common | {"gen_ai.token.type": kind})


@contextmanager
def telemetry_of(asked: bool, out: IO[str], say: Callable[[str], None]) -> Iterator[Telemetry | None]:
    """Spans and metrics while a server runs; None where they are not asked for.

    Asked for by ``server.otel``, or by variables that name an exporter or where it sends to. What is left is
    sent when the block is left. Raises ``MissingExtra`` where the setting asks and the package is not there,
    ``BadInput`` for an unknown exporter; a variable alone is then a line.
    """
    traces, metrics = wanted(asked), wanted(asked, "metrics")
    if not traces and not metrics:
        yield None
        return
    tracers = meters = telemetry = None
    with complaints_to(_rarely()):
        try:
            try:
                tracers = tracer_provider(out) if traces else None
                meters = meter_provider(out) if metrics else None
                telemetry = Telemetry(
                    None if tracers is None else tracers.get_tracer("stepwell"),
                    None if meters is None else meters.get_meter("stepwell"),
                )
            except MissingExtra as error:
                if asked:
                    raise
                say(f"no spans and metrics are sent: {error}")
            yield telemetry
        finally:
            shut_down(tracers, meters)


def _rarely() -> Callable[[str], None]:
    """Once a minute, and without a traceback."""
    rarely = Rarely(log)

    def tell(said: str) -> None:
        rarely.warning(time.monotonic_ns() // 1_000, "spans or metrics may be missing", Exception(clip(said)))

    return tell
