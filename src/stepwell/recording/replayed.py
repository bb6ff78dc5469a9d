"""The books of a run once more, from its recording: what ``stepwell ledger verify`` holds them against.

The policy decides every recorded step again and a fresh meter watches it, told the same things in the same
order as by the driver. So nothing of the ledger is read here but the price book, which the recording names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stepwell.errors import BadInput
from stepwell.ledger.metering.meter import Meter
from stepwell.ledger.metering.metered import Entries, ran_pieces
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.prices import parse_price_book
from stepwell.ledger.reading.queries import RunRow
from stepwell.ledger.reading.verify import Replay, Replayed
from stepwell.ledger.stores.sqlstore import plain
from stepwell.ledger.types import Account, Resource
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Computed, Plan
from stepwell.recording.file import RecordedStep, Recording, RecordingError, open_recording


def replay_books(path: Path, last_batch: int | None = None) -> Replayed:
    """Balances and totals after ``last_batch``, or of the whole run, closed, when that is None.

    Raises ``RecordingError``: it belongs to no ledger, is damaged, ends before that batch, or decides
    differently (another version of Stepwell made it).
    """
    with open_recording(path, cut_off=True) as recording:
        return _replay(recording, last_batch)


def replay_of(paths: Iterable[Path]) -> Replay:
    """For ``verify``: plays a run again if one of these recordings is its own. Each is of one run.

    Raises ``RecordingError`` for what is not a recording of a run with books, ``BadInput`` for two of one.
    """
    by_run: dict[tuple[int, int], Path] = {}
    for path in paths:
        with open_recording(path, cut_off=True) as recording:
            header = _header(recording)
        run = header.run, header.wall_us
        if run in by_run:
            raise BadInput(f"{by_run[run]} and {path} are recordings of the same run")
        by_run[run] = path

    def replay(run: RunRow) -> Replayed | None:
        path = by_run.get((run.id, run.started_at_us))
        return None if path is None else replay_books(path, run.last_batch)

    return replay


@dataclass(frozen=True, slots=True)
class _Header:
    """What a recording says of its ledger; see ``Ledger.header``."""

    run: int
    now_us: int
    wall_us: int
    storage_every_us: int
    model: str
    price_book: str


def _header(recording: Recording) -> _Header:
    if recording.ledger is None:
        raise RecordingError(f"{recording.path} was made by a server that kept no ledger")
    try:
        return msgspec.convert(recording.ledger, _Header)
    except msgspec.ValidationError as error:
        raise RecordingError(f"{recording.path}: what it says of its ledger is damaged ({error})") from error


@dataclass(slots=True)
class _Books:
    """Postings added up, in batches numbered as the driver's keeper does."""

    batches: int = 0
    balances: dict[Account, dict[Resource, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )

    def add(self, entries: Entries) -> None:
        if not (entries.postings or entries.usage or entries.positions):
            return
        self.batches += 1
        for debit, credit, resource, amount, *_ in entries.postings:
            self.balances[debit][resource] -= amount
            self.balances[credit][resource] += amount

    def as_stored(self) -> dict[Account, dict[Resource, int]]:
        """A store takes no NUL bytes and the like in names."""
        stored: dict[Account, dict[Resource, int]] = defaultdict(lambda: defaultdict(int))
        for account, amounts in self.balances.items():
            name = Account(account.kind, *map(plain, account[1:]))
            for resource, amount in amounts.items():
                stored[name][resource] += amount
        return stored


def _replay(recording: Recording, last_batch: int | None) -> Replayed:
    meter, books = _meter(recording), _Books()
    if last_batch != 0:
        for entries in _entries(recording, meter):
            books.add(entries)
            if books.batches == last_batch:
                break
        else:
            books.add(meter.close())
    if last_batch is not None and books.batches != last_batch:
        raise RecordingError(
            f"{recording.path} ends with what is batch {books.batches:,} in the books, and they go on to "
            f"batch {last_batch:,}: it is not whole"
        )
    return Replayed(dict(meter.totals), books.as_stored())


def _meter(recording: Recording) -> Meter:
    header = _header(recording)
    prices = parse_price_book(header.price_book, str(recording.path))
    bills = Bills(prices.of(header.model), header.model, header.wall_us - header.now_us)
    return Meter(recording.config, bills, header.now_us, storage_every_us=header.storage_every_us)


def _entries(recording: Recording, meter: Meter) -> Iterator[Entries]:
    scheduler, log, plan = Scheduler(recording.config), DecisionLog(), Plan()
    for step in recording.steps:
        # As in the loop: a batch is metered when it has run, by what was measured until then.
        for event in step.events:
            if isinstance(event, Computed):
                meter.ran(event, ran_pieces(step.events, plan))
        plan = scheduler.step(step.now_us, step.events)
        _require_same(recording, step, log, plan)
        yield meter.step(step.now_us, step.events, plan)


def _require_same(recording: Recording, step: RecordedStep, log: DecisionLog, plan: Plan) -> None:
    log.add(step.now_us, plan)
    if log.digest[:16] != step.digest:
        raise RecordingError(
            f"{recording.path} decides differently from line {step.line} on; was it made by another version?"
        )
