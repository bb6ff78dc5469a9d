"""A server of two models as a process: killed with SIGKILL, and what both find when it is started again."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

from tests.commands.test_serve import served
from tests.server.fakes import until

from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store

SETTINGS = """
[engine]
name = "one"
device_kv_tokens = 512
unload_after_s = 0.2
[kv]
host_kv = "64KiB"
disk_read_deadline_ms = 60000
disk_kv = "4MiB"
disk_dir = "{folder}/kv"
[policy]
always_load = true
[ledger]
path = "{folder}/books.db"
[library]
quota = 0
[batches]
quota = 0
[embeddings]
model = ""
[[models]]
name = "two"
"""
AGENTS = 4


def complete(url: str, model: str, agent: str, prompt: object, **said: object) -> tuple[str, int]:
    """One turn of an agent: its answer, and how many tokens of its prompt were there."""
    body = json.dumps({"model": model, "prompt": prompt, "temperature": 0, **said}).encode()
    headers = {"content-type": "application/json", "x-agent-id": agent, "x-session-id": model}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers)) as answer:
        told: dict[str, Any] = json.load(answer)
    details = told["usage"].get("prompt_tokens_details") or {}
    return told["choices"][0]["text"], details.get("cached_tokens", 0)


def ask(url: str, model: str, number: int) -> tuple[str, int]:
    return complete(url, model, str(number), chr(65 + number) * 200, max_tokens=3)


def states(url: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        return {one["id"]: one["state"] for one in json.load(answer)["data"]}


def test_after_a_kill_both_models_find_their_kv_and_the_books_agree(tmp_path: Path) -> None:
    config = tmp_path / "stepwell.toml"
    config.write_text(SETTINGS.format(folder=tmp_path))

    turns = [(name, number) for number in range(AGENTS) for name in ("one", "two")]
    with served("--config", str(config)) as (process, url, said):
        assert any("serves 2 models" in line for line in said), said
        before = {turn: ask(url, *turn)[0] for turn in turns}
        until(lambda: states(url) == {"one": "unloaded", "two": "unloaded"})
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served("--config", str(config)) as (process, url, said):
        assert sum("books of the last time are closed" in line for line in said) == 2, "a run for each model"
        after = {turn: ask(url, *turn) for turn in turns}
        assert {turn: text for turn, (text, _) in after.items()} == before
        for name in ("one", "two"):
            assert sum(cached for (model, _), (_, cached) in after.items() if model == name) >= 64
        process.send_signal(signal.SIGTERM)
        process.wait()
    store = open_store(tmp_path / "books.db", create=False)
    try:
        found = verify(store)
    finally:
        store.close()
    assert not found.differences
    assert found.runs == 4
