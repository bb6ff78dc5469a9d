"""``stepwell ledger backup``: a copy of the books while the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from stepwell.basics.units import counted
from stepwell.commands.ledger.flags import Config, Ledger, existing
from stepwell.errors import BadInput
from stepwell.ledger.stores.backup import back_up
from stepwell.ledger.stores.open import POSTGRES_SCHEMES, open_store


def backup(
    file: Annotated[Path, Parameter(help="A file that is not there yet.")],
    *,
    ledger: Ledger = None,
    config: Config = None,
) -> int:
    """Copy the books as they stand at one moment. A server may go on writing meanwhile.

    To restore: stop the server, put the copy in the ledger's place, remove the files beside it that end in
    ``-wal`` and ``-shm``, and start the server again. A ledger in PostgreSQL is copied with pg_dump.

    Example: ``stepwell ledger backup books-2026-11-29.db``
    """
    name = existing(ledger, config)
    if name.startswith(POSTGRES_SCHEMES):
        raise BadInput("a ledger in PostgreSQL is copied with pg_dump, and restored with pg_restore")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("copying pages", total=None)
        back_up(
            Path(name).expanduser(), file, lambda done, total: bar.update(task, completed=done, total=total)
        )
    store = open_store(file, create=False)
    try:
        ((runs,),) = store.rows("SELECT COUNT(*) FROM runs")
        ((postings,),) = store.rows("SELECT COUNT(*) FROM postings")
    finally:
        store.close()
    held = f"{counted(runs, 'run')}, {counted(postings, 'posting')}"
    check = f"'stepwell ledger verify --ledger {file}' checks it"
    Console(highlight=False).print(
        f"{file}: {held}; {check}",
        markup=False,
        soft_wrap=True,
    )
    return 0
