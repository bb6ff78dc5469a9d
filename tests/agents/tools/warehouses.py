"""A real PostgreSQL with a small shop in it, and a role with a password that may read some of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from tests.ledger.postgres_server import Server, running_server

PASSWORD = "hunter2/%s?:@x"
QUOTED = "hunter2%2F%25s%3F%3A%40x"
SHOP = """
CREATE TABLE orders (id bigint PRIMARY KEY, "the note" text, "Amount" numeric(10, 2), free numeric,
    at timestamptz, seen timestamp, day date, clock time, what jsonb, key uuid, list int[], span interval,
    bytes bytea, ok boolean, small smallint, share real);
INSERT INTO orders SELECT n, 'x|' || n, n * 1.5, n / 7.0, '2026-01-01 10:00+05', '2026-01-02 03:04:05.678',
    '2026-01-03', '10:11', '{"a": [1, null]}', '00000000-0000-4000-8000-000000000001', '{1,2}', '1 day',
    '\\x00ff', n % 2 = 0, n, 0.5 FROM generate_series(1, 100) n;
INSERT INTO orders (id) VALUES (9223372036854775807);
CREATE TABLE "Big Table" AS SELECT n FROM generate_series(1, 1000000) n;
CREATE TABLE empty (x int, y text);
CREATE TABLE infinite AS SELECT 'infinity'::timestamp AS at, 'NaN'::numeric AS number, 1e40::numeric AS huge;
CREATE TABLE hidden (secret text);
CREATE SCHEMA other;
CREATE TABLE other.orders (x int);
CREATE TABLE other.single (x int);
INSERT INTO other.single VALUES (7);
CREATE VIEW recent AS SELECT id, "Amount" FROM orders WHERE id > 98;
CREATE FUNCTION harmful() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION harm() RETURNS bigint LANGUAGE plpgsql AS
    'DECLARE n bigint; BEGIN DELETE FROM orders; GET DIAGNOSTICS n = ROW_COUNT; RETURN n; END';
CREATE FUNCTION sly() RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT harm()';
CREATE ROLE reader LOGIN PASSWORD 'hunter2/%s?:@x';
GRANT USAGE ON SCHEMA other TO reader;
GRANT SELECT ON orders, "Big Table", empty, infinite, recent, other.orders, other.single TO reader;
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """The server, and the URL of the role with a password."""

    server: Server
    url: str

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """As its owner sees it."""
        with psycopg.connect(self.server.url("shop")) as connection:
            return list(connection.execute(sql))


@contextmanager
def running_shop() -> Iterator[Shop]:
    """Skips where PostgreSQL is not installed."""
    with running_server() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        wide = ", ".join(f"c{n} int DEFAULT {n}" for n in range(600))
        with psycopg.connect(server.url("shop"), autocommit=True) as connection:
            connection.execute(SHOP)
            connection.execute(f"CREATE TABLE wide ({wide}); INSERT INTO wide DEFAULT VALUES")
            connection.execute("GRANT SELECT ON wide TO reader")
            connection.execute("ANALYZE")
            asks = server.data / "pg_hba.conf"
            asks.write_text("host all reader 127.0.0.1/32 scram-sha-256\n" + asks.read_text("utf-8"))
            connection.execute("SELECT pg_reload_conf()")
        yield Shop(server, f"postgresql://reader:{QUOTED}@127.0.0.1:{server.port}/shop")
