"""A whole server that keeps books: HTTP, driver, policy, null engine, ledger in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from stepwell.basics.clock import MonotonicClock
from stepwell.engines.null import NullConfig, NullEngine
from stepwell.ledger import start
from stepwell.ledger.base import Store
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.types import Budget
from stepwell.loop.driver import Driver
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import NO_HINT
from stepwell.server.backends.books import Books
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.server.batches.runner import ServedBatches
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.tiers.local import LocalTiers
from tests.ledger.books import PRICES
from tests.server.fakes import MODEL, FakeText, until
from tests.server.wire import get

RING = KeyRing(
    [
        KeyEntry(tenant="acme", key="sk-acme", service_tiers=("default", "priority", "flex")),
        KeyEntry(tenant="rival", key="sk-rival"),
        KeyEntry(tenant="house", key="sk-operator", operator=True),
    ]
)
CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=256)
WALL_US = 1_800_000_000_000_000


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{key}"}


@dataclass
class Kept:
    """A running server and its books."""

    server: BackgroundServer
    driver: Driver
    ledger: Ledger

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        self.at_rest()
        return self.ledger.store.rows(sql)

    def at_rest(self) -> None:
        """Every answer's charge is in the books: the driver hears of an end one step after the client."""
        until(lambda: not self.ledger.keeper.meter.requests)
        for _ in range(2):  # when the second is heard, the step that heard the first has ended
            self.driver.hint(0, "nobody", "nobody", NO_HINT)
            until(lambda: not self.driver._inbox.events)
        assert self.ledger.writer.flush()
        # A list of agents that was made before may be shown for a while, longer on a busy machine.
        lists = self.server.service.agent_lists
        until(lambda: time.monotonic() >= lists._good_until_s)

    def charged_microusd(self) -> int:
        return int(self.rows("SELECT SUM(charge_microusd) FROM usage")[0][0] or 0)

    def get(self, path: str, key: str = "operator") -> Any:
        return get(self.server, path, **bearer(key))


@contextmanager
def keeping(
    directory: Path,
    *,
    config: NullConfig = CONFIG,
    keys: KeyRing | None = RING,
    prices: str = PRICES,
    budgets: Sequence[Budget] = (),
    settings: LedgerSettings | None = None,
    server_settings: ServerSettings | None = None,
    wrap: Callable[[Store], Any] = lambda store: store,
    host_bytes: int = 1 << 20,
    library: ServedLibrary | None = None,
    batches: ServedBatches | None = None,
    vectors: ServedEmbeddings | None = None,
    always_load: bool = False,
    node: str = "n",
) -> Iterator[Kept]:
    """``wrap`` puts something between the server and its store."""
    book = directory / "prices.toml"
    book.write_text(prices)
    engine = NullEngine(config)
    info = engine.info
    policy = PolicyConfig(
        block_tokens=info.block_tokens,
        unit_tokens=16,
        device_blocks=info.device_blocks,
        block_bytes=info.block_bytes,
        token_bytes=info.token_bytes,
        host_bytes=host_bytes,
        disk_bytes=0,
        context_tokens=info.context_tokens,
        always_load=always_load,
        max_running=info.max_sequences,
        max_waiting=64,
        step_tokens=64,
    )
    settings = replace(settings or LedgerSettings(), path=str(directory / "books.db"), price_book=str(book))
    text = FakeText(info)
    tiers = LocalTiers(host_bytes, None)
    clock = MonotonicClock()
    with mock.patch.object(start, "open_store", lambda url: wrap(open_store(url))):
        ledger = open_ledger(
            settings, policy, MODEL, now_us=clock.now_us(), wall_us=WALL_US, node=node, budgets=budgets
        )
    driver = Driver(engine, text, tiers, Scheduler(policy), clock=clock, books=ledger.keeper)
    driver.start()
    books = Books(ledger.store, ledger)
    server_settings = server_settings or ServerSettings(port=0, drain_s=5.0, keep_alive_s=5.0)
    try:
        with BackgroundServer(
            driver, text, server_settings, keys, books, library, batches=batches, vectors=vectors
        ) as server:
            yield Kept(server, driver, ledger)
    finally:
        driver.stop(5.0)
        ledger.close()
