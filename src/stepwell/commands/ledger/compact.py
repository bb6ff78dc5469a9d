"""``stepwell ledger compact``: old postings as daily balances."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import Progress

from stepwell.commands.ledger.flags import Config, Ledger, existing
from stepwell.console.options import Flag, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.ledger.settings import LEAST_KEEP_DAYS
from stepwell.ledger.stores.compaction import Compacted, compact, cutoff_us, would_compact
from stepwell.ledger.stores.open import open_store
from stepwell.settings.file import load


def compact_books(
    *,
    keep_days: Annotated[int | None, Parameter(validator=Number(gte=LEAST_KEEP_DAYS, lte=36_500))] = None,
    dry_run: Flag = False,
    ledger: Ledger = None,
    config: Config = None,
    json_file: ResultOption = None,
) -> int:
    """Put daily balances in the place of old postings. A server may go on writing meanwhile.

    Statements, margins, bills and 'stepwell ledger verify' say the same as before; the spend log keeps its
    row for each request. What is lost is which step of an old day gave how much, so a margin of a part of
    such a day is refused. ``keep_days`` in ``[ledger]`` has a server do this once a day. The room in an
    SQLite file is used again for what comes. Example: ``stepwell ledger compact --keep-days 90 --dry-run``

    Parameters
    ----------
    keep_days
        How many whole days (UTC) stay as they are; the default is the setting.
    dry_run
        Say what would be done, and change nothing.
    """
    days = keep_days if keep_days is not None else load(config).ledger.keep_days
    if days is None:
        raise BadInput("how many days are to stay? Say --keep-days 90, or set ledger.keep_days")
    before_us = cutoff_us(time.time_ns() // 1_000, days)
    found = _done(existing(ledger, config), before_us, dry_run=dry_run)
    console = console_for(json_file)
    if dry_run:
        console.print(
            f"{found.postings:,} postings of {found.runs:,} runs from before {_day(before_us)} "
            f"would become about {found.balances:,} daily balances; nothing was changed",
            soft_wrap=True,
        )
    else:
        console.print(f"{found.sentence}, from before {_day(before_us)}", soft_wrap=True)
    write_json(json_file, asdict(found) | {"before_us": before_us, "dry_run": dry_run})
    return 0


def _done(name: str, before_us: int, *, dry_run: bool) -> Compacted:
    store = open_store(name, create=False)
    console = Console(stderr=True)
    try:
        if dry_run:
            return would_compact(store, before_us)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("adding up runs", total=None)
            return compact(
                store, before_us, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    finally:
        store.close()


def _day(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%d}"
