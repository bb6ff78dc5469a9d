"""Both ways to serve, as a user starts them, over HTTP on the real vLLM: one after the other on one disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store
from stepwell.server.run import base_url, listen
from tests.vllm.conftest import FIRST_START_S

PROMPT = "Agent A works on the tax return of 2025. " * 4
SMALL = [
    *("--enforce-eager", "--dtype", "float32", "--block-size", "32", "--num-gpu-blocks-override", "20"),
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "512"),
]


@contextmanager
def serving(arguments: list[str], log: Path, url: str | None = None) -> Iterator[httpx2.Client]:
    """Until it answers; ended by SIGTERM. ``url``: where it is, if it does not say so itself."""
    environment = {
        name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "stepwell", *arguments], stdout=output, stderr=output, env=environment
        )
    try:
        deadline = time.monotonic() + FIRST_START_S
        while not _answers(url or _told(log)):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with httpx2.Client(base_url=url or _told(log) or "", timeout=300.0, trust_env=False) as client:
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(120)
    assert "stopped" in log.read_text() or url is not None


def _told(log: Path) -> str | None:
    found = re.search(r" at (http://\S+)/v1,", log.read_text())
    return found[1] if found else None


def _answers(url: str | None) -> bool:
    if url is None:
        return False
    try:
        return httpx2.get(url + "/health", trust_env=False, timeout=10.0).status_code == 200
    except httpx2.TransportError:
        return False


def complete(client: httpx2.Client, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    answer = client.post("/v1/completions", json=body, headers={"x-session-id": "s", "x-agent-id": "a"})
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_served_with_the_front_end_then_by_vllm_alone_from_the_same_disk(
    tiny_model: Path, tmp_path: Path
) -> None:
    books, kv = tmp_path / "books.db", tmp_path / "kv"
    room = ["--host-kv", "16MiB", "--disk-kv", "64MiB"]
    front = ["serve", "--engine", "vllm", "--model", str(tiny_model), "--port", "0", "--ledger", str(books)]
    flags = ["--context-tokens", "512", "--vllm-args", " ".join(SMALL)]
    with serving([*front, *room, "--disk-dir", str(kv), *flags], tmp_path / "front.log") as client:
        first = complete(client, priority=-5, cache_salt="forged")
        assert cached(first) == 0
        again = complete(client)
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        assert cached(again) >= 128
    store = open_store(str(books))
    try:
        assert not verify(store).differences
        ((input_tokens, output_tokens),) = store.rows(
            "SELECT SUM(input_tokens), SUM(visible_tokens) FROM usage"
        )
    finally:
        store.close()
    assert (input_tokens, output_tokens) == (2 * first["usage"]["prompt_tokens"], 16)

    listener = listen("127.0.0.1", 0)
    url = base_url(listener)
    listener.close()
    alone = ["vllm", "serve", str(tiny_model), "--port", url.rpartition(":")[2], *room]
    more = ["--disk-dir", str(kv / "vllm"), "--", "--max-model-len", "512", *SMALL]
    with serving([*alone, *more], tmp_path / "alone.log", url) as client:
        warm = complete(client)
        assert warm["choices"][0]["text"] == first["choices"][0]["text"]
        assert cached(warm) >= 128
