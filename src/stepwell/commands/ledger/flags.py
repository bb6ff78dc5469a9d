"""What all commands of ``stepwell ledger`` have in common: which books, which time, whose."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from stepwell.errors import BadInput
from stepwell.ledger.base import NoLedger, Store
from stepwell.ledger.pricing.costs import Rates, load_cost_book
from stepwell.ledger.reading.grouping import Group
from stepwell.ledger.reading.margin import PeriodSums, read_sums
from stepwell.ledger.reading.queries import LAST_US, Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.start import default_path
from stepwell.ledger.stores.open import POSTGRES_SCHEMES, open_store
from stepwell.settings.file import load
from stepwell.settings.keys import key_ring

Ledger = Annotated[
    str | None,
    Parameter(
        name="--ledger",
        help="The ledger: a file, or postgresql://... Default: as for 'serve'.",
    ),
]
Config = Annotated[
    Path | None,
    Parameter(
        name="--config", help="The server's settings file, which says where its ledger is. [$STEPWELL_CONFIG]"
    ),
]
Since = Annotated[
    str | None,
    Parameter(help="From when on: a date (2026-11-22), a time (2026-11-22T10:00), or 7d, 24h, 30min."),
]
Until = Annotated[str | None, Parameter(help="Until when, exclusive; written like --since.")]
Tenant = Annotated[str | None, Parameter(help="One tenant and its projects alone.")]
Timezone = Annotated[
    str,
    Parameter(
        name=("--timezone", "--tz"),
        help="Where days, weeks and months begin, and what times without an offset mean: Europe/Berlin.",
    ),
]
Limit = Annotated[int, Parameter(help="Most lines of a table; --json has all.")]
CostBook = Annotated[
    str | None,
    Parameter(help="A cost book (preset or TOML file) in place of the one that each run had."),
]
PriceBookFlag = Annotated[
    str | None,
    Parameter(
        name="--price-book",
        help="What it would have cost by this price book (preset or TOML file), request by request.",
    ),
]

_AGO = re.compile(r"(\d{1,6})(min|h|d|w)", re.ASCII)
_AGO_S = {"min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@contextmanager
def opened(ledger: str | None, config: Path | None = None) -> Iterator[Store]:
    """The books, for reading, as they stand now: a server may write meanwhile."""
    store = open_store(existing(ledger, config), create=False)
    try:
        with store.snapshot():
            yield store
    finally:
        store.close()


def existing(ledger: str | None, config: Path | None) -> str:
    """The books that were named, or those of the settings. ``NoLedger`` where the settings' are not there
    and the settings were not named."""
    if ledger is not None:
        return ledger
    path = usual_ledger(config)
    if config is None and not path.startswith(POSTGRES_SCHEMES) and not Path(path).expanduser().exists():
        raise NoLedger(
            f"there is no ledger at {path}: name it with --ledger, or the server's settings with --config"
        )
    return path


def usual_ledger(config: Path | None = None) -> str:
    """Where ``serve`` keeps its books by the same settings file and environment."""
    path = load(config).ledger.path
    if path == NO_LEDGER:
        raise BadInput("the settings say that no ledger is kept (ledger.path): name one with --ledger")
    return path if path is not None else str(default_path())


def period(since: str | None, until: str | None, zone: tzinfo = UTC) -> Period:
    """Raises ``BadInput``."""
    now_s = time.time()
    since_us = 0 if since is None else _moment_us("--since", since, now_s, zone)
    until_us = LAST_US if until is None else _moment_us("--until", until, now_s, zone)
    if since_us >= until_us:
        raise BadInput("--since must lie before --until")
    return Period(since_us, until_us)


def _moment_us(flag: str, text: str, now_s: float, zone: tzinfo) -> int:
    if (ago := _AGO.fullmatch(text.strip())) is not None:
        return max(0, int((now_s - int(ago[1]) * _AGO_S[ago[2]]) * 1_000_000))
    try:
        moment = datetime.fromisoformat(text.strip())
        return int((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"{flag} {text!r} is no moment: write 2026-11-22, 2026-11-22T10:00, or 7d, 24h, 30min ago"
        ) from error


def said(asked: Period) -> str:
    """The period in words."""
    start = "the beginning" if asked.since_us == 0 else _iso(asked.since_us)
    return f"from {start} until {'now' if asked.until_us == LAST_US else _iso(asked.until_us)}"


def as_json(asked: Period) -> dict[str, Any]:
    """Open ends are null."""
    return {
        "since": None if asked.since_us == 0 else _iso(asked.since_us),
        "until": None if asked.until_us == LAST_US else _iso(asked.until_us),
    }


def _iso(at_us: int) -> str:
    moment = datetime.fromtimestamp(at_us / 1_000_000, UTC)
    return f"{moment:%Y-%m-%d}" if at_us % 86_400_000_000 == 0 else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def sums_and_rates(store: Store, asked: Period, cost_book: str | None) -> tuple[PeriodSums, dict[int, Rates]]:
    """What margins are made of. Raises ``BadInput`` for a book that cannot be read."""
    book = None if cost_book is None else load_cost_book(cost_book)
    with working("adding up postings"):
        sums = read_sums(store, asked)
    seen = {flow.run for flow in sums.flows} | {one.run for one in sums.displaced}
    return sums, rates_of((run for run in runs(store) if run.id in seen), book)


def key_names(config: Path | None = None) -> dict[str, str]:
    """What the settings call the API keys, by their ids in the books; without settings, nothing."""
    try:
        settings = load(config)
        ring = key_ring(settings)
    except BadInput:
        return {}
    return {key.id: key.name for key in ring.all() if key.name}


def with_key_names(fields: Sequence[str], group: Group, names: Mapping[str, str]) -> Group:
    """A group for people."""
    return tuple(
        f"{names[value]} ({value})" if name == "key" and value in names else value
        for name, value in zip(fields, group, strict=True)
    )


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says so on a terminal while it takes a while."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield
