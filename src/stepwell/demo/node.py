"""A real Stepwell server inside this process, on a free port of the loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from stepwell import assemble
from stepwell.engines.base import EngineInfo, TextModel
from stepwell.errors import StepwellError
from stepwell.loop.driver import Driver
from stepwell.server.app import create_app
from stepwell.server.books import Books
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
def loaded(settings: Settings) -> Iterator[tuple[EngineInfo, TextModel]]:
    """A model without a server, for its vocabulary; freed when the block ends."""
    engine, text = assemble.load_engine(settings)
    try:
        yield engine.info, text
    finally:
        engine.close_engine()


@contextmanager
def open_node(settings: Settings) -> Iterator[Node]:
    """A whole server for ``settings``, from model file to URL; gone when the block ends."""
    built = assemble.build(settings)
    try:
        built.driver.start()
        books = None if built.ledger is None else Books(built.ledger.store, built.ledger)
        app = create_app(built.driver, built.text, settings.server, KeyRing(settings.keys), books)
        with serving(app) as url:
            yield Node(url, built.text.name, built.text.has_chat_template, built.driver)
    finally:
        built.stop(drain_s=STOP_S)
