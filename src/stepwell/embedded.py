"""A whole server inside this process, for a command that needs one: the one way to start one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from stepwell.assemble import Node, build, key_ring
from stepwell.library.store import Library
from stepwell.server.books import Books
from stepwell.server.library import ServedLibrary
from stepwell.server.run import BackgroundServer
from stepwell.settings import Settings

STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class EmbeddedNode:
    """A server that runs, and what it serves."""

    url: str
    """Without ``/v1``; a free port of the loopback interface."""
    node: Node


@contextmanager
def embedded(
    settings: Settings, *, progress: Callable[[str], None] | None = None, library: Library | None = None
) -> Iterator[EmbeddedNode]:
    """From model file to URL; gone when the block ends. Raises ``StepwellError``."""
    node = build(settings, progress=progress)
    try:
        node.driver.start()
        books = None if node.ledger is None else Books(node.ledger.store, node.ledger)
        served = None if library is None else ServedLibrary(library)
        http = replace(settings.server, host="127.0.0.1", port=0, drain_s=STOP_S)
        with BackgroundServer(node.driver, node.text, http, key_ring(settings), books, served) as server:
            yield EmbeddedNode(server.base_url, node)
    finally:
        node.stop(STOP_S)
