"""A hybrid and a model with adapters in one server, killed with SIGKILL: the same tokens after it, each under
its own adapter, from what was kept; and the books of all of them agree."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from tests.commands.test_serve import served
from tests.commands.test_serve_models import complete, states
from tests.engines.prefixes import prompt
from tests.engines.tiny_adapter import write_adapter
from tests.engines.tiny_gguf import write
from tests.server.fakes import until

pytest.importorskip("llama_cpp")

from stepwell.bench.zoo.child import model_file
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store

SETTINGS = """
[engine]
name = "hybrid"
model = "{hybrid}"
device_kv_tokens = 1024
threads = 1
unload_after_s = 0.5
[kv]
host_kv = "240KiB"
disk_kv = "64MiB"
disk_dir = "{folder}/kv"
disk_read_deadline_ms = 60000
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
name = "tiny"
model = "{tiny}"
[models.adapters]
red = "{folder}/red.gguf"
blue = "{folder}/blue.gguf"
"""
NAMES = ("hybrid", "tiny", "tiny:red", "tiny:blue")


def ask(url: str, model: str, tokens: list[int]) -> tuple[str, int]:
    return complete(url, model, "a", tokens, max_tokens=8, ignore_eos=True)


def test_a_hybrid_and_adapters_survive_a_kill_and_their_books_agree(tmp_path: Path) -> None:
    for seed, name in enumerate(("red", "blue")):
        write_adapter(tmp_path / f"{name}.gguf", seed)
    files = {"hybrid": model_file(tmp_path, "lfm2"), "tiny": write(tmp_path / "tiny.gguf")}
    config = tmp_path / "stepwell.toml"
    config.write_text(SETTINGS.format(folder=tmp_path, **files))
    server = partial(
        served, "--config", str(config), engine="llamacpp", XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    first, more = prompt(200), prompt(50, seed=3)
    with server() as (process, url, _):
        before = {name: ask(url, name, first)[0] for name in NAMES}
        whole = {name: ask(url, name, [*first, *more])[0] for name in NAMES}
        assert len(set(before.values())) == len(NAMES), "each is another model"
        until(lambda: set(states(url).values()) == {"unloaded"})
        process.send_signal(signal.SIGKILL)
        process.wait()
    with server() as (process, url, _):
        for name in NAMES:
            text, cached = ask(url, name, [*first, *more])
            assert text == whole[name]
            assert cached >= 64, "as much as the small host pool lets through at once"
        process.send_signal(signal.SIGTERM)
        process.wait()
    store = open_store(tmp_path / "books.db", create=False)
    try:
        found = verify(store)
        models = store.rows("SELECT DISTINCT model FROM usage ORDER BY 1")
    finally:
        store.close()
    assert not found.differences
    assert [name for (name,) in models] == sorted(NAMES)
