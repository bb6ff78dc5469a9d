"""A server of several null models on a manual clock, without HTTP and without a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepwell.basics.clock import ManualClock
from stepwell.launch.several import ModelsNode, build_several
from stepwell.ledger.settings import LedgerSettings
from stepwell.loop.requests import Generation
from stepwell.settings.engine import EngineSettings, ModelEntry
from stepwell.settings.file import KvSettings, PolicySettings, Settings
from tests.driver.harness import GREEDY, Answer, with_caller

BLOCK_BYTES = 64 * 64


def settings_of(folder: Path, *, names: str = "one two", books: bool = False, **given: Any) -> Settings:
    """``given``: of the engine, the KV tiers or the policy."""
    first, *others = names.split()
    sizes = {"device_kv_tokens": 1024, **given}
    engine = {name: value for name, value in sizes.items() if name in EngineSettings.__dataclass_fields__}
    kv = {name: value for name, value in sizes.items() if name in KvSettings.__dataclass_fields__}
    policy = {name: value for name, value in sizes.items() if name in PolicySettings.__dataclass_fields__}
    return Settings(
        engine=EngineSettings(kind="null", name=first, **engine),
        kv=KvSettings(**{"host_kv": 64 * BLOCK_BYTES, "disk_kv": 4 << 20, "disk_dir": folder / "kv", **kv}),
        policy=PolicySettings(**policy),
        models=tuple(ModelEntry(name=name) for name in others),
        ledger=LedgerSettings(path=str(folder / "books.db") if books else "none"),
        record=given.get("record"),
    )


@contextmanager
def several(folder: Path, **given: Any) -> Iterator[ModelsNode]:
    """Every invariant is checked after every step."""
    node = build_several(settings_of(folder, **given), clock=ManualClock(), strict=True)
    try:
        yield node
    finally:
        node.stop(0)


def ask(node: ModelsNode, model: str, prompt: str | bytes, tokens: int = 4, **caller: Any) -> Answer:
    """Submit one turn."""
    answer = Answer()
    data = prompt.encode() if isinstance(prompt, str) else prompt
    given = with_caller({"agent": "a", **caller})
    generation = Generation(
        prompt=tuple(data), max_new_tokens=tokens, sampling=GREEDY, model=model, caller=given["caller"]
    )
    node.loop.submit(generation, answer.outputs.append)
    return answer


def passes(node: ModelsNode, duration_us: int) -> None:
    """Time in which nobody asks for anything."""
    clock = node.loop.clock
    clock.sleep_us(duration_us)
    node.loop.run_until_idle()
