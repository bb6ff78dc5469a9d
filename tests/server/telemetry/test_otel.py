"""Spans and metrics of the server: what they say, whose trace they are part of, and a real collector."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.engines.null import NullConfig
from stepwell.errors import BadInput, MissingExtra
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.server.telemetry.otel import Telemetry, telemetry_of
from tests.server.fakes import MODEL, null_driver, until
from tests.server.wire import CHAT, RESPONSE, TEXT, get, post

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.otlp import Received, attributes, collector, receiver, rotel

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "the well at Abhaneri"
ANSWER = "xyz"
"""Not hexadecimal: a span names its process by a random UUID."""
NODES = {"x-session-id": "run", "x-agent-id": "one", "traceparent": f"00-{TRACE_ID}-{PARENT}-01"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for signal in ("", "TRACES_", "METRICS_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT", raising=False)
        monkeypatch.delenv(f"OTEL_{signal}EXPORTER", raising=False)


@contextmanager
def node(telemetry: Telemetry | None) -> Iterator[BackgroundServer]:
    driver = null_driver(NullConfig(model=MODEL, block_tokens=16, device_blocks=256, answer=ANSWER.encode()))
    driver.start()
    settings = ServerSettings(port=0, drain_s=5.0)
    try:
        with BackgroundServer(driver, driver.text, settings, telemetry=telemetry) as server:
            yield server
    finally:
        driver.stop(5.0)


@dataclass
class Seen:
    server: BackgroundServer
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def span(self) -> ReadableSpan:
        """The only one since it was asked last; it is made after the answer has been sent."""
        until(self.exporter.get_finished_spans)
        (span,) = self.exporter.get_finished_spans()
        self.exporter.clear()
        return span

    def metrics(self, last: str, count: int) -> dict[str, list[Any]]:
        """What is recorded, once ``last`` has counted so much: spans end a little before."""
        found: dict[str, list[Any]] = {}

        def there() -> bool:
            data = self.reader.get_metrics_data()
            scopes = (scope for one in (data.resource_metrics if data else ()) for scope in one.scope_metrics)
            found.update({one.name: list(one.data.data_points) for scope in scopes for one in scope.metrics})
            return sum(point.count for point in found.get(last, ())) >= count

        until(there)
        return found


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    with node(Telemetry(tracers.get_tracer("t"), meters.get_meter("t"))) as server:
        yield Seen(server, exporter, reader)


ASKED = {
    "/v1/chat/completions": (CHAT | {"seed": 7, "temperature": 0.5, "max_tokens": 3}, "chat"),
    "/v1/completions": (TEXT | {"prompt": SECRET, "max_tokens": 3}, "text_completion"),
    "/v1/responses": (RESPONSE | {"input": SECRET, "max_output_tokens": 16}, "chat"),
    "/v1/messages": (CHAT | {"max_tokens": 3}, "chat"),
    f"/v1beta/models/{MODEL}:generateContent": (
        {"contents": [{"role": "user", "parts": [{"text": SECRET}]}]},
        "generate_content",
    ),
}


@pytest.mark.parametrize("path", ASKED)
def test_every_way_to_ask_has_a_span_in_the_callers_trace(seen: Seen, path: str) -> None:
    body, operation = ASKED[path]
    assert post(seen.server, path, body, **NODES).status_code == 200
    span = seen.span()
    assert span.name == f"{operation} {MODEL}" and span.kind is SpanKind.SERVER
    assert span.context is not None and f"{span.context.trace_id:032x}" == TRACE_ID
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT
    said = dict(span.attributes or {})
    assert said["gen_ai.operation.name"] == operation and said["gen_ai.provider.name"] == "stepwell"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == MODEL
    assert (said["gen_ai.conversation.id"], said["gen_ai.agent.id"]) == ("run", "run/one")
    assert said["http.response.status_code"] == 200 and "error.type" not in said
    assert said["gen_ai.usage.output_tokens"] in (3, 4) and said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.response.finish_reasons"] in (("stop",), ("length",))
    assert SECRET not in span.to_json() and ANSWER not in span.to_json()
    assert span.status.status_code is StatusCode.UNSET


def test_its_events_are_the_phases_in_their_order_and_lie_within_it(seen: Seen) -> None:
    for _ in range(2):
        post(seen.server, "/v1/chat/completions", CHAT | {"stream": True}, **NODES)
        span = seen.span()
        assert [one.name for one in span.events] == ["stepwell.queue", "stepwell.prefill", "stepwell.decode"]
        at = [one.timestamp for one in span.events]
        assert span.start_time is not None and span.end_time is not None
        assert [span.start_time, *at, span.end_time] == sorted([span.start_time, *at, span.end_time])
    cached = dict(span.events[1].attributes or {})["stepwell.cached_tokens"]
    assert cached == dict(span.attributes or {})["gen_ai.usage.cache_read.input_tokens"]
    assert isinstance(cached, int) and cached > 0


def test_choices_share_a_prompt_that_counts_once(seen: Seen) -> None:
    usage = post(seen.server, "/v1/chat/completions", CHAT | {"n": 3, "max_tokens": 3}).json()["usage"]
    said = dict(seen.span().attributes or {})
    assert said["gen_ai.request.choice.count"] == 3
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 9


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [({}, 400, "missing_required_parameter"), (CHAT | {"model": "nobody"}, 404, "model_not_found")],
)
def test_what_was_refused_has_a_span_with_its_error(
    seen: Seen, body: dict[str, Any], status: int, error: str
) -> None:
    refused = post(seen.server, "/v1/chat/completions", body)
    assert refused.status_code == status
    span = seen.span()
    said = dict(span.attributes or {})
    assert said["http.response.status_code"] == status
    assert said["error.type"] == (refused.json()["error"]["code"] or str(status))
    assert span.status.status_code is StatusCode.UNSET, "a client's fault is no error of the server"
    for points in seen.metrics("gen_ai.server.request.duration", 1).values():
        assert all("gen_ai.request.model" not in dict(one.attributes) for one in points)


def test_what_generates_nothing_has_none(seen: Seen) -> None:
    for path in ("/health", "/v1/models", f"/v1/models/{MODEL}", "/v1/agents", "/nothing"):
        get(seen.server, path)
    post(seen.server, "/tokenize", {"model": MODEL, "prompt": "hi"})
    assert post(seen.server, "/v1/chat/completions", CHAT).status_code == 200
    assert seen.span().name == f"chat {MODEL}"


def test_a_background_response_has_one_when_it_has_ended(seen: Seen) -> None:
    answer = post(seen.server, "/v1/responses", RESPONSE | {"background": True})
    assert answer.status_code == 200
    said = dict(seen.span().attributes or {})
    assert said["gen_ai.usage.output_tokens"] > 0 and said["http.route"] == "/v1/responses"


def test_metrics_count_every_request_and_name_no_agent(seen: Seen) -> None:
    for number in range(4):
        post(
            seen.server, "/v1/chat/completions", CHAT | {"max_tokens": 3}, **NODES, host=f"localhost:{number}"
        )
    until(lambda: len(seen.exporter.get_finished_spans()) == 4)
    metrics = seen.metrics("gen_ai.client.token.usage", 8)
    assert set(metrics) == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.client.token.usage",
    }
    for name, points in metrics.items():
        assert [one.count for one in points] == ([4, 4] if "token.usage" in name else [4]), name
        assert not any("run" in str(value) for one in points for value in dict(one.attributes).values())
    by_kind = {dict(one.attributes)["gen_ai.token.type"]: one for one in metrics["gen_ai.client.token.usage"]}
    assert by_kind["output"].sum == 12
    assert dict(by_kind["input"].attributes)["gen_ai.request.model"] == MODEL


def test_a_fault_of_its_own_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def start_span(self, *args: object, **named: object) -> None:
            raise RuntimeError("no room")

    with node(Telemetry(Broken(), None)) as server:  # type: ignore[arg-type]
        for _ in range(3):
            assert post(server, "/v1/chat/completions", CHAT).status_code == 200
    assert [one.getMessage() for one in caplog.records].count("a request has no span: no room") == 1


# --- to a collector -----------------------------------------------------------------------------


def crew(folder: Path, server: BackgroundServer) -> int:
    """One agent that is asked one question, as a program of its own would do."""
    file = folder / "alone.toml"
    file.write_text('[crew]\nname = "alone"\n[roles.lead]\ninstructions = "You lead."\n')
    return cli.run(["run", str(file), "--ask", SECRET, "--server", server.base_url])


def sent(folder: Path, got: Received, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew's turn on a server, both with the same collector."""
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with telemetry_of(False, sys.stderr, print) as telemetry, node(telemetry) as server:
        assert crew(folder, server) == 0
    until(lambda: len(got.spans) == 3 and len(got.metrics) == 4)


