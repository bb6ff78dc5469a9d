"""A server over real HTTP whose answers are a function of the request: for ``stepwell run`` as a whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away: requests under way are cancelled when a session ends."""


Answer = Callable[[dict[str, Any]], "str | dict[str, Any] | None"]
"""From a request's body: a text, a message, or None: the connection is cut."""


@dataclass
class Served:
    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def said(self, role: str) -> list[str]:
        """What models read from this role, in the order of the requests."""
        return [
            str(one["content"]) for body in self.bodies for one in body["messages"] if one["role"] == role
        ]


@contextmanager
def served(answer: Answer, cost: float | None = None, model: str = "one") -> Iterator[Served]:
    made = Served("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together: apart, the second waits 40 ms for the first's receipt

        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": model}]} if self.path == "/v1/models" else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self.path.endswith("/chat/completions"):
                return self.send(404, {})
            made.bodies.append(body)
            said = answer(body)
            if said is None:
                self.close_connection = True
                return None
            message = {"role": "assistant", "content": said} if isinstance(said, str) else said
            usage = {"prompt_tokens": 9, "completion_tokens": 3} | ({} if cost is None else {"cost": cost})
            choice = {"message": message, "finish_reason": message.pop("finish_reason", "stop")}
            return self.send(200, {"choices": [choice], "usage": usage})

        def send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
