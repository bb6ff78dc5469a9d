"""``stepwell ledger verify``: are the books right?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from stepwell.basics.units import counted
from stepwell.commands.ledger.flags import Config, Ledger, opened
from stepwell.commands.ledger.tables import printable
from stepwell.console.options import ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.ledger.reading import verify as verifying
from stepwell.recording.replayed import replay_of

MOST_LINES = 20


def verify(
    *,
    ledger: Ledger = None,
    config: Config = None,
    recording: tuple[Path, ...] = (),
    json_file: ResultOption = None,
) -> int:
    """Add up every posting again and name whatever is not as it should be. Changes nothing.

    Checked for every run: each resource sums to zero over all accounts; what went out of the machine is what
    it gave; what went to revenue is what customers were charged; nothing is held any more when the run has
    ended; no entry was taken out, none goes back in time, none moves nothing or names an account that is not
    there. A server may go on writing meanwhile. Example: ``stepwell ledger verify``

    With ``--recording`` everything that the recorded run has entered is made once more from its events and
    compared, to the last microsecond and byte. Example: ``stepwell ledger verify --recording run.jsonl``

    Exit code 0: the books are right; 1: they are not, or cannot be read.

    Parameters
    ----------
    recording
        What ``stepwell serve --record FILE`` has written while these books were kept; may be given again for
        other runs.
    """
    with opened(ledger, config) as store, _progress() as advance:
        found = verifying.verify(store, replay_of(recording), advance)
    if (strangers := len(recording) - found.replayed) > 0:
        raise BadInput(f"{strangers} of {len(recording)} recordings are of runs that are not in these books")
    console = console_for(json_file)
    for difference in found.differences[:MOST_LINES]:
        console.print(printable(difference.sentence), markup=False, soft_wrap=True)
    if (more := len(found.differences) - MOST_LINES) > 0:
        console.print(f"and {more:,} more (--json has them)")
    looked_at = f"{counted(found.postings, 'posting')}, {counted(found.accounts, 'account')}"
    looked_at += f", {counted(found.runs, 'run')}"
    if found.balances:
        looked_at += f", {found.balances:,} daily balances"
    if recording:
        looked_at += f", {found.replayed:,} made again from recordings"
    if found.differences:
        console.print(
            f"The books are wrong: {len(found.differences):,} differences in {looked_at}", style="red"
        )
    else:
        console.print(f"The books are right: {looked_at}", style="green", soft_wrap=True)
    write_json(json_file, asdict(found) | {"right": not found.differences})
    return 1 if found.differences else 0


@contextmanager
def _progress() -> Iterator[verifying.Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("checking runs"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