def is_one_trace(got: Received) -> None:
    by_name = {(span.name, span.kind): span for span in got.spans}
    agent = by_name["invoke_agent lead", SpanKind.INTERNAL.value + 1]
    turn = by_name[f"chat {MODEL}", SpanKind.CLIENT.value + 1]
    served = by_name[f"chat {MODEL}", SpanKind.SERVER.value + 1]
    assert {one.trace_id for one in (turn, served)} == {agent.trace_id}
    assert (turn.parent_span_id, served.parent_span_id) == (agent.span_id, turn.span_id)
    assert turn.start_time_unix_nano <= served.start_time_unix_nano
    for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.conversation.id"):
        assert attributes(turn)[name] == attributes(served)[name]
    assert got.metrics["gen_ai.client.token.usage"].unit == "{token}"
    assert attributes(got.resources[0].resource)["service.name"] == "stepwell"
    assert SECRET not in str(got.resources) and SECRET not in str(got.resource_metrics)


def test_agent_turn_and_server_are_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as got:
        sent(tmp_path, got, got.url, monkeypatch)
    is_one_trace(got)


@pytest.mark.skipif(rotel() is None, reason="no collector (the package rotel) here")
def test_a_real_collector_takes_them_and_hands_them_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = rotel()
    assert program is not None
    with receiver() as got, collector(program, tmp_path, got.url) as url:
        sent(tmp_path, got, url, monkeypatch)
    is_one_trace(got)


def test_a_collector_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with telemetry_of(False, sys.stderr, print) as telemetry, node(telemetry) as server:
        for _ in range(3):
            assert post(server, "/v1/chat/completions", CHAT).status_code == 200
    lines = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage().partition(":")[0] for one in lines] == ["spans or metrics may be missing"]
    assert lines[0].exc_info is None


def test_what_cannot_be_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with telemetry_of(False, sys.stderr, said.append) as telemetry:
        assert telemetry is None and said == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(BadInput, match="no OpenTelemetry exporter 'pigeon'"):
        telemetry_of(False, sys.stderr, said.append).__enter__()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with telemetry_of(False, sys.stderr, said.append) as telemetry:
        assert telemetry is None
    assert len(said) == 1 and said[0].startswith(
        "no spans and metrics are sent: OpenTelemetry needs the extra"
    )
    with pytest.raises(MissingExtra):
        telemetry_of(True, sys.stderr, said.append).__enter__()


def test_spans_and_metrics_are_switched_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with telemetry_of(False, sys.stderr, print) as telemetry, node(telemetry) as server:
        assert post(server, "/v1/chat/completions", CHAT).status_code == 200
    shown = capsys.readouterr().err
    assert json.loads(shown)["name"] == f"chat {MODEL}"
