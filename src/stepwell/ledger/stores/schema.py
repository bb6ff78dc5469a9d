"""The ledger's tables, once for SQLite and once for PostgreSQL, and how older ones become newer ones.

Resources and causes are kept as the words that they are: numbers in their place would make the file a little
smaller and writing a little quicker, and a person who opens the books with another program would have to
look them up.

Postings have two indexes: the primary key, which makes a batch unrepeatable and keeps a run's entries
together, and the time, which statements ask for. Both only grow at their end. An index on accounts would not,
and writing would take several times as long; a question about one account reads the time it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepwell.ledger.base import LedgerError
from stepwell.ledger.types import MAX_AMOUNT

VERSION = 3
APPLICATION_ID = 0x53575031
"""Marks an SQLite file as a Stepwell ledger."""

APPEND_ONLY = ("postings", "usage", "budgets")
"""Of version 1; ``daily`` came with version 2, and ``postings`` may then leave for it."""

ACCOUNT_FIELDS = ("kind", "tenant", "key", "service_tier", "session", "agent", "parent_agent", "role")
_ACCOUNT_COLUMNS = ",\n    ".join(f"{name} TEXT NOT NULL" for name in ACCOUNT_FIELDS)

USAGE_COUNTS = (
    "requests",
    "input_tokens",
    "cached_tokens",
    "visible_tokens",
    "intermediate_tokens",
    "recomputed_tokens",
    "charge_microusd",
    "ttft_us",
    "e2e_us",
)
_USAGE_COLUMNS = ",\n    ".join(f"{name} {{integer}} NOT NULL" for name in USAGE_COUNTS)

TABLES = f"""
CREATE TABLE accounts (
    id {{identity}},
    {_ACCOUNT_COLUMNS},
    digest TEXT NOT NULL UNIQUE
) {{strict}};
CREATE TABLE runs (
    id {{identity}},
    node TEXT NOT NULL,
    started_at_us {{integer}} NOT NULL,
    ended_at_us {{integer}},
    last_batch {{integer}} NOT NULL DEFAULT 0,
    last_at_us {{integer}} NOT NULL,
    last_now_us {{integer}} NOT NULL DEFAULT 0,
    model TEXT NOT NULL,
    config TEXT NOT NULL,
    cost_book TEXT NOT NULL,
    price_book TEXT NOT NULL,
    totals TEXT NOT NULL DEFAULT '{{{{}}}}'
) {{strict}};
CREATE TABLE postings (
    run {{integer}} NOT NULL,
    batch {{integer}} NOT NULL,
    n {{integer}} NOT NULL,
    at_us {{integer}} NOT NULL,
    debit {{integer}} NOT NULL,
    credit {{integer}} NOT NULL,
    resource TEXT NOT NULL,
    amount {{integer}} NOT NULL CHECK (amount > 0 AND amount <= {MAX_AMOUNT}),
    cause TEXT NOT NULL,
    request {{integer}} NOT NULL,
    CHECK (debit <> credit),
    PRIMARY KEY (run, batch, n)
) {{clustered}};
CREATE INDEX postings_at ON postings (at_us);
CREATE TABLE usage (
    run {{integer}} NOT NULL,
    batch {{integer}} NOT NULL,
    n {{integer}} NOT NULL,
    at_us {{integer}} NOT NULL,
    request {{integer}} NOT NULL,
    account {{integer}} NOT NULL,
    model TEXT NOT NULL,
    reason TEXT NOT NULL,
    {_USAGE_COLUMNS},
    cause TEXT NOT NULL,
    PRIMARY KEY (run, batch, n)
) {{clustered}};
CREATE INDEX usage_at ON usage (at_us);
CREATE INDEX usage_account ON usage (account, at_us);
CREATE TABLE budgets (
    id {{identity}},
    at_us {{integer}} NOT NULL,
    scope TEXT NOT NULL,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    soft_microusd {{integer}} CHECK (soft_microusd >= 0),
    hard_microusd {{integer}} CHECK (hard_microusd >= 0),
    actor TEXT NOT NULL
) {{strict}};
CREATE TABLE positions (
    run {{integer}} NOT NULL,
    account {{integer}} NOT NULL,
    device_bytes {{integer}} NOT NULL,
    host_bytes {{integer}} NOT NULL,
    disk_bytes {{integer}} NOT NULL,
    as_of_us {{integer}} NOT NULL,
    PRIMARY KEY (run, account)
) {{clustered}};
"""

SQLITE_GUARDS = tuple(
    f"CREATE TRIGGER {table}_keep_{event.lower()} BEFORE {event} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    for table in APPEND_ONLY
    for event in ("UPDATE", "DELETE")
)
POSTGRES_GUARDS = (
    "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$",
    *(
        f"CREATE TRIGGER {table}_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION keep()"
        for table in APPEND_ONLY
    ),
)

COMPACTION = (
    "ALTER TABLE runs ADD COLUMN compacted_batch {integer} NOT NULL DEFAULT 0",
    """
    CREATE TABLE daily (
        run {integer} NOT NULL,
        batch {integer} NOT NULL,
        at_us {integer} NOT NULL,
        debit {integer} NOT NULL,
        credit {integer} NOT NULL,
        resource TEXT NOT NULL,
        cause TEXT NOT NULL,
        request {integer} NOT NULL,
        high {integer} NOT NULL CHECK (high >= 0),
        low {integer} NOT NULL CHECK (low >= 0),
        CHECK (debit <> credit),
        PRIMARY KEY (run, batch, at_us, debit, credit, resource, cause, request)
    ) {clustered}
    """,
    "CREATE INDEX daily_at ON daily (at_us)",
    """
    CREATE VIEW entries AS
        SELECT run, batch, at_us, debit, credit, resource, cause, request,
            amount >> 32 AS high, amount & 4294967295 AS low FROM postings
        UNION ALL
        SELECT run, batch, at_us, debit, credit, resource, cause, request, high, low FROM daily
    """,
)
"""Version 2. ``daily`` holds what many postings of one UTC day came to (``high * 2**32 + low``): ``at_us`` is
the day's beginning, ``batch`` the last batch that is in it, and ``request`` 0 for postings without one, -1
for those of many, or the one whose hold was open when its first postings were added up. Batches up to
``runs.compacted_batch`` are in ``daily`` and no longer in ``postings``. ``entries`` is both together."""
_COMPACTED = "COALESCE((SELECT compacted_batch FROM runs WHERE id = OLD.run), 0)"
SQLITE_COMPACTION = (
    "DROP TRIGGER postings_keep_delete",
    f"CREATE TRIGGER postings_keep_delete BEFORE DELETE ON postings WHEN OLD.batch > {_COMPACTED} "
    "BEGIN SELECT RAISE(ABORT, 'postings is append-only'); END",
    *(
        f"CREATE TRIGGER daily_keep_{event.lower()} BEFORE {event} ON daily "
        "BEGIN SELECT RAISE(ABORT, 'daily is append-only'); END"
        for event in ("UPDATE", "DELETE")
    ),
)
POSTGRES_COMPACTION = (
    "CREATE FUNCTION keep_uncompacted() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN IF OLD.batch > {_COMPACTED} THEN "
    "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END IF; RETURN OLD; END $$",
    "DROP TRIGGER postings_keep ON postings",
    "CREATE TRIGGER postings_keep BEFORE UPDATE OR TRUNCATE ON postings "
    "FOR EACH STATEMENT EXECUTE FUNCTION keep()",
    "CREATE TRIGGER postings_keep_uncompacted BEFORE DELETE ON postings "
    "FOR EACH ROW EXECUTE FUNCTION keep_uncompacted()",
    "CREATE TRIGGER daily_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON daily "
    "FOR EACH STATEMENT EXECUTE FUNCTION keep()",
)


LEASES = (
    """
    CREATE TABLE budget_leases (
        scope TEXT NOT NULL,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        node TEXT NOT NULL,
        granted_microusd {integer} NOT NULL,
        short {integer} NOT NULL,
        until_us {integer} NOT NULL,
        PRIMARY KEY (scope, tenant, name, node)
    ) {clustered}
    """,
    "CREATE INDEX accounts_tenant ON accounts (tenant, session)",
)
"""Version 3. A node's own notes, as ``positions`` are: what it may come to under a budget (``leases``).
``until_us`` is the store's clock, which for a file is the machine's since it started."""


@dataclass(frozen=True, slots=True)
class SqlDialect:
    """What the two databases call the same thing."""

    integer: str
    identity: str
    strict: str
    """After a table: no other types than declared."""
    clustered: str
    """The same, for tables that lie in the order of their primary key."""
    guards: tuple[str, ...]
    """Statements that make APPEND_ONLY tables refuse changes."""
    compaction: tuple[str, ...]
    """What version 2 changes about that."""


SQLITE = SqlDialect(
    "INTEGER", "INTEGER PRIMARY KEY", "STRICT", "STRICT, WITHOUT ROWID", SQLITE_GUARDS, SQLITE_COMPACTION
)
POSTGRES = SqlDialect(
    "BIGINT",
    "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    "",
    "",
    POSTGRES_GUARDS,
    POSTGRES_COMPACTION,
)

MIGRATIONS: dict[int, Callable[[SqlDialect], Sequence[str]]] = {
    1: lambda dialect: (*(_worded(one, dialect) for one in COMPACTION), *dialect.compaction),
    2: lambda dialect: [_worded(one, dialect) for one in LEASES],
}
"""From that version to the next. New books are made as version 1 and brought up to date in the same way."""


def statements(dialect: SqlDialect, found: int, where: str) -> Sequence[str]:
    """What brings the tables of version ``found`` (0: there are none) to VERSION. ``LedgerError`` when a
    newer Stepwell made them."""
    if found > VERSION:
        raise LedgerError(
            f"{where} has tables of version {found}, and this Stepwell knows {VERSION}: use a newer Stepwell"
        )
    begin = [] if found else [*_creation(dialect), *dialect.guards]
    newer = [one for version in range(max(1, found), VERSION) for one in MIGRATIONS[version](dialect)]
    return [*begin, *newer]


def require_current(found: int, where: str) -> None:
    """A reader does not change tables. ``LedgerError`` when they are not those of VERSION."""
    if found == 0:
        raise LedgerError(f"{where} is empty: nothing was ever entered")
    if found < VERSION:
        raise LedgerError(
            f"{where} has tables of version {found}, and this Stepwell reads {VERSION}: "
            "start a server on it once, which brings them up to date"
        )


def _creation(dialect: SqlDialect) -> list[str]:
    text = _worded(TABLES, dialect)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _worded(text: str, dialect: SqlDialect) -> str:
    return text.format(
        integer=dialect.integer,
        identity=dialect.identity,
        strict=dialect.strict,
        clustered=dialect.clustered,
    )
