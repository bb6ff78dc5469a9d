"""Nodes for measuring: an engine, KV tiers and a driver, stepped by the measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from stepwell.basics.clock import Clock
from stepwell.bench.harness import NULL_MODEL
from stepwell.engines.base import Engine, TextModel
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.engines.probe import GREEDY
from stepwell.errors import StepwellError
from stepwell.launch import assemble
from stepwell.loop.driver import Driver
from stepwell.loop.requests import LOCAL, Admitted, Delta, Finished, Generation, Output, Rejected
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import BlockMeta, KvTier, Moved
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import Settings, load
from stepwell.tiers.base import Tiers
from stepwell.tiers.local import LocalTiers
from stepwell.tiers.store import DiskStore


def load_engine(
    model: str,
    *,
    device_kv_tokens: int,
    threads: int | None = None,
    exact_lone_decode: bool = True,
) -> tuple[Engine, TextModel]:
    """A named model, a GGUF path, or ``null`` (computes nothing at once; for trying a benchmark out)."""
    if model == NULL_MODEL:
        null = NullEngine(NullConfig(device_blocks=device_kv_tokens // 64))
        return null, NullText(null.info)
    engine = EngineSettings(
        model=model,
        device_kv_tokens=device_kv_tokens,
        threads=threads,
        exact_lone_decode=exact_lone_decode,
        n_gpu_layers=load().engine.n_gpu_layers,  # where the server of these settings would compute
    )
    return assemble.load_engine(Settings(engine=engine))


@contextmanager
def driver_for(
    engine: Engine,
    text: TextModel,
    *,
    host_bytes: int,
    disk_bytes: int = 0,
    disk_dir: Path | None = None,
    clock: Clock | None = None,
    wrap: Callable[[Tiers], Tiers] = lambda tiers: tiers,
    **policy: Any,
) -> Iterator[Driver]:
    """A driver without a thread around ``engine``; ``policy`` overrides fields of ``PolicyConfig``.

    Closes the engine and the tiers at the end.
    """
    disk = DiskStore(disk_dir, disk_bytes, engine.info.fingerprint) if disk_dir and disk_bytes else None
    tiers = wrap(LocalTiers(host_bytes, disk))
    config = replace(assemble.policy_config(Settings(), engine.info, tiers), **policy)
    driver = Driver(engine, text, tiers, Scheduler(config), clock=clock)
    try:
        yield driver
    finally:
        driver.stop(0.0)


@dataclass(slots=True)
class TurnLog:
    """A sink that keeps what a turn gave."""

    tokens: list[int] = field(default_factory=list)
    admitted: Admitted | None = None
    finished: Finished | None = None

    def __call__(self, output: Output) -> None:
        match output:
            case Delta(_, tokens):
                self.tokens += [info.token for info in tokens]
            case Admitted():
                self.admitted = output
            case Finished():
                self.finished = output
            case Rejected(_, message):
                raise StepwellError(f"a request of the benchmark was not served: {message}")


def turn_of(prompt: Sequence[int], output_tokens: int, agent: str) -> Generation:
    """A greedy turn of exactly ``output_tokens`` tokens."""
    caller = replace(LOCAL, session="bench", agent=agent)
    return Generation(tuple(prompt), output_tokens, GREEDY, caller=caller)


class Door:
    """Stands before something; whatever it does not name goes through as it is."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class GatheredTiers(Door):
    """Reports transfers only once none is under way any more.

    Blocks that come back from disk arrive when the disk pleases, and requests that start in different
    steps share other batches than requests that start together. Floating-point sums depend on what
    shares the batch; gathered, only where the KV lay can make a difference.
    """

    def __init__(self, inner: Tiers) -> None:
        super().__init__(inner)
        self._under_way = 0
        self._held: list[Moved] = []

    def start(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        self._under_way += 1
        self._inner.start(block, source, target)

    def poll(self) -> list[Moved]:
        ended = self._inner.poll()
        self._under_way -= len(ended)
        self._held += ended
        if self._under_way:
            return []
        gathered, self._held = self._held, []
        return gathered


def gathered(inner: Tiers) -> Tiers:
    """See ``GatheredTiers``."""
    return cast("Tiers", GatheredTiers(inner))
