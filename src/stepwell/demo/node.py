"""A real Stepwell server inside this process, on a free port of the loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from stepwell.assemble import Node as Assembled
from stepwell.assemble import build
from stepwell.driver import Driver
from stepwell.errors import StepwellError
from stepwell.server.app import create_app
from stepwell.server.keys import KeyRing
from stepwell.settings import Settings

START_S = 30.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Node:
    """Where the server listens and what it serves."""

    url: str
    model: str
    chat: bool
    """Whether the model has a chat template."""
    driver: Driver


@contextmanager
def serving(app: object) -> Iterator[str]:
    """Serve an ASGI app from a thread of its own; yields the base URL."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="demo-server", daemon=True
    )
    thread.start()
    try:
        _await_start(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_S)
        listener.close()


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline_s = time.monotonic() + START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline_s:
            raise StepwellError("the demo's own server did not start")
        time.sleep(0.01)


@contextmanager
def assembled(settings: Settings) -> Iterator[Assembled]:
    """A node without a server; freed when the block ends."""
    built = build(settings)
    try:
        yield built
    finally:
        built.stop(drain_s=STOP_S)


@contextmanager
def open_node(settings: Settings) -> Iterator[Node]:
    """A whole server for ``settings``, from model file to URL; gone when the block ends."""
    with assembled(settings) as built:
        built.driver.start()
        app = create_app(built.driver, built.text, settings.server, KeyRing(settings.keys))
        with serving(app) as url:
            yield Node(url, built.text.name, built.text.has_chat_template, built.driver)
