"""A receiver of OTLP over HTTP, made of the official messages, and a real collector (Rotel) before it."""

from __future__ import annotations

import gzip
import importlib.util
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE_S = 30.0


def rotel() -> Path | None:
    """The collector's program, where its package is installed."""
    found = importlib.util.find_spec("rotel")
    program = Path(found.origin).parent / "rotel-agent" if found is not None and found.origin else None
    return program if program is not None and program.exists() else None


@dataclass
class Received:
    """What came in."""

    url: str = ""
    resources: list[Any] = field(default_factory=list)
    """Resource spans."""
    resource_metrics: list[Any] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        return [span for one in self.resources for scope in one.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest of each name."""
        scopes = (scope for one in self.resource_metrics for scope in one.scope_metrics)
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


def attributes(thing: Any) -> dict[str, Any]:
    """Of a span, an event, a point or a resource, as plain values."""
    return {one.key: _plain(one.value) for one in thing.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def receiver(status: int = 200, wanted: str = "") -> Iterator[Received]:
    """``wanted``: without this Authorization 401."""
    got = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            if self.path.endswith("/v1/metrics"):
                got.resource_metrics.extend(ExportMetricsServiceRequest.FromString(data).resource_metrics)
            else:
                got.resources.extend(ExportTraceServiceRequest.FromString(data).resource_spans)
            got.headers.append(
                {"path": self.path} | {name.lower(): said for name, said in self.headers.items()}
            )
            refused = wanted and self.headers["authorization"] != wanted
            self.send_response(401 if refused else status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        got.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield got
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def collector(program: Path, folder: Path, target: str) -> Iterator[str]:
    """A real collector's URL for OTLP over HTTP; it hands on to ``target`` what it takes."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    command = [
        *(str(program), "start", "--pid-file", str(folder / "rotel.pid"), "--log-file", str(folder / "log")),
        *("--otlp-http-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-grpc-endpoint", f"127.0.0.1:{ports[1]}"),
        *("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", target),
        *("--batch-timeout", "50ms"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            give_up_s = time.monotonic() + PATIENCE_S
            while not _listens(ports[0]):
                assert process.poll() is None and time.monotonic() < give_up_s, "the collector did not start"
                threading.Event().wait(0.02)
            yield f"http://127.0.0.1:{ports[0]}"
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
