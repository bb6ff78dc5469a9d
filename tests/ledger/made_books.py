"""A ledger whose every entry a test can add up itself: two runs, three tenants, crews, corrections."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.ledger.base import PostingBatch, Run, Store
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    MACHINE_RESOURCES,
    OVERHEAD,
    REVENUE,
    UNATTRIBUTED,
    Account,
    Cause,
    Kind,
    Posting,
    Resource,
    Usage,
)

START_S = 1_795_305_600
"""2026-11-22, midnight UTC."""
START_US = START_S * 1_000_000
HOUR_US = 3_600_000_000
MODEL = "tiny"
COST_BOOK = """
[accelerator]
hourly_usd = 3.6
memory_share = 0.5
[host_memory]
usd_per_gb = 8.76
years = 1
[disk]
usd_per_gb = 1
years = 1
drive_writes_per_day = 1
"""
CONFIG = json.dumps({"device_blocks": 10, "block_bytes": 100, "host_bytes": 4_000, "disk_bytes": 9_000})


def agent(
    tenant: str, session: str, name: str, parent: str = "", role: str = "", service_tier: str = "default"
) -> Account:
    key = f"key_{tenant.partition('/')[0]}"
    return Account(Kind.AGENT, tenant, key, service_tier, session, name, parent, role)


LEAD = agent("acme", "s1", "s1", role="lead", service_tier="priority")
READER = agent("acme", "s1", "s1/reader", "s1", "reader", "priority")
SEARCH = agent("acme/search", "s2", "s2", role="lead")
RIVAL = agent("rival", "s1", "s1", role="lead", service_tier="flex")
RIVAL_READER = agent("rival", "s1", "s1/reader", "s1", "reader", "flex")
AGENTS = (LEAD, READER, SEARCH, RIVAL, RIVAL_READER)


@dataclass
class Writer:
    """Keeps the batches of one run in step with its totals."""

    store: Store
    run: int
    at_us: int
    number: int = 0
    totals: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((r.value for r in MACHINE_RESOURCES), 0)
    )
    postings: list[Posting] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)

    @classmethod
    def begin(cls, store: Store, node: str, at_us: int = START_US, cost_book: str = COST_BOOK) -> Writer:
        return cls(store, store.begin(Run(node, at_us, MODEL, CONFIG, cost_book, "")), at_us)

    def write(self, postings: Sequence[Posting] = (), usage: Sequence[Usage] = (), after_us: int = 0) -> None:
        self.number += 1
        self.at_us += after_us
        for posting in postings:
            if posting.debit == MACHINE:
                self.totals[posting.resource.value] += posting.amount
        self.postings += postings
        self.usage += usage
        self.store.write(
            self.run, PostingBatch(self.number, self.at_us, self.at_us, postings, usage, totals=self.totals)
        )

    def settle(self, usage: Usage, after_us: int = 0) -> None:
        """A request that ended: held twice its charge, settled, the rest released."""
        customer, held = (Account(kind, usage.account.tenant) for kind in (Kind.CUSTOMER, Kind.HELD))
        charge, request = usage.charge_microusd, usage.request
        money = [
            Posting(customer, held, Resource.MONEY, 2 * charge, Cause.HOLD, request),
            Posting(held, REVENUE, Resource.MONEY, charge, Cause.SETTLE, request),
            Posting(held, customer, Resource.MONEY, charge, Cause.RELEASE, request),
        ]
        self.write(money if charge else [], [usage], after_us)

    def correct(self, usage: Usage) -> None:
        """More is charged afterwards, or less."""
        customer, more = Account(Kind.CUSTOMER, usage.account.tenant), usage.charge_microusd
        pair = (customer, REVENUE) if more > 0 else (REVENUE, customer)
        self.write([Posting(*pair, Resource.MONEY, abs(more), Cause.CORRECTION, usage.request)], [usage])

    def end(self) -> None:
        self.store.end(self.run, self.at_us)


def used(account: Account, request: int, at_us: int, charge_microusd: int, **counts: int) -> Usage:
    return Usage(request, account, MODEL, "stop", at_us, charge_microusd=charge_microusd, **counts)


def gave(account: Account, resource: Resource, amount: int, request: int = 0) -> Posting:
    cause = Cause.REST if account in (IDLE, OVERHEAD) else Cause.STEP if request else Cause.STORAGE
    return Posting(MACHINE, account, resource, amount, cause, request)


def first_run(writer: Writer) -> None:
    """Three customers, two of them with a crew; the rival's flex crew loses room to acme's priority crew."""
    compute, device, host, disk = Resource.COMPUTE, Resource.DEVICE, Resource.HOST, Resource.DISK
    writer.write(
        [
            gave(LEAD, compute, 3_000_001, 1),
            gave(READER, compute, 1_000_000, 2),
            gave(RIVAL, compute, 2_500_000, 3),
            gave(RIVAL_READER, compute, 700_000, 4),
            gave(SEARCH, compute, 99_999, 5),
            gave(UNATTRIBUTED, compute, 1_234),
            gave(OVERHEAD, compute, 40_000),
            gave(IDLE, compute, 2_000_000),
        ],
        after_us=9_341_234,
    )
    writer.write(
        [
            gave(LEAD, device, 400 * 9_000_000, 1),
            gave(READER, device, 77 * 9_000_001, 2),
            gave(RIVAL, host, 2_000 * 5_000_000),
            gave(RIVAL_READER, disk, 5_000 * 5_000_000),
            gave(RIVAL, device, 100 * 1_000_000),
            gave(IDLE, device, 423 * 9_000_000),
            gave(IDLE, host, 12_345_678_901),
            gave(IDLE, disk, 55_555_555_555),
            gave(RIVAL_READER, Resource.WRITTEN, 1_000_003),
            gave(RIVAL, Resource.STORED, 64_000),
            gave(RIVAL, Resource.LOADED, 64_000, 3),
            Posting(RIVAL, LEAD, Resource.DISPLACED, 600_000, Cause.DISPLACED, 3),
            Posting(RIVAL_READER, READER, Resource.DISPLACED, 50_000, Cause.DISPLACED, 4),
        ]
    )
    at = writer.at_us
    writer.settle(
        used(
            LEAD, 1, at, 9_000, input_tokens=1_000, cached_tokens=600, visible_tokens=100, recomputed_tokens=7
        )
    )
    writer.settle(used(READER, 2, at, 3_001, input_tokens=400, cached_tokens=0, intermediate_tokens=250))
    writer.settle(
        used(RIVAL, 3, at + HOUR_US, 777, input_tokens=500, cached_tokens=64, visible_tokens=40), HOUR_US
    )
    writer.settle(used(RIVAL_READER, 4, at + HOUR_US, 0, input_tokens=50, intermediate_tokens=90))
    writer.settle(used(SEARCH, 5, at + 30 * HOUR_US, 120, input_tokens=30, visible_tokens=9), 29 * HOUR_US)


def second_run(writer: Writer) -> None:
    """Days later on another machine, with a correction in it."""
    writer.write([gave(SEARCH, Resource.COMPUTE, 5_000_000, 1), gave(IDLE, Resource.COMPUTE, 5_000_000)])
    usage = used(SEARCH, 1, writer.at_us + 1, 600, input_tokens=64, visible_tokens=32)
    writer.settle(usage, 1)
    writer.correct(
        Usage(1, SEARCH, MODEL, "stop", writer.at_us, requests=0, charge_microusd=-50, cause=Cause.CORRECTION)
    )


@dataclass
class Books:
    """An open ledger and all that went into it."""

    path: Path
    store: SqliteStore
    writers: list[Writer]

    @property
    def usage(self) -> list[Usage]:
        return [usage for writer in self.writers for usage in writer.usage]

    def postings(self, resource: Resource) -> list[tuple[int, Posting]]:
        """With the run each is of."""
        return [(w.run, p) for w in self.writers for p in w.postings if p.resource is resource]

    def unguarded(self) -> sqlite3.Connection:
        """A connection that may do what nobody should be able to: change what is written."""
        connection = sqlite3.connect(self.path)
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in found:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        return connection

    def corrupt(self, sql: str) -> None:
        connection = self.unguarded()
        assert connection.execute(sql).rowcount != 0
        connection.commit()
        connection.close()


def made_books(directory: Path) -> Books:
    """Written into a file, both runs ended."""
    path = directory / "ledger.db"
    store = SqliteStore(path)
    return Books(path, store, write_runs(store))


def write_runs(store: Store) -> list[Writer]:
    """The two runs, in any store."""
    first = Writer.begin(store, "one")
    first_run(first)
    first.end()
    second = Writer.begin(store, "two", START_US + 40 * HOUR_US)
    second_run(second)
    second.end()
    return [first, second]
