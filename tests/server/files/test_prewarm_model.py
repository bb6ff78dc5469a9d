"""A document prewarmed with a real model, and a server that was started again: its KV comes from disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stepwell.launch.assemble import build
from stepwell.library.store import Library
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.run import BackgroundServer
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings
from tests.server.libraries import uploaded
from tests.server.wire import post

pytestmark = pytest.mark.model

DOCUMENT = "".join(f"Step {n} of the well is {3 * n} metres down.\n" for n in range(24))


@contextmanager
def node_on(folder: Path) -> Iterator[BackgroundServer]:
    """A whole server whose disk outlives it."""
    settings = Settings(
        engine=EngineSettings(model="smollm2", device_kv_tokens=2_048, threads=1),
        kv=KvSettings(host_kv=1 << 26, disk_kv=1 << 28, disk_dir=folder / "kv"),
    )
    node = build(settings)
    node.driver.start()
    try:
        library = ServedLibrary(Library(folder / "library"))
        with BackgroundServer(node.driver, node.text, library=library) as server:
            yield server
    finally:
        node.stop(20.0)


def ask(server: BackgroundServer, file_id: str, session: str) -> Any:
    """The usage of an agent that attaches the document."""
    question = {"type": "text", "text": f"I am {session}: why?"}
    parts = [{"type": "file", "file": {"file_id": file_id}}, question]
    messages = [{"role": "user", "content": parts}]
    body = {"model": server.service.text_model.name, "messages": messages, "max_tokens": 1, "temperature": 0}
    answer = post(server, "/v1/chat/completions", body, **{"x-session-id": session})
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]


def counted(server: BackgroundServer) -> dict[str, int]:
    counters = server.service.driver.snapshot().counters
    return {place: counters[f"prompt_tokens_{place}"] for place in ("computed", "device", "host", "disk")}


def test_after_a_restart_the_document_comes_from_disk_and_is_not_computed_again(
    smollm2_path: Path, tmp_path: Path
) -> None:
    with node_on(tmp_path) as server:
        file = uploaded(server, "steps.txt", DOCUMENT, prewarm="true", ttl="12h")
        tokens = file["tokens"]
        assert tokens > 200
        assert counted(server)["computed"] == file["prewarm"]["usage"]["prompt_tokens"] >= tokens
    with node_on(tmp_path) as server:
        first = ask(server, file["id"], "a")
        after_first = counted(server)
        block_tokens = server.service.driver.engine.info.block_tokens
        assert after_first["disk"] >= tokens - 2 * block_tokens
        assert first["prompt_tokens_details"]["cached_tokens"] == after_first["disk"]
        rest = first["prompt_tokens"] - after_first["disk"]
        assert after_first["computed"] == rest < 4 * block_tokens
        second = ask(server, file["id"], "b")
        after_second = counted(server)
        assert after_second["disk"] == after_first["disk"], "read once for both"
        assert after_second["device"] + after_second["host"] >= tokens - 2 * block_tokens
        computed = after_second["computed"] - after_first["computed"]
        assert computed == second["prompt_tokens"] - second["prompt_tokens_details"]["cached_tokens"]
        assert computed < 4 * block_tokens
