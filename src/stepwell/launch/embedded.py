"""Nodes of one model or of several, built the same way, and a whole server inside this process for a command
that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from stepwell.basics.clock import Clock
from stepwell.launch.assemble import Node, Progress, build
from stepwell.launch.beside import close_embeddings, served_embeddings
from stepwell.launch.several import ModelsNode, apart, build_several, serves_several
from stepwell.library.store import Library
from stepwell.server.backends.books import Books
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.run import BackgroundServer
from stepwell.server.service import OfferedModel
from stepwell.settings.file import Settings
from stepwell.settings.keys import key_ring

STOP_S = 5.0

AnyNode = Node | ModelsNode


def build_any(settings: Settings, *, progress: Progress | None = None, clock: Clock | None = None) -> AnyNode:
    """A node of all the models that the settings name. Raises ``StepwellError``."""
    settings, _ = apart(settings)
    if serves_several(settings):
        return build_several(settings, progress=progress, clock=clock)
    return build(settings, progress=progress, clock=clock)


def offered(node: AnyNode) -> tuple[OfferedModel, ...]:
    """Its models, as routes need them."""
    if isinstance(node, Node):
        return (OfferedModel(node.text, node.engine.info, node.ledger),)
    books = node.ledgers or [None] * len(node.models)
    return tuple(OfferedModel(m.text, m.engine.info, b) for m, b in zip(node.models, books, strict=True))


@dataclass(frozen=True, slots=True)
class EmbeddedNode:
    """A server that runs, and what it serves."""

    url: str
    """Without ``/v1``; a free port of the loopback interface."""
    node: AnyNode


@contextmanager
def embedded(
    settings: Settings, *, progress: Progress | None = None, library: Library | None = None
) -> Iterator[EmbeddedNode]:
    """From model files to URL; gone when the block ends. Raises ``StepwellError``."""
    node = build_any(settings, progress=progress)
    vectors = None
    try:
        vectors = served_embeddings(settings, unasked=False)
        node.driver.start()
        kept = node.books
        books = None if kept is None else Books(kept.store, kept)
        served = None if library is None else ServedLibrary(library)
        http = replace(settings.server, host="127.0.0.1", port=0, drain_s=STOP_S)
        with BackgroundServer(
            *(node.driver, node.text, http, key_ring(settings), books, served),
            offered=offered(node),
            vectors=vectors,
        ) as server:
            yield EmbeddedNode(server.base_url, node)
    finally:
        close_embeddings(vectors)
        node.stop(STOP_S)
