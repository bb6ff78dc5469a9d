"""A node on the null engine with a document library in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from stepwell.engines.null import NullConfig
from stepwell.library.documents import Limits
from stepwell.library.embeddings import Embedder
from stepwell.library.store import Library
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.callers.keys import KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, null_driver
from tests.server.wire import http

CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=1_024, context_tokens=8_192)
LIMITS = Limits(max_bytes=64 * 1024, max_chars=60_000)


@contextmanager
def library_node(
    root: Path,
    keys: KeyRing | None = None,
    *,
    limits: Limits = LIMITS,
    quota_bytes: int = 2**20,
    quotas: Mapping[str, int] | None = None,
    config: NullConfig = CONFIG,
    embedder: Embedder | None = None,
) -> Iterator[BackgroundServer]:
    driver = null_driver(config)
    driver.start()
    served = ServedLibrary(Library(root, limits), quota_bytes, quotas or {}, embedder=embedder)
    settings = ServerSettings(port=0, drain_s=5.0)
    try:
        with BackgroundServer(driver, driver.text, settings, keys, library=served) as server:
            yield server
    finally:
        driver.stop(5.0)


def upload(
    server: BackgroundServer, name: str, data: bytes | str, *, key: str = "", **fields: str
) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    content = data.encode() if isinstance(data, str) else data
    with http(server, **headers) as client:
        form: dict[str, Any] = {"purpose": "user_data", **fields}
        return client.post("/v1/files", files={"file": (name, content)}, data=form)


def uploaded(server: BackgroundServer, name: str, data: bytes | str, **fields: str) -> dict[str, Any]:
    answer = upload(server, name, data, **fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
