"""A site on loopback that answers as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from stepwell.review.digest import source
from stepwell.review.fetch import Fetcher
from tests.review.sample import WEEK


class Site(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, bytes, dict[str, str]]]] = []
    """What is answered, in order; the last one again and again."""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Site.asked.clear()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(site: str, folder: Path, name: str, waits: list[float], *, again: bool = False) -> list[str]:
    fetcher = Fetcher(folder, date(2025, 12, 14), {name: site}, again, sleep=waits.append)
    with fetcher.client:
        return [one.error for one in fetcher.fetch(WEEK, source(name))]
